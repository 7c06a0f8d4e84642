"""The shapes of steps: pure draws, sizes that fit everyone, and refusals that name the field."""

import math
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from radio_core.distill.config import GroupConfig, StageConfig, TeacherConfig, TrainConfig
from radio_core.distill.losses import align_grids
from radio_core.distill.shapes import (
    StepShape,
    check_teachers,
    group_shapes,
    largest_view,
    shapes_of,
    step_shape,
    teacher_size,
    tile_size,
    view_size,
)
from radio_core.distill.views import Views, to_unit
from radio_core.models.vit import vit_config
from radio_core.vision import ModelSpec

STUDENT = vit_config("tiny")
STEPS = range(1, 2001)


def group(**changes: Any) -> GroupConfig:
    values = {"teachers": ("a",), "batch_size": 8, "resolutions": (64,)}
    return GroupConfig(**{**values, **changes})


def shape(of: GroupConfig, number: int, seed: int = 0, index: int = 0) -> StepShape:
    return step_shape(of, number, seed, STUDENT, index)


def spec(**changes: Any) -> ModelSpec:
    values = {"name": "t", "input_size": 84, "patch_size": 14, "mean": (0, 0, 0), "std": (1, 1, 1)}
    values |= {"summary_dim": None, "feature_dim": 4, "licence": ""}
    return ModelSpec(**{**values, **changes})


FIXED, FLEXIBLE = spec(), spec(flexible=True)


def test_one_square_resolution_leaves_the_draws_of_windows_as_they_always_were() -> None:
    fixed = group(window_sizes=(2, 4, 8), window_probability=0.5)
    for number in STEPS:
        rng = np.random.default_rng((3, 5, number))
        window = int(rng.choice((2, 4, 8))) if rng.random() < 0.5 else None
        assert shape(fixed, number, seed=3) == (64, 64, window)


def test_a_shape_depends_on_seed_step_and_group_alone() -> None:
    free = group(resolutions=(64, 96, 128), max_aspect=2.0, window_sizes=(1, 2))
    forward = [shape(free, number) for number in range(1, 60)]
    assert [shape(free, number) for number in range(59, 0, -1)] == forward[::-1]
    assert [shape(free, number, seed=1) for number in range(1, 60)] != forward
    assert [shape(free, number, index=1) for number in range(1, 60)] != forward


def test_resolutions_are_drawn_alike_often() -> None:
    drawn = Counter(shape(group(resolutions=(64, 96, 128)), number).size for number in STEPS)
    assert set(drawn) == {(64, 64), (96, 96), (128, 128)}
    assert all(count / len(STEPS) == pytest.approx(1 / 3, abs=0.04) for count in drawn.values())


@pytest.mark.parametrize("max_aspect", [1.2, 2.0, 4.0])
def test_shapes_keep_area_step_and_aspect(max_aspect: float) -> None:
    for side in (128, 256):
        shapes = shapes_of(side, max_aspect, 8)
        assert (side, side) in shapes
        assert {(width, height) for height, width in shapes} == set(shapes)
        for height, width in shapes:
            assert height % 8 == width % 8 == 0
            assert 1 / max_aspect <= height / width <= max_aspect
            assert height * width == pytest.approx(side**2, rel=0.08)
    tallest = max(height / width for height, width in shapes_of(256, max_aspect, 8))
    assert tallest > 0.85 * max_aspect


def test_aspects_are_log_uniform() -> None:
    free = group(resolutions=(256,), max_aspect=4.0)
    logs = np.array([math.log(s.height / s.width) for s in (shape(free, n) for n in STEPS)])
    for low, high in ((-1.0, -0.5), (-0.25, 0.25), (0.5, 1.0)):
        share = np.mean((logs > low) & (logs < high))
        assert share == pytest.approx((high - low) / (2 * math.log(4.0)), abs=0.06)
    assert abs(logs.mean()) < 0.06


