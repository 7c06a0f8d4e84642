"""The task linear-seg: protocols, bad input, interrupted and continued, shared by processes."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from radio_core.cli import main
from radio_core.data.folder import FolderError
from radio_core.data.toyworld.export import export
from radio_eval.mmseg import head
from radio_eval.runner import Context, TaskResult, run_task
from radio_eval.tasks.linear_seg import LinearSeg

COLOURS = np.array([(0, 0, 0), (220, 30, 30), (30, 30, 220)], dtype=np.uint8)
SMALL: dict[str, dict[str, Any]] = {
    "mmseg": {"image_size": 32, "iterations": 12, "batch_size": 6},
    "toy": {"iterations": 12, "batch_size": 6},
}
Model = Callable[..., Any]


def write_ade(
    root: Path, count: int = 12, sizes: tuple[tuple[int, int], ...] = ((32, 32),)
) -> Path:
    """Scenes of coloured blocks in the ADE layout; the colour tells the class."""
    rng = np.random.default_rng(0)
    for split in ("training", "validation"):
        for kind in ("images", "annotations"):
            (root / kind / split).mkdir(parents=True)
        for index in range(count):
            height, width = sizes[index % len(sizes)]
            coarse = rng.integers(0, 3, (height // 8, width // 8))
            stored = coarse.repeat(8, 0).repeat(8, 1).astype(np.uint8)  # 0 is unlabelled
            Image.fromarray(COLOURS[stored]).save(root / "images" / split / f"{index}.png")
            Image.fromarray(stored).save(root / "annotations" / split / f"{index}.png")
    (root / "classes.json").write_text('["red", "blue"]')
    return root


def small(root: Path, protocol: str, **changes: Any) -> LinearSeg:
    return LinearSeg(
        **{"data": root, "protocol": protocol, "workers": 0, **SMALL[protocol], **changes}
    )


def blind(images: Tensor) -> Tensor:
    return torch.zeros(len(images), 3, 4, 4)


@pytest.mark.parametrize("square", [False, True])
def test_toy_protocol_tells_good_features_from_blind_ones(
    tmp_path: Path, patch_colours: Model, square: bool
) -> None:
    numbers = {"iterations": 150, "batch_size": 4, "learning_rate": 0.05}
    task = small(write_ade(tmp_path), "toy", **numbers)
    result = run_task(task, patch_colours(square=square))
    assert result.value is not None
    assert result.value > 80
    assert result.parameters["augmentation"] is None
    assert (run_task(task, patch_colours(blind)).value or 0) < 50
    assert run_task(task, patch_colours(square=square)).metrics == result.metrics


@pytest.mark.parametrize("inference", ["slide", "whole"])
@pytest.mark.parametrize("square", [False, True])
def test_mmseg_protocol_takes_images_of_any_size(
    tmp_path: Path, patch_colours: Model, inference: Any, square: bool
) -> None:
    root = write_ade(tmp_path, sizes=((32, 32), (24, 64), (56, 32), (16, 88)))
    numbers = {"iterations": 40, "batch_size": 4, "learning_rate": 0.05}
    result = run_task(
        small(root, "mmseg", inference=inference, **numbers), patch_colours(square=square)
    )
    assert (result.value or 0) > 60
    assert result.parameters["augmentation"]["max_class_share"] == 0.75
    assert result.metrics["crop"] == 32
    assert set(result.record["class_iou"]) == {"red", "blue"}


def test_features_are_frozen(tmp_path: Path, patch_colours: Model) -> None:
    weight = torch.full((3, 1, 1), 1.0, requires_grad=True)

    def features(images: Tensor) -> Tensor:
        pooled = F.avg_pool2d(images * weight, 8)
        assert not pooled.requires_grad
        return pooled

    run_task(small(write_ade(tmp_path), "mmseg", iterations=2), patch_colours(features))
    assert weight.grad is None


def test_toy_protocol_refuses_images_of_several_sizes(tmp_path: Path, patch_colours: Model) -> None:
    root = write_ade(tmp_path, count=2, sizes=((32, 32), (32, 48)))
    with pytest.raises(ValueError, match="use the protocol mmseg"):
        run_task(small(root, "toy", iterations=1), patch_colours())


@pytest.mark.parametrize("protocol", list(SMALL))
def test_unreadable_files_are_skipped_and_named(
    tmp_path: Path, patch_colours: Model, protocol: str
) -> None:
    root = write_ade(tmp_path, count=4)
    (root / "images/training/1.png").write_bytes(b"broken")
    (root / "annotations/validation/2.png").write_bytes(b"broken")
    result = run_task(small(root, protocol, iterations=5, batch_size=4), patch_colours())
    assert (result.metrics["train_images"], result.metrics["val_images"]) == (3, 3)
    [name] = result.skipped["train images"]["each"]
    assert name.endswith("training/1.png")
    [name] = result.skipped["val images"]["each"]
    assert name.endswith("validation/2.png")


@pytest.mark.parametrize("protocol", list(SMALL))
@pytest.mark.parametrize("split", ["training", "validation"])
def test_nothing_readable_is_an_error(
    tmp_path: Path, patch_colours: Model, protocol: str, split: str
) -> None:
    root = write_ade(tmp_path, count=2)
    for path in (root / "annotations" / split).iterdir():
        path.write_bytes(b"broken")
    word = "train" if split == "training" else "val"
    with pytest.raises(ValueError, match=rf"none of the {word} images can be used; .*\.png"):
        run_task(small(root, protocol, iterations=1), patch_colours())


@pytest.mark.parametrize("workers", [0, 1])
def test_label_maps_that_do_not_fit_end_the_run(
    tmp_path: Path, patch_colours: Model, workers: int
) -> None:
    root = write_ade(tmp_path, count=2)
    Image.fromarray(np.full((32, 32), 3, np.uint8)).save(root / "annotations/training/0.png")
    with pytest.raises(FolderError, match=r"^label map .*training/0\.png holds value 3"):
        run_task(small(root, "mmseg", workers=workers), patch_colours())


def test_workers_change_nothing(tmp_path: Path, patch_colours: Model) -> None:
    root = write_ade(tmp_path, sizes=((32, 32), (24, 64)))
    results = [run_task(small(root, "mmseg", workers=n), patch_colours()) for n in (0, 2)]
    assert results[0].metrics == results[1].metrics


@pytest.mark.parametrize("protocol", list(SMALL))
def test_pictures_and_sections(tmp_path: Path, patch_colours: Model, protocol: str) -> None:
    root, out = write_ade(tmp_path / "data", count=3), tmp_path / "out"
    context = Context(sections=[])
    task = small(root, protocol, iterations=1, out=out, save_images=2)
    pytest.importorskip("matplotlib", reason="needs the extra 'eval'")
    run_task(task, patch_colours(), context)
    assert {path.name for path in (out / "images").iterdir()} == {
        *("0000_0.png", "0001_1.png", "legend.png")
    }
    picture = np.array(Image.open(out / "images/0001_1.png"))
    assert picture.shape == (32, 96, 3)
    assert np.array_equal(picture[:, :32], Image.open(root / "images/validation/1.png"))
    label = np.array(Image.open(root / "annotations/validation/1.png"))
    legend = np.array([(224, 224, 192), (0, 0, 0), (128, 0, 0)])  # VOC's first colours
    assert np.array_equal(picture[:, 32:64], legend[label])
    assert context.sections is not None
    assert [len(section.cards) for section in context.sections] == [3, 0]


class Interrupted(Exception):
    """Stands for a Ctrl-C or a lost machine."""


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("toy")
    export(out, 10, 4, parts=("segmentation",))
    return out / "segmentation"


def run(task: LinearSeg, model: Any, stop_at: int | None = None) -> tuple[TaskResult, list[int]]:
    """The result, and the steps that were made."""
    steps: list[int] = []

    def listen(what: str, done: int, total: int | None) -> None:
        if what == "linear-seg head":
            steps.append(done)
            if done == stop_at:
                raise Interrupted

    return run_task(task, model, Context(progress=listen)), steps


def weights(out: Path) -> dict[str, Any]:
    state = torch.load(out / "head.pt", weights_only=True)["state"]
    return {**state["head"], **{str(k): v for k, v in state["optimizer"]["state"].items()}}


@pytest.fixture
def every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints after every step."""
    monkeypatch.setattr(head, "CHECKPOINT_SECONDS", 0.0)


