"""`radio eval mode-switch`: a head at several resolutions against its teacher."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from radio_core.cli import UsageError
from radio_core.data.folder import ImageFiles
from radio_core.data.toyworld import ToyWorldImages
from radio_core.teachers import Teacher
from radio_core.vision import ModelSpec, Output
from radio_eval.cli.evaluate import evaluate as main
from radio_eval.eval_model import EvalModel
from radio_eval.mode_switch import (
    ModeSwitch,
    ResolutionScore,
    default_resolutions,
    measure_mode_switch,
)


class Pixels(Teacher):
    """Features are the mean colours of cells of 8 pixels."""

    def __init__(self) -> None:
        super().__init__(
            ModelSpec(
                name="pixels",
                input_size=64,
                mean=(0, 0, 0),
                std=(1, 1, 1),
                patch_size=8,
                summary_dim=None,
                feature_dim=3,
                licence="",
            )
        )
        self.freeze()

    def extract(self, images: Tensor) -> Output:
        return Output(None, F.avg_pool2d(images, 8))


def student(features: Callable[[Tensor], Tensor]) -> EvalModel:
    return EvalModel(name="s", image_size=64, resize_step=8, features=features)


def switching(images: Tensor) -> Tensor:
    """As the teacher up to 64 pixels; brighter by a half above."""
    return F.avg_pool2d(images, 8) + (0.5 if images.shape[-1] > 64 else 0.0)


def test_a_switch_shows_as_a_jump_of_its_size() -> None:
    measured = measure_mode_switch(
        student(switching), Pixels(), ToyWorldImages(5), range(5), (128, 64, 72, 64), batch_size=2
    )
    assert [score.resolution for score in measured.scores] == [64, 72, 128]
    same, above, far = measured.scores
    assert same.mse == pytest.approx(0, abs=1e-9)
    assert same.cosine == pytest.approx(1, abs=1e-5)
    assert above.mse == pytest.approx(0.25, rel=0.1)
    assert far.mse == pytest.approx(0.25, rel=0.1)
    assert far.cosine < 0.999
    assert measured.images == 5


def test_errors_are_means_over_images_whatever_the_batches() -> None:
    def dim(images: Tensor) -> Tensor:
        return 0.9 * F.avg_pool2d(images, 8)

    def measure(size: int) -> ModeSwitch:
        images = ToyWorldImages(7)
        return measure_mode_switch(
            student(dim), Pixels(), images, range(7), (48, 64), batch_size=size
        )

    by_one, by_three = measure(1), measure(3)
    for one, three in zip(by_one.scores, by_three.scores, strict=True):
        assert dataclasses.astuple(one) == pytest.approx(dataclasses.astuple(three), rel=1e-5)
    pixels = torch.stack([torch.tensor(np.array(ToyWorldImages(7).read(i))) for i in range(7)])
    unit = pixels.permute(0, 3, 1, 2).float() / 255
    cells = F.avg_pool2d(F.interpolate(unit, (64, 64), mode="bicubic", antialias=True), 8)
    each = (0.1 * cells).square().mean(dim=(1, 2, 3))
    assert by_one.scores[1].mse == pytest.approx(each.mean().item(), rel=0.02)
    assert by_one.scores[1].mse_std == pytest.approx(each.std(correction=0).item(), rel=0.1)


def test_a_larger_grid_is_brought_to_the_teachers_bilinearly() -> None:
    drawn = torch.rand(1, 3, 12, 12)
    measured = measure_mode_switch(
        student(lambda images: drawn.expand(len(images), -1, -1, -1)),
        Pixels(),
        ToyWorldImages(1),
        [0],
        [96],
    )
    image = torch.tensor(np.array(ToyWorldImages(1).read(0).resize((64, 64), 3)))
    goal = F.avg_pool2d(image.permute(2, 0, 1)[None].float() / 255, 8)
    fitted = F.interpolate(drawn, (8, 8), mode="bilinear")
    assert measured.scores[0].mse == pytest.approx((fitted - goal).square().mean().item(), rel=1e-4)


def score(resolution: int, mse: float) -> ResolutionScore:
    return ResolutionScore(resolution=resolution, mse=mse, mse_std=0.0, cosine=1.0)


def test_the_largest_rise_is_between_neighbours() -> None:
    scores = tuple(map(score, (48, 64, 80, 96), (0.5, 0.1, 0.11, 0.22)))
    assert ModeSwitch(scores=scores, images=1, skipped={}).largest_rise == (80, 96, 2.0)
    assert ModeSwitch(scores=scores[:2], images=1, skipped={}).largest_rise is None


def test_default_resolutions_go_from_half_to_twice_the_models_own() -> None:
    assert default_resolutions(student(switching)) == (32, 48, 64, 80, 96, 112, 128)


@pytest.mark.parametrize(
    ("features", "sizes", "message"),
    [
        (switching, (64, 70), "resolution 70 is not a multiple of the 8 pixels .*nearest: 72"),
        (switching, (), "name at least one resolution"),
        (lambda images: images[:, :2], (64,), "gives 2 channels, but teacher 'pixels' has 3"),
        (lambda images: images / 0, (64,), "features at resolution 64 are not finite"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    features: Callable[[Tensor], Tensor], sizes: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        measure_mode_switch(student(features), Pixels(), ToyWorldImages(1), [0], sizes)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three photos of other shapes, and two broken files."""
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number, sides in enumerate(((40, 60), (90, 30), (50, 50))):
        pixels = rng.integers(0, 256, (*sides, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    (folder / "3.png").write_bytes((folder / "0.png").read_bytes()[:200])
    (folder / "4.jpg").write_bytes(b"no picture")
    return folder


def test_broken_images_are_left_out_and_named(photos: Path) -> None:
    files = ImageFiles(photos)
    measured = measure_mode_switch(student(switching), Pixels(), files, range(5), [64])
    assert measured.images == 3
    assert {Path(path).name for path in measured.skipped} == {"3.png", "4.jpg"}
    with pytest.raises(ValueError, match=r"none of the 1 images can be read: .*4.jpg: not an"):
        measure_mode_switch(student(switching), Pixels(), files, [4], [64])


def test_the_command_on_the_bundled_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("transformers", reason="needs the extra 'hf'")
    result, plot = tmp_path / "new" / "result.json", tmp_path / "new" / "plot.svg"
    options = ["--images", "3", "--resolutions", "64", "96", "--batch-size", "2"]
    files = ["--json", str(result), "--plot", str(plot)]
    assert main(["mode-switch", "--model", "toy", *options, *files]) == 0
    assert "3 images; " in capsys.readouterr().out
    content = json.loads(result.read_text())
    assert (content["teacher"], content["teacher_resolution"]) == ("toy-dino", 84)
    assert [row["resolution"] for row in content["scores"]] == [64, 96]
    assert content["scores"][1]["cosine"] > 0.9
    assert content["settings"]["data"] == "toyworld"
    assert "torch" in content["versions"]
    assert "<svg" in plot.read_text()


def test_the_command_on_a_folder(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("transformers", reason="needs the extra 'hf'")
    options = ["--data", str(photos), "--resolutions", "32", "--teacher", "toy-dino"]
    assert main(["mode-switch", "--model", "toy", *options]) == 0
    output = capsys.readouterr()
    assert "3 images; the error rises nowhere" in output.out
    assert "skipped 2 unreadable images" in output.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "toy", "--adaptor", "dino"], "unknown adaptors .*this model has: clip"),
        (["--model", "toy", "--teacher", "toy-dion"], "--teacher: unknown teacher"),
        (["--model", "toy-dino"], "only RADIO models have adaptors"),
        (["--model", "toy", "--data", "/nowhere/at/all"], "cannot read folder"),
    ],
)
def test_a_wrong_command_line_is_one_clear_error(options: list[str], message: str) -> None:
    pytest.importorskip("transformers", reason="needs the extra 'hf'")
    with pytest.raises((UsageError, ValueError), match=message):
        main(["mode-switch", *options])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--plot", "x.pdf"], "a plot ends in .svg or .png, not 'x.pdf'"),
        (["--images", "0"], "--images and --batch-size must be at least 1"),
    ],
)
def test_a_wrong_value_is_refused_before_anything_is_loaded(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["mode-switch", "--model", "nothing", *options])
    assert caught.value.code == 2
    assert message in " ".join(capsys.readouterr().err.replace("│", " ").split())