def test_only_windows_that_tile_the_shape_are_drawn() -> None:
    free = group(
        resolutions=(64, 96), max_aspect=1.5, window_sizes=(4, 5, 6), window_probability=1.0
    )
    windows = set()
    for number in STEPS:
        drawn = shape(free, number)
        fitting = [w for w in (4, 5, 6) if drawn.height // 8 % w == drawn.width // 8 % w == 0]
        assert drawn.window in (fitting or [None])
        windows.add(drawn.window)
    assert windows == {None, 4, 5, 6}  # 5 tiles 80 x 120 pixels, but neither square


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resolutions": ()}, "resolutions must be positive, at least one"),
        ({"resolutions": (64, 0)}, "resolutions must be positive"),
        ({"max_aspect": 0.5}, r"max_aspect must be in \[1, 8.0\]"),
        ({"window_sizes": (0,)}, "window_sizes must be positive"),
        ({"teacher_sizes": {"b": 84}}, "teacher_sizes: 'b' is not a teacher .* known: a"),
        ({"teacher_sizes": {"a": 0}}, "teacher_sizes: a must be at least 1, not 0"),
        ({"mosaics": {"a": 1}}, "mosaics: a must be at least 2, not 1"),
        ({"mosaics": {"a": 3}}, "batch_size 8 is not a multiple of the 9 images"),
    ],
)
def test_a_group_that_cannot_be_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        group(**changes)


