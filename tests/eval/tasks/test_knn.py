"""kNN: the numbers, and `radio eval knn` as users start it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from radio_core.data.toyworld.export import export
from radio_eval.cli.evaluate import evaluate as main
from radio_eval.runner import run_task
from radio_eval.tasks.knn import Knn

Colour = tuple[int, int, int]
COLOURS = ((250, 10, 5), (10, 250, 5), (5, 10, 250))


def write(root: Path, **splits: list[tuple[int, Colour | None]]) -> Path:
    """Class folders: (class, colour) of each image; None is a file that cannot be read."""
    for split, images in splits.items():
        for index, (label, colour) in enumerate(images):
            path = root / split / str(label) / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"broken")
            if colour is not None:
                Image.new("RGB", (20 + index % 2 * 8, 20), colour).save(path)
    (root / "classnames.json").write_text('{"0": "red", "1": "green", "2": "blue"}')
    return root


@pytest.mark.parametrize("summary", [True, False])
def test_unreadable_images_are_skipped_and_labels_stay_in_step(
    tmp_path: Path, summary: bool, mean_colour: Any
) -> None:
    red, green, blue = COLOURS
    data = write(
        tmp_path,
        train=[(0, red), (1, None), (1, green), (2, blue), (0, red)],
        val=[(1, green), (2, None), (2, blue), (0, red), (1, red)],
    )
    task = Knn(data=data, k=2, batch_size=2, no_cache=True)
    result = run_task(task, mean_colour(summary=summary))
    assert result.value == 75.0
    assert (result.metrics["train_images"], result.metrics["val_images"]) == (4, 4)
    assert result.parameters["temperature"] == 0.07
    assert [result.skipped[f"{split} images"]["count"] for split in task.splits] == [1, 1]


def test_a_split_without_readable_images_is_an_error(tmp_path: Path, mean_colour: Any) -> None:
    data = write(tmp_path, train=[(0, COLOURS[0])], val=[(0, COLOURS[0])])
    task = Knn(data=data, no_cache=True)
    assert len(task.splits) == 2
    (data / "val/0/0.png").write_bytes(b"broken")
    with pytest.raises(ValueError, match="none of the images"):
        run_task(task, mean_colour())


def evaluate(data: Path, file: Path, *options: str, task: str = "knn") -> dict[str, Any]:
    """The result file of a run with a tiny random model."""
    command = [task, "--model", "random:tiny", "--data", str(data), "--json", str(file)]
    command += ["--device", "cpu", "--cache", str(file.parent / "cache"), *options]
    assert main(command) == 0
    result: dict[str, Any] = json.loads(file.read_text())
    return result


def test_the_size_that_is_used_is_reported(
    toy_classes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = evaluate(toy_classes, tmp_path / "a.json", "--image-size", "45")
    output = capsys.readouterr()
    assert result["metrics"]["image_size"] == 48
    assert result["parameters"]["images"] == {"resize": "RADIO's", "size": 48, "step": 8}
    assert "images have 48 pixels instead of 45" in output.err
    assert "temperature: 0.07" in output.out
    assert "amp: float32" in output.out


def test_a_second_run_finds_the_summaries(toy_classes: Path, tmp_path: Path) -> None:
    first = evaluate(toy_classes, tmp_path / "a.json", "--image-size", "32", "--block-size", "4")
    files = sorted((tmp_path / "cache").glob("*/*.safetensors"))
    assert len(files) == 4 + 3
    times = [path.stat().st_mtime_ns for path in files]
    again = evaluate(toy_classes, tmp_path / "b.json", "--image-size", "32", "--block-size", "4")
    assert [path.stat().st_mtime_ns for path in files] == times
    assert again["metrics"] == first["metrics"]
    assert again["data"]["train"]["images"] == 14


def test_preprocessing_can_be_chosen(toy_classes: Path, tmp_path: Path) -> None:
    options = ("--no-cache", "--image-size", "56", "--preprocess")
    found = {
        name: evaluate(toy_classes, tmp_path / "a.json", *options, name)["parameters"]["images"]
        for name in ("radio", "center-crop", "dinov2")
    }
    assert found["radio"] == {"resize": "RADIO's", "size": 56, "step": 8}
    crop = {"resize": "centre crop", "size": 56, "squash": False, "interpolation": "bicubic"}
    assert found["center-crop"] == {**crop, "shorter_side": 56}
    assert found["dinov2"] == {**crop, "shorter_side": 64}
    assert not (tmp_path / "cache").exists()


def test_unreadable_images_are_named_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export(tmp_path / "toy", 6, 4, parts=("classification",))
    data = tmp_path / "toy/classification"
    broken = sorted((data / "val").rglob("*.*"))[0]
    broken.write_bytes(b"broken")
    result = evaluate(data, tmp_path / "a.json", "--image-size", "32")
    assert result["metrics"]["val_images"] == 3
    assert result["skipped"]["val images"]["each"] == {str(broken): "not an image"}
    assert result["skipped"]["train images"]["count"] == 0
    assert f"skipped {broken}: not an image" in capsys.readouterr().err


def test_images_of_another_size_than_the_model_takes_are_refused(toy_classes: Path) -> None:
    pytest.importorskip("open_clip", reason="needs the extra 'clip'")
    with pytest.raises(ValueError, match="'toy-clip' takes images of 64 pixels only"):
        main(["knn", "--model", "toy-clip", "--data", str(toy_classes), "--image-size", "96"])


@pytest.mark.slow
def test_two_processes_give_what_one_gives(toy_classes: Path, tmp_path: Path) -> None:
    options = ["knn", "--model", "random:tiny", "--data", str(toy_classes), "--device", "cpu"]
    options += ["--image-size", "32", "--block-size", "3"]
    results = [evaluate(toy_classes, tmp_path / "one.json", *options[-4:])]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for name, more in (("two", ["--cache", str(tmp_path / "two")]), ("none", ["--no-cache"])):
        command = [*launcher, "-m", "radio_core.cli", "eval", *options, *more]
        done = subprocess.run(
            [sys.executable, *command, "--json", str(tmp_path / f"{name}.json")],
            capture_output=True,
            text=True,
            timeout=300,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            check=False,
        )
        assert done.returncode == 0, done.stderr
        results.append(json.loads((tmp_path / f"{name}.json").read_text()))
    assert results[0]["metrics"] == results[1]["metrics"] == results[2]["metrics"]
    assert [result["processes"] for result in results] == [1, 2, 2]
    files = [
        {path.name: path.read_bytes() for path in (tmp_path / name).glob("*/*.safetensors")}
        for name in ("cache", "two")
    ]
    assert len(files[0]) == 5
    assert files[0] == files[1]
