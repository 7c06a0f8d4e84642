"""The cache in a run: training from it, and the command that fills it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from radio_core.cli import UsageError
from radio_core.cli.train import cache_teachers
from radio_core.config_file import write_config
from radio_core.distill.config import TrainConfig
from radio_core.distill.groups import StageConfig
from radio_core.distill.run_folder import read_metrics
from radio_core.distill.trainer import train
from radio_core.models.config import read_weights


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of 16 views, so that few views make several."""
    monkeypatch.setattr("radio_core.distill.cache._MAX_SHARD_VIEWS", 16)


def test_training_from_the_cache_equals_training_with_the_teachers(
    tiny_run: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    """Epochs of the same whole images: from float32 to rounding, from fewer bits nearly."""
    base = tiny_run(crop_scale=(1.0, 1.0), scenes=12, max_steps=None)
    high = replace(base.stages[1].groups[1], resolutions=(64,))
    low = replace(base.stages[0].groups[0], resolutions=(64,))
    base = base.changed(
        stages=(StageConfig(steps=8, groups=(low, high)),), optim={"warmup_steps": 2}
    )
    console = Console(quiet=True)

    def run(name: str, **changes: object) -> tuple[list[dict[str, Any]], dict[str, torch.Tensor]]:
        config = base.changed(run={"out": tmp_path / name}, targets=changes)
        result = train(config, console)
        assert result.student is not None
        return read_metrics(config.run.out / "metrics.jsonl"), read_weights(result.student)

    rows, weights = run("online")
    assert len(rows) == 8
    for dtype, tolerance in (("float32", 1e-5), ("float16", 2e-3), ("int8", 2e-3)):
        cached, learnt = run(dtype, cached_views=12, cache_dtype=dtype)
        for row, same in zip(rows, cached, strict=True):
            assert same == pytest.approx(row, abs=tolerance)
        if dtype == "float32":
            for name, wanted in weights.items():
                torch.testing.assert_close(learnt[name], wanted, rtol=0, atol=1e-4)
        else:
            assert cached != rows


def test_the_command_fills_a_part_and_refuses_a_wrong_one(
    tiny_run: Callable[..., TrainConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_config(tiny_run(cached_views=40, cache_dir=tmp_path / "cache"), tmp_path / "tiny.yaml")
    options = ["toy", "--config", str(tmp_path / "tiny.yaml"), "--targets.cache-dtype", "int8"]
    for part, done in (("1/3", 16), ("0/3", 32), ("2/3", 40)):
        assert cache_teachers([*options, "--part", part]) == 0
        shown = capsys.readouterr()
        assert f"{done} of 40 views" in shown.out
        assert "stored features in int8 have an error" in " ".join(shown.err.split())
    for part in ("3/3", "1", "a/b", "-1/2"):
        with pytest.raises(UsageError, match="--part"):
            cache_teachers([*options, "--part", part])


def test_under_torchrun_each_process_fills_its_part(
    tiny_run: Callable[..., TrainConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_config(tiny_run(cached_views=40, cache_dir=tmp_path / "cache"), tmp_path / "tiny.yaml")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert cache_teachers(["toy", "--config", str(tmp_path / "tiny.yaml")]) == 0
    shards = sorted(path.name for path in (tmp_path / "cache").rglob("shard-*"))
    assert shards == ["shard-000001.safetensors"]
