"""Mosaics: what a teacher makes of tiles, and whole runs with every kind of shape."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from radio_core.distill.config import StageConfig, TrainConfig
from radio_core.distill.mosaic import cut, run_teacher, tile
from radio_core.distill.trainer import train
from radio_core.distill.views import to_unit
from radio_core.models.radio import RadioModel
from radio_core.teachers import Teacher
from radio_core.vision import ModelSpec, Output

MakeRun = Callable[..., TrainConfig]
QUIET = Console(quiet=True)


class PatchTeacher(Teacher):
    """Sees each patch by itself: what lies beside it makes no difference."""

    def __init__(self, **changes: Any) -> None:
        values = {"name": "patches", "input_size": 48, "patch_size": 8, "flexible": True}
        values |= {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.2, 0.2), "licence": ""}
        super().__init__(ModelSpec(**{**values, "summary_dim": 5, "feature_dim": 5, **changes}))
        torch.manual_seed(0)
        self.layer = torch.nn.Conv2d(3, 5, 8, 8)
        self.freeze()

    def extract(self, images: torch.Tensor) -> Output:
        features = self.layer(images)
        return Output(features.mean(dim=(2, 3)), features)


def pictures(count: int, height: int, width: int) -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8)


@pytest.mark.parametrize(("height", "width"), [(4, 4), (3, 5)])
def test_tiles_lie_row_by_row_and_come_back_in_order(height: int, width: int) -> None:
    images = torch.rand(18, 2, height, width)
    mosaics = tile(images, 3)
    assert mosaics.shape == (2, 2, 3 * height, 3 * width)
    for number, image in enumerate(images):
        row, col = number % 9 // 3, number % 3
        place = (slice(row * height, (row + 1) * height), slice(col * width, (col + 1) * width))
        assert torch.equal(mosaics[(number // 9, slice(None), *place)], image)
    assert torch.equal(cut(mosaics, 3), images)


def test_images_that_do_not_fill_mosaics_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"6 images do not fill mosaics of 2 x 2: .* multiple of 4"
    ):
        tile(torch.rand(6, 3, 4, 4), 2)
    with pytest.raises(ValueError, match="a map of 5 x 4 cells cannot be cut into 2 x 2 tiles"):
        cut(torch.rand(1, 3, 5, 4), 2)


@pytest.mark.parametrize("size", [(48, 48), (32, 64)])
def test_the_features_of_a_tile_are_those_of_its_image_alone(size: tuple[int, int]) -> None:
    teacher, views = PatchTeacher(), pictures(8, 50, 70)
    output = run_teacher(teacher, views, size, side=2)
    assert output.summary is None
    small = (size[0] // 2, size[1] // 2)
    alone = teacher(to_unit(views, small), small)
    torch.testing.assert_close(output.features, alone.features)
    assert not torch.equal(output.features[0], output.features[1])


def test_without_a_mosaic_a_teacher_sees_the_views_as_ever() -> None:
    teacher, views = PatchTeacher(), pictures(3, 50, 50)
    for size, given in (((48, 48), ()), ((32, 64), ((32, 64),))):
        output, wanted = run_teacher(teacher, views, size), teacher(to_unit(views), *given)
        assert torch.equal(output.features, wanted.features)
        assert output.summary is not None
        assert torch.equal(output.summary, wanted.summary)


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def free_run(tiny_run: MakeRun, steps: int = 8) -> TrainConfig:
    """A run whose groups use every freedom: resolutions, shapes, teacher sizes, mosaics."""
    config = tiny_run()
    low, high = config.stages[1].groups
    low = replace(
        low, resolutions=(32, 48), max_aspect=2.0, teacher_sizes={"dino_v2": 28}, rate=1.0
    )
    high = replace(
        high, batch_size=4, resolutions=(16, 32), mosaics={"sam": 2}, max_aspect=1.5, rate=1.0
    )
    return replace(config, stages=(StageConfig(steps=steps, groups=(low, high)),), warmup_steps=1)


def test_a_run_with_mosaics_and_all_kinds_of_shapes_learns(tiny_run: MakeRun) -> None:
    config = free_run(tiny_run)
    train(config, QUIET)
    groups = {row["group"] for row in rows(config.out)}
    assert groups == {"clip+dino_v2@32,48", "sam@16,32"}
    student = RadioModel.from_pretrained(config.out / "student")
    assert student.preferred_resolution == (48, 48)
    assert student.forward_all(torch.rand(1, 3, 32, 48), ("sam",))["sam"].summary is None


def test_drawn_shapes_are_the_same_after_a_resume(tiny_run: MakeRun) -> None:
    whole = free_run(tiny_run)
    train(whole, QUIET)
    part = replace(whole, out=whole.out.parent / "part", max_steps=3)
    train(part, QUIET)
    train(replace(part, max_steps=8, resume=True), QUIET)
    assert rows(part.out) == rows(whole.out)


def test_several_resolutions_from_the_cache(tiny_run: MakeRun) -> None:
    config = tiny_run(cached_views=8, max_steps=8)
    group = replace(config.stages[0].groups[0], resolutions=(32, 48))
    stages = (replace(config.stages[0], groups=(group,)), config.stages[1])
    train(replace(config, stages=stages), QUIET)
    assert rows(config.out)[0]["group"] == "clip+dino_v2@32,48"


def test_a_size_that_a_teacher_does_not_take_stops_the_run_before_it_begins(
    tiny_run: MakeRun,
) -> None:
    config = tiny_run()
    first, second = config.stages
    group = replace(second.groups[1], batch_size=9, mosaics={"sam": 3})
    stages = (first, replace(second, groups=(second.groups[0], group)))
    with pytest.raises(ValueError, match="3 x 3 tiles do not divide the grid of 8 patches"):
        train(replace(config, stages=stages), QUIET)
    assert not config.out.exists()