@pytest.mark.usefixtures("every_step")
@pytest.mark.parametrize("protocol", list(SMALL))
def test_a_continued_training_equals_an_uninterrupted_one(
    scenes: Path, tmp_path: Path, patch_colours: Model, protocol: str
) -> None:
    model = patch_colours()
    whole, _ = run(small(scenes, protocol, out=tmp_path / "whole"), model)
    parts = small(scenes, protocol, out=tmp_path / "parts")
    for stop in (3, 7):
        with pytest.raises(Interrupted):
            run(parts, model, stop_at=stop)
    continued, steps = run(parts, model)
    assert steps == [8, 9, 10, 11, 12]
    assert continued.metrics == whole.metrics
    torch.testing.assert_close(
        weights(tmp_path / "parts"), weights(tmp_path / "whole"), rtol=0, atol=0
    )
    again, steps = run(parts, model)
    assert (again.metrics, steps) == (whole.metrics, [])
    assert {path.name for path in (tmp_path / "parts").iterdir()} == {"head.pt"}


@pytest.mark.usefixtures("every_step")
def test_files_that_were_skipped_before_an_interruption_are_remembered(
    tmp_path: Path, patch_colours: Model
) -> None:
    export(tmp_path, 4, 2, parts=("segmentation",))
    copy = tmp_path / "segmentation"
    broken = sorted((copy / "images/training").iterdir())[2]
    picture, stamp = broken.read_bytes(), broken.stat().st_mtime_ns
    broken.write_bytes(bytes(len(picture)))
    os.utime(broken, ns=(stamp, stamp))
    with pytest.raises(Interrupted):
        run(small(copy, "mmseg", out=tmp_path / "out"), patch_colours(), stop_at=5)
    broken.write_bytes(picture)
    os.utime(broken, ns=(stamp, stamp))
    result, _ = run(small(copy, "mmseg", out=tmp_path / "out"), patch_colours())
    assert result.metrics["train_images"] == 3


