"""The linear probe as a command: interrupted and continued, shared by processes, its options."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from radio_core.cli import UsageError
from radio_core.data.toyworld.export import export
from radio_eval.cli.evaluate import evaluate as main
from radio_eval.contract import run_evaluator
from radio_eval.eval_model import EvalModel
from radio_eval.linear_seg.evaluator import LinearSegEvaluator
from radio_eval.linear_seg.protocol import LinearSegParameters, mmseg_protocol, toy_protocol
from radio_eval.segmentation.data import read_ade

Protocol = Callable[..., LinearSegParameters]


class Interrupted(Exception):
    """Stands for a Ctrl-C or a lost machine."""


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("toy")
    export(out, 10, 4, parts=("segmentation",))
    return out / "segmentation"


def small_mmseg(**changes: Any) -> LinearSegParameters:
    return mmseg_protocol(**{"image_size": 32, "iterations": 12, "batch_size": 6, **changes})


def small_toy(**changes: Any) -> LinearSegParameters:
    return toy_protocol(**{"iterations": 12, "batch_size": 6, **changes})


def model(factor: float = 1.0) -> EvalModel:
    scaling = torch.nn.Conv2d(3, 3, 1, groups=3, bias=False)
    torch.nn.init.constant_(scaling.weight, factor)
    return EvalModel(
        name="patch colours",
        image_size=32,
        resize_step=8,
        features=lambda images: scaling(F.avg_pool2d(images, 8)),
        module=scaling,
    )


def run(
    scenes: Path,
    out: Path | None,
    parameters: LinearSegParameters,
    stop_at: int | None = None,
    factor: float = 1.0,
) -> tuple[dict[str, float], list[int]]:
    """Metrics, and the steps that were made; a checkpoint is written after each."""
    steps: list[int] = []

    def listen(what: str, done: int, total: int) -> None:
        if what == "linear-seg head":
            steps.append(done)
            if done == stop_at:
                raise Interrupted

    probe = LinearSegEvaluator(
        train=read_ade(scenes, "train"),
        val=read_ade(scenes, "val"),
        parameters=parameters,
        out=out,
        checkpoint_seconds=0.0,
    )
    return run_evaluator(probe, model(factor), listen).metrics, steps


def weights(out: Path) -> dict[str, Any]:
    state = torch.load(out / "head.pt", weights_only=True)["state"]
    return {**state["head"], **{str(k): v for k, v in state["optimizer"]["state"].items()}}


@pytest.mark.parametrize("protocol", [small_mmseg, small_toy])
def test_a_continued_training_equals_an_uninterrupted_one(
    scenes: Path, tmp_path: Path, protocol: Protocol
) -> None:
    whole, _ = run(scenes, tmp_path / "whole", protocol())
    for stop in (3, 7):
        with pytest.raises(Interrupted):
            run(scenes, tmp_path / "parts", protocol(), stop_at=stop)
    continued, steps = run(scenes, tmp_path / "parts", protocol())
    assert steps == [8, 9, 10, 11, 12]
    assert continued == whole
    torch.testing.assert_close(
        weights(tmp_path / "parts"), weights(tmp_path / "whole"), rtol=0, atol=0
    )
    again, steps = run(scenes, tmp_path / "parts", protocol())
    assert (again, steps) == (whole, [])
    assert {path.name for path in (tmp_path / "parts").iterdir()} == {"head.pt"}


def test_files_that_were_skipped_before_an_interruption_are_remembered(
    scenes: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "data"
    export(tmp_path / "new", 4, 2, parts=("segmentation",))
    (tmp_path / "new/segmentation").rename(copy)
    broken = sorted((copy / "images/training").iterdir())[2]
    picture, stamp = broken.read_bytes(), broken.stat().st_mtime_ns
    broken.write_bytes(bytes(len(picture)))
    os.utime(broken, ns=(stamp, stamp))
    with pytest.raises(Interrupted):
        run(copy, tmp_path / "out", small_mmseg(), stop_at=5)
    broken.write_bytes(picture)
    os.utime(broken, ns=(stamp, stamp))
    metrics, _ = run(copy, tmp_path / "out", small_mmseg())
    assert metrics["train_images"] == 3


def test_only_the_same_training_is_continued(scenes: Path, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        run(scenes, tmp_path, small_mmseg(), stop_at=5)
    with pytest.raises(ValueError, match=r"head\.pt is a probe with other batch_size, seed; .*out"):
        run(scenes, tmp_path, small_mmseg(seed=1, batch_size=4))
    with pytest.raises(ValueError, match="a probe with other weights"):
        run(scenes, tmp_path, small_mmseg(), factor=1.5)
    (tmp_path / "head.pt").write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"no checkpoint of a probe; .*--overwrite"):
        run(scenes, tmp_path, small_mmseg())


@pytest.mark.parametrize("options", [["--image-size", "32"], ["--protocol", "toy"]])
def test_command_stores_its_protocol(
    scenes: Path, tmp_path: Path, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = tmp_path / "result.json", tmp_path / "out"
    command = ["linear-seg", "--model", "random:tiny", "--data", str(scenes), "--workers", "0"]
    command += ["--iterations", "3", "--device", "cpu", *options, "--json", str(file)]
    assert main([*command, "--out", str(out), "--save-images", "1"]) == 0
    assert "miou: " in capsys.readouterr().out
    result = json.loads(file.read_text())
    assert result["parameters"]["iterations"] == 3
    assert result["parameters"]["protocol"] == ("toy" if "toy" in options else "mmseg")
    assert result["data"]["train"]["layout"] == "ade20k"
    assert len(result["class_iou"]) == result["data"]["val"]["classes"]
    assert (out / "images/legend.png").is_file()
    assert main([*command, "--out", str(out), "--overwrite", "--seed", "1"]) == 0


def test_flags_change_the_protocol(scenes: Path, tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    command = ["linear-seg", "--model", "random:tiny", "--data", str(scenes), "--workers", "0"]
    command += ["--iterations", "1", "--batch-size", "2", "--scale", "96", "48", "--crop", "32"]
    command += ["--inference", "whole", "--augmentation.hue", "0", "--augmentation.contrast", "1"]
    assert main([*command, "1.2", "--json", str(file)]) == 0
    parameters = json.loads(file.read_text())["parameters"]
    assert (parameters["scale"], parameters["crop"]) == ([96, 48], 32)
    assert (parameters["stride"], parameters["inference"]) == (21, "whole")
    assert parameters["augmentation"]["contrast"] == [1.0, 1.2]
    assert parameters["augmentation"]["saturation"] == [0.5, 1.5]


def test_command_names_unreadable_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export(tmp_path, 3, 2, parts=("segmentation",))
    broken = sorted((tmp_path / "segmentation/images/validation").iterdir())[1]
    broken.write_bytes(b"broken")
    command = ["linear-seg", "--model", "random:tiny", "--data", str(tmp_path / "segmentation")]
    command += ["--iterations", "1", "--image-size", "32", "--workers", "0", "--batch-size", "2"]
    assert main(command) == 0
    errors = capsys.readouterr().err
    assert f"{broken.name}: not an image" in errors
    assert "skipped 1 val images" in errors


def test_bad_usage(scenes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["linear-seg", "--model", "random:tiny", "--data", str(scenes)]
    with pytest.raises(SystemExit):
        main([*command, "--save-images", "3"])
    assert "need --out DIR" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*command, "--protocol", "toy", "--augmentation.hue", "3"])
    assert "no augmentation" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*command, "--protocol", "quick"])
    with pytest.raises(UsageError, match="unknown device 'abacus'"):
        main([*command, "--device", "abacus"])
    with pytest.raises(ValueError, match="stride 9 must be at most the crop 8"):
        main([*command, "--crop", "8", "--stride", "9"])


@pytest.mark.slow
@pytest.mark.parametrize("options", [["--image-size", "32"], ["--protocol", "toy"]])
def test_two_processes_give_what_one_gives(
    scenes: Path, tmp_path: Path, options: list[str]
) -> None:
    command = ["eval", "linear-seg", "--model", "random:tiny", "--data", str(scenes)]
    command += ["--device", "cpu", "--iterations", "6", "--workers", "0", *options]
    one = [sys.executable, "-m", "radio_core.cli", *command]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    two = [sys.executable, *launcher, "-m", "radio_core.cli", *command]
    for name, line in (("one", one), ("two", two)):
        out = ["--out", str(tmp_path / name), "--json", str(tmp_path / f"{name}.json")]
        done = subprocess.run(
            [*line, *out],
            capture_output=True,
            text=True,
            timeout=300,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            check=False,
        )
        assert done.returncode == 0, done.stderr
    results = [json.loads((tmp_path / f"{name}.json").read_text()) for name in ("one", "two")]
    assert results[0]["metrics"] == results[1]["metrics"]
    assert [result["processes"] for result in results] == [1, 2]
    torch.testing.assert_close(weights(tmp_path / "one"), weights(tmp_path / "two"), rtol=0, atol=0)