def run(of: GroupConfig, cached: int = 0, summary_weight: float = 1.0) -> TrainConfig:
    return TrainConfig(
        student=STUDENT,
        teachers={"a": TeacherConfig(source="a", summary_weight=summary_weight)},
        stages=(StageConfig(steps=1, groups=(of,)),),
        cached_views=cached,
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resolutions": (64, 67)}, "67 is not a multiple of the student's patch size 8; .* 64"),
        ({"window_sizes": (5,)}, r"windows of 5 patches tile no grid of the group \(8 x 8\)"),
        ({"mosaics": {"a": 2}}, "set summary_weight of teacher a to 0"),
    ],
)
def test_a_group_that_does_not_fit_the_run_is_refused(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        run(group(**changes))


def test_a_window_is_welcome_that_tiles_one_of_the_shapes() -> None:
    assert run(group(resolutions=(64, 80), window_sizes=(5,)))


@pytest.mark.parametrize(
    "changes", [{"max_aspect": 1.5}, {"teacher_sizes": {"a": 84}}, {"mosaics": {"a": 2}}]
)
def test_the_cache_refuses_what_it_cannot_serve(changes: dict[str, Any]) -> None:
    field = next(iter(changes))
    with pytest.raises(ValueError, match=f"{field} needs teachers that run at every step.*cached"):
        run(group(**changes), cached=10, summary_weight=0.0)
    assert run(group(**changes), summary_weight=0.0)
    assert run(group(resolutions=(64, 96)), cached=10)


def test_a_teacher_sees_its_square_or_the_shape_of_the_step() -> None:
    plain, wide = group(), StepShape(48, 96)
    assert teacher_size(plain, "a", FIXED, wide) == (84, 84)
    assert teacher_size(plain, "a", FLEXIBLE, StepShape(64, 64)) == (84, 84)
    assert teacher_size(plain, "a", FLEXIBLE, wide) == (56, 112)
    larger = group(teacher_sizes={"a": 168})
    assert teacher_size(larger, "a", FLEXIBLE, StepShape(64, 64)) == (168, 168)
    assert teacher_size(larger, "a", FLEXIBLE, wide) == (112, 238)
    in_steps = spec(flexible=True, patch_size=14, size_step=42)
    assert teacher_size(larger, "a", in_steps, wide) == (126, 252)


def test_the_tiles_of_a_mosaic_are_whole_patches_whatever_the_shape() -> None:
    tiled = group(mosaics={"a": 2})
    assert tile_size(tiled, "a", FIXED, StepShape(48, 96)) == (42, 42)
    for height, width in shapes_of(64, 3.0, 8):
        rows, cols = tile_size(tiled, "a", FLEXIBLE, StepShape(height, width))
        assert rows % 14 == cols % 14 == 0


@pytest.mark.parametrize(
    ("changes", "teacher", "message"),
    [
        ({"teacher_sizes": {"a": 168}}, FIXED, "teacher_sizes: .*84 x 84 pixels only, not 168"),
        ({"teacher_sizes": {"a": 100}}, FLEXIBLE, "teacher_sizes: .*multiples of 14"),
        ({"mosaics": {"a": 2}}, spec(input_size=70), "2 x 2 tiles do not divide the grid of 5"),
    ],
)
def test_a_size_that_a_teacher_does_not_take_is_refused(
    changes: dict[str, Any], teacher: ModelSpec, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        check_teachers(group(**changes), {"a": teacher})
    check_teachers(group(), {"a": teacher})
    check_teachers(group(teacher_sizes={"a": teacher.input_size}), {"a": teacher})


def test_views_are_as_large_as_anybody_needs_and_no_larger() -> None:
    both = group(teachers=("a", "b"), resolutions=(64, 128), max_aspect=2.0, mosaics={"b": 2})
    specs = {"a": FLEXIBLE, "b": spec(input_size=224)}
    square = view_size(both, specs, StepShape(64, 64))
    assert square == (112, 112)  # the tiles of b
    assert view_size(both, specs, StepShape(128, 128)) == (128, 128)
    for height, width in group_shapes(both, STUDENT):
        drawn = StepShape(height, width)
        view = view_size(both, specs, drawn)
        sizes = [drawn.size, *(tile_size(both, name, specs[name], drawn) for name in "ab")]
        assert all(view[0] >= rows and view[1] >= cols for rows, cols in sizes)
        assert view[0] / view[1] == pytest.approx(height / width, rel=0.02)
        assert any(view[0] < rows + 2 or view[1] < cols + 2 for rows, cols in sizes)
    assert largest_view(replace(both, max_aspect=1.0), specs, STUDENT) == (128, 128)


class Coordinates:
    """Pictures whose red is x and whose green is y, each from 0 to 1."""

    def __len__(self) -> int:
        return 50

    def read(self, index: int) -> Image.Image:
        ramp = np.linspace(0, 255, 200).astype(np.uint8)
        x, y = np.meshgrid(ramp, ramp)
        return Image.fromarray(np.stack([x, y, 0 * x], axis=2))


@pytest.mark.parametrize(("height", "width"), [(48, 96), (96, 48), (64, 64)])
def test_the_crop_behind_a_view_has_its_aspect(height: int, width: int) -> None:
    views = Views(Coordinates(), (0.05, 0.2), 0)
    aspects = []
    for view in range(50):
        image = to_unit(views[(view, (height, width))][0][None])[0]
        assert image.shape == (3, height, width)
        extent_x = (image[0, 0, -1] - image[0, 0, 0]) * width / (width - 1)
        extent_y = (image[1, -1, 0] - image[1, 0, 0]) * height / (height - 1)
        aspects.append(math.log(extent_x / extent_y * height / width))
    assert max(map(abs, aspects)) < math.log(4 / 3) + 0.1
    assert abs(sum(aspects) / len(aspects)) < 0.1


def test_maps_of_one_region_on_any_grids_agree_after_alignment() -> None:
    def centres(rows: int, cols: int) -> torch.Tensor:
        y = (torch.arange(rows) + 0.5) / rows
        x = (torch.arange(cols) + 0.5) / cols
        return torch.stack([y[:, None].expand(rows, cols), x.expand(rows, cols)])[None]

    for student, teacher in (((6, 12), (4, 9)), ((6, 12), (8, 8)), ((12, 6), (24, 12))):
        one, other = align_grids(centres(*student), centres(*teacher))
        assert one.shape == other.shape
        inside = (..., slice(3, -3), slice(3, -3))  # at the edges a coarse map ends half a cell in
        torch.testing.assert_close(one[inside], other[inside], atol=1e-5, rtol=0)
