"""The task mode-switch: a head at several resolutions against its teacher."""

import dataclasses
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from radio_core.cli import main
from radio_core.data.folder import ImageFiles
from radio_core.data.toyworld import ToyWorldImages
from radio_eval.results import Skipped
from radio_eval.tasks.mode_switch import (
    ResolutionScore,
    compare_resolutions,
    default_resolutions,
    largest_rise,
)

Model = Callable[..., Any]


@pytest.fixture
def teacher(patch_colours: Model) -> Any:
    """Features are the mean colours of cells of 8 pixels, at 64 pixels."""
    return patch_colours().at(64)


def compare(
    model: Any, teacher: Any, images: Any, indices: Sequence[int], sizes: Sequence[int], **more: Any
) -> tuple[ResolutionScore, ...]:
    return compare_resolutions(
        model, teacher, images, indices, sizes, **{"skipped": Skipped(), **more}
    )


def switching(images: Tensor) -> Tensor:
    """As the teacher up to 64 pixels; brighter by a half above."""
    return F.avg_pool2d(images, 8) + (0.5 if images.shape[-1] > 64 else 0.0)


def test_a_switch_shows_as_a_jump_of_its_size(patch_colours: Model, teacher: Any) -> None:
    student, images = patch_colours(switching), ToyWorldImages(5)
    scores = compare(student, teacher, images, range(5), (128, 64, 72, 64), batch_size=2)
    assert [score.resolution for score in scores] == [64, 72, 128]
    same, above, far = scores
    assert same.mse == pytest.approx(0, abs=1e-9)
    assert same.cosine == pytest.approx(1, abs=1e-5)
    assert above.mse == pytest.approx(0.25, rel=0.1)
    assert far.mse == pytest.approx(0.25, rel=0.1)
    assert far.cosine < 0.999


def test_errors_are_means_over_images_whatever_the_batches(
    patch_colours: Model, teacher: Any
) -> None:
    images, dim = ToyWorldImages(7), patch_colours(factor=0.9)
    by_one, by_three = (
        compare(dim, teacher, images, range(7), (48, 64), batch_size=size) for size in (1, 3)
    )
    for one, three in zip(by_one, by_three, strict=True):
        assert dataclasses.astuple(one) == pytest.approx(dataclasses.astuple(three), rel=1e-5)
    pixels = torch.stack([torch.tensor(np.array(images.read(i))) for i in range(7)])
    unit = pixels.permute(0, 3, 1, 2).float() / 255
    cells = F.avg_pool2d(F.interpolate(unit, (64, 64), mode="bicubic", antialias=True), 8)
    each = (0.1 * cells).square().mean(dim=(1, 2, 3))
    assert by_one[1].mse == pytest.approx(each.mean().item(), rel=0.02)
    assert by_one[1].mse_std == pytest.approx(each.std(correction=0).item(), rel=0.1)


def test_a_larger_grid_is_brought_to_the_teachers_bilinearly(
    patch_colours: Model, teacher: Any
) -> None:
    drawn = torch.rand(1, 3, 12, 12)
    student = patch_colours(lambda images: drawn.expand(len(images), -1, -1, -1))
    [found] = compare(student, teacher, ToyWorldImages(1), [0], [96])
    image = torch.tensor(np.array(ToyWorldImages(1).read(0).resize((64, 64), 3)))
    goal = F.avg_pool2d(image.permute(2, 0, 1)[None].float() / 255, 8)
    fitted = F.interpolate(drawn, (8, 8), mode="bilinear")
    assert found.mse == pytest.approx((fitted - goal).square().mean().item(), rel=1e-4)


def score(resolution: int, mse: float) -> ResolutionScore:
    return ResolutionScore(resolution=resolution, mse=mse, mse_std=0.0, cosine=1.0)


def test_the_largest_rise_is_between_neighbours() -> None:
    scores = tuple(map(score, (48, 64, 80, 96), (0.5, 0.1, 0.11, 0.22)))
    assert largest_rise(scores) == (80, 96, 2.0)
    assert largest_rise(scores[:2]) is None


def test_default_resolutions_go_from_half_to_twice_the_models_own(teacher: Any) -> None:
    assert default_resolutions(teacher.spec) == (32, 48, 64, 80, 96, 112, 128)


@pytest.mark.parametrize(
    ("features", "sizes", "message"),
    [
        (switching, (64, 70), "resolution 70 is not a multiple of the 8 pixels .*nearest: 72"),
        (switching, (), "name at least one resolution"),
        (
            lambda images: images[:, :2],
            (64,),
            "gives 2 channels, but teacher .* has 3",
        ),
        (lambda images: images / 0, (64,), "features at resolution 64 are not finite"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    patch_colours: Model,
    teacher: Any,
    features: Callable[[Tensor], Tensor],
    sizes: tuple[int, ...],
    message: str,
) -> None:
    with pytest.raises(ValueError, match=message):
        compare(patch_colours(features), teacher, ToyWorldImages(1), [0], sizes)


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


def test_broken_images_are_left_out_and_named(
    photos: Path, patch_colours: Model, teacher: Any
) -> None:
    files, skipped = ImageFiles(photos), Skipped()
    compare(patch_colours(), teacher, files, range(5), [64], skipped=skipped)
    assert {Path(path).name for path in skipped.reasons} == {"3.png", "4.jpg"}
    with pytest.raises(ValueError, match=r"none of the 1 images can be read: .*4.jpg: not an"):
        compare(patch_colours(), teacher, files, [4], [64])


def test_the_command_on_the_bundled_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for package, extra in (("transformers", "hf"), ("matplotlib", "eval")):
        pytest.importorskip(package, reason=f"needs the extra {extra!r}")
    result, plot = tmp_path / "new" / "result.json", tmp_path / "new" / "plot.svg"
    options = ["--images", "3", "--resolutions", "64", "96", "--batch-size", "2"]
    files = ["--json", str(result), "--plot", str(plot)]
    assert main(["eval", "mode-switch", "--model", "toy", *options, *files]) == 0
    assert "3 images; " in capsys.readouterr().out
    content = json.loads(result.read_text())
    assert (content["teacher"], content["teacher_resolution"]) == ("toy-dino", 84)
    assert [row["resolution"] for row in content["scores"]] == [64, 96]
    assert content["metrics"]["cosine_96"] == content["scores"][1]["cosine"] > 0.9
    assert content["parameters"]["data"] == "toyworld"
    assert plot.read_text().startswith("<?xml")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "toy", "--adaptor", "dino"], "unknown adaptors .*this model has: clip"),
        (["--model", "toy", "--teacher", "toy-dion"], "unknown teacher"),
        (["--model", "toy-dino"], "only RADIO models have adaptors"),
        (["--model", "toy", "--data", "/nowhere/at/all"], "cannot read folder"),
        (["--model", "toy", "--plot", "x.pdf"], "a plot ends in .svg or .png, not 'x.pdf'"),
        (["--model", "toy", "--images", "0"], "--images and --batch-size must be at least 1"),
    ],
)
def test_a_wrong_command_line_is_one_clear_error(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("transformers", reason="needs the extra 'hf'")
    assert main(["eval", "mode-switch", *options]) != 0
    text = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert re.search(message, text), text
