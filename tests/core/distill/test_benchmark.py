"""radio bench train-step: what it measures, and how it says it."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from radio_core.bench.timing import Timing
from radio_core.cli import UsageError
from radio_core.cli.train import bench_train_step as main
from radio_core.config_file import write_config
from radio_core.distill import benchmark
from radio_core.distill.benchmark import (
    GroupTimes,
    bench_cached,
    bench_train_step,
    cached_setting,
)
from radio_core.distill.config import TrainConfig
from radio_core.models.vit import vit_config


def steady(seconds: float) -> Timing:
    return Timing((seconds,) * 3)


def test_reading_is_a_part_of_the_step_unless_workers_read_ahead() -> None:
    parts = {"data": 0.2, "teachers": 0.5, "student": 0.25, "optimizer": 0.05, "step": 1.1}
    timings = {name: steady(seconds) for name, seconds in parts.items()}
    alone = GroupTimes("g", 4, timings)
    assert alone.ratio == pytest.approx(1.1 / 1.0)
    assert replace(alone, workers=2).ratio == pytest.approx(1.1 / 0.8)
    row = alone.as_json()
    assert (row["data_ms"], row["step_ms"], row["images_per_second"]) == (200.0, 1100.0, 3.6)


def test_the_speedup_is_that_of_the_medians() -> None:
    row = GroupTimes("g", 4, {"online": steady(2.0), "cached": steady(0.5)}).as_json()
    assert (row["online_images_per_second"], row["cached_images_per_second"]) == (2.0, 8.0)
    assert row["speedup"] == 4.0


def test_every_group_of_a_recipe_is_measured(tiny_run: Callable[..., TrainConfig]) -> None:
    config = tiny_run()
    rows = bench_train_step(config, repeats=2)
    assert [row.group for row in rows] == ["clip+dino_v2@32", "sam@64"]
    assert all({len(timing.seconds) for timing in row.timings.values()} == {2} for row in rows)
    assert not config.run.out.exists()


def test_steps_from_the_cache_are_compared_with_online_ones(
    tiny_run: Callable[..., TrainConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    config = tiny_run()
    rows = bench_cached(config, repeats=2)
    assert [row.group for row in rows] == ["clip+dino_v2@32", "sam@64"]
    assert all({len(timing.seconds) for timing in row.timings.values()} == {2} for row in rows)
    assert not config.run.out.exists()


def test_the_cached_setting_has_the_sizes_that_it_says() -> None:
    with torch.device("meta"):
        config, teachers = cached_setting()
    sizes = {name: sum(p.numel() for p in t.parameters()) / 1e6 for name, t in teachers.items()}
    assert sizes == pytest.approx({"vit_b14": 86, "vit_l14": 303}, rel=0.02)
    assert config.student.backbone == vit_config("small")


def test_the_command_writes_what_it_measured(
    tiny_run: Callable[..., TrainConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_config(tiny_run(), tmp_path / "tiny.yaml")
    options = ["--config", str(tmp_path / "tiny.yaml"), "--repeats", "2"]
    file = tmp_path / "out.json"
    assert main(["toy", "--cached", *options, "--json", str(file)]) == 0
    result = json.loads(file.read_text())
    assert [row["group"] for row in result["groups"]] == ["clip+dino_v2@32", "sam@64"]
    assert all(row["speedup"] > 0 for row in result["groups"])
    assert "from the cache" in capsys.readouterr().out
    with pytest.raises(UsageError, match="--repeats must be a number of at least 2"):
        main(["toy", "--repeats", "1"])


def test_without_a_recipe_the_cached_setting_is_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The teachers of the setting shrink, so that the test is quick; the rest is as always."""
    small = vit_config("base", patch_size=14, embed_dim=16, depth=1, num_heads=2)
    monkeypatch.setattr(benchmark, "vit_config", lambda *_names, **_changes: small)
    assert main(["--cached", "--repeats", "2", "--engine.threads", "1"]) == 0
    assert "vit_b14+vit_l14@224" in capsys.readouterr().out