@pytest.mark.usefixtures("every_step")
def test_only_the_same_training_is_continued(
    scenes: Path, tmp_path: Path, patch_colours: Model
) -> None:
    with pytest.raises(Interrupted):
        run(small(scenes, "mmseg", out=tmp_path), patch_colours(), stop_at=5)
    with pytest.raises(ValueError, match=r"head\.pt is a probe with other batch_size, seed; .*out"):
        run(small(scenes, "mmseg", out=tmp_path, seed=1, batch_size=4), patch_colours())
    with pytest.raises(ValueError, match="a probe with other weights"):
        run(small(scenes, "mmseg", out=tmp_path), patch_colours(factor=1.5))
    (tmp_path / "head.pt").write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"no checkpoint of a probe; .*--overwrite"):
        run(small(scenes, "mmseg", out=tmp_path), patch_colours())
    assert run(small(scenes, "mmseg", out=tmp_path, overwrite=True), patch_colours())[1][0] == 1


def test_command_stores_its_protocol(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "result.json"
    command = ["eval", "linear-seg", "--model", "random:tiny", "--data", str(scenes)]
    command += [
        "--protocol",
        "toy",
        "--iterations",
        "3",
        "--workers",
        "0",
        "--device",
        "cpu",
        "--json",
        str(file),
    ]
    assert main(command) == 0
    assert "miou: " in capsys.readouterr().out
    result = json.loads(file.read_text())
    assert result["parameters"]["iterations"] == 3
    assert result["parameters"]["protocol"] == "toy"
    assert result["data"]["train"]["layout"] == "ade20k"
    assert len(result["class_iou"]) == result["data"]["val"]["classes"]


def test_flags_change_the_protocol() -> None:
    task = LinearSeg(data=Path(), iterations=1, scale=(96, 48), crop=32, inference="whole")
    parameters = task.parameters()
    assert (parameters["scale"], parameters["crop"]) == ([96, 48], 32)
    assert (parameters["stride"], parameters["inference"]) == (21, "whole")
    assert parameters["augmentation"]["saturation"] == [0.5, 1.5]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--save-images", "3"], "need --out DIR"),
        (["--protocol", "toy", "--augmentation.hue", "3"], "no augmentation"),
        (["--protocol", "quick"], "quick"),
        (["--crop", "8", "--stride", "9"], "stride 9 must be at most the crop 8"),
    ],
)
def test_bad_usage(
    scenes: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["eval", "linear-seg", "--model", "random:tiny", "--data", str(scenes)]
    assert main([*command, *options]) == 2
    assert message in " ".join(capsys.readouterr().err.replace("│", " ").split())


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
