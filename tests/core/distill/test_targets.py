"""The teachers' side of a step: sizes, mosaics, room, and whole runs with every kind of shape."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from rich.console import Console

from radio_core.distill.config import StudentConfig, TrainConfig
from radio_core.distill.groups import GroupConfig, StageConfig, TeacherConfig
from radio_core.distill.run_folder import read_metrics
from radio_core.distill.schedule import BatchPlan, StepShape
from radio_core.distill.targets import (
    Targets,
    check_teachers,
    largest_view,
    teacher_size,
    tile,
    untile,
    view_size,
)
from radio_core.distill.trainer import train
from radio_core.distill.views import to_unit
from radio_core.models.radio import RadioModel
from radio_core.models.vit import vit_config
from radio_core.processes import Processes
from radio_core.teachers import Teacher
from radio_core.vision import ModelSpec, Output

MakeRun = Callable[..., TrainConfig]
QUIET = Console(quiet=True)
STUDENT = vit_config("tiny")


def group(**changes: Any) -> GroupConfig:
    values = {"teachers": ("a",), "batch_size": 8, "resolutions": (64,)}
    return GroupConfig(**{**values, **changes})


def spec(**changes: Any) -> ModelSpec:
    values = {"name": "t", "input_size": 84, "patch_size": 14, "summary_dim": None}
    return ModelSpec(**{**values, "feature_dim": 4, **changes})


FIXED, FLEXIBLE = spec(), spec(flexible=True)


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
    assert teacher_size(tiled, "a", FIXED, StepShape(48, 96)) == (84, 84)
    for height, width in group(max_aspect=3.0).shapes(8):
        rows, cols = teacher_size(tiled, "a", FLEXIBLE, StepShape(height, width))
        assert rows % 28 == cols % 28 == 0


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
    for height, width in both.shapes(8):
        drawn = StepShape(height, width)
        view = view_size(both, specs, drawn)
        b = teacher_size(both, "b", specs["b"], drawn)
        tile_of_b = (b[0] // 2, b[1] // 2)
        sizes = [drawn.size, teacher_size(both, "a", FLEXIBLE, drawn), tile_of_b]
        assert all(view[0] >= rows and view[1] >= cols for rows, cols in sizes)
        assert view[0] / view[1] == pytest.approx(height / width, rel=0.02)
        assert any(view[0] < rows + 2 or view[1] < cols + 2 for rows, cols in sizes)
    assert largest_view(replace(both, max_aspect=1.0), specs, STUDENT) == (128, 128)


class PatchTeacher(Teacher):
    """Sees each patch by itself: what lies beside it makes no difference."""

    def __init__(self, **changes: Any) -> None:
        values = {"name": "patches", "input_size": 48, "patch_size": 8, "flexible": True}
        values |= {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.2, 0.2)}
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
    assert torch.equal(untile(mosaics, 3), images)


def test_images_that_do_not_fill_mosaics_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"6 images do not fill mosaics of 2 x 2: .* multiple of 4"
    ):
        tile(torch.rand(6, 3, 4, 4), 2)


def outputs(size: int, views: torch.Tensor, shape: StepShape, tiles: int = 1) -> Output:
    """What a step of one teacher gives."""
    mosaics = {"a": tiles} if tiles > 1 else {}
    of = group(teacher_sizes={"a": size}, mosaics=mosaics, batch_size=len(views))
    teacher = PatchTeacher()
    config = TrainConfig(
        student=StudentConfig(backbone=STUDENT),
        teachers={"a": TeacherConfig(source="a", summary_weight=float(tiles == 1))},
        stages=(StageConfig(steps=1, groups=(of,)),),
    )
    targets = Targets(
        config, {"a": teacher}, {"a": teacher.spec}, None, torch.device("cpu"), Processes()
    )
    return targets(BatchPlan(1, of, tuple(range(len(views)))), views, shape)["a"]


@pytest.mark.parametrize("shape", [StepShape(64, 64), StepShape(32, 128)])
def test_the_features_of_a_tile_are_those_of_its_image_alone(shape: StepShape) -> None:
    teacher, views = PatchTeacher(), pictures(8, 50, 70)
    output = outputs(64, views, shape, tiles=2)
    assert output.summary is None
    size = teacher_size(group(teacher_sizes={"a": 64}, mosaics={"a": 2}), "a", teacher.spec, shape)
    small = (size[0] // 2, size[1] // 2)
    alone = teacher(to_unit(views, small), small)
    torch.testing.assert_close(output.features, alone.features)
    assert not torch.equal(output.features[0], output.features[1])


def test_without_a_mosaic_a_teacher_sees_the_views_as_ever() -> None:
    teacher, views = PatchTeacher(), pictures(3, 50, 50)
    for shape, size in ((StepShape(64, 64), (64, 64)), (StepShape(32, 128), (32, 128))):
        output, wanted = outputs(64, views, shape), teacher(to_unit(views), size)
        assert torch.equal(output.features, wanted.features)
        assert output.summary is not None
        assert torch.equal(output.summary, wanted.summary)


def test_teachers_make_room_for_each_other(tiny_run: MakeRun) -> None:
    moves = []

    class Spy(torch.nn.Module):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        def to(self, device: object) -> "Spy":  # type: ignore[override]
            moves.append((self.name, str(device)))
            return self

    spies: dict[str, Teacher] = {name: Spy(name) for name in "abc"}  # type: ignore[misc]
    config = tiny_run(offload=True)
    targets = Targets(config, spies, {}, None, torch.device("meta"), Processes())
    targets.bring(("a", "b"))
    assert moves == [("c", "cpu"), ("a", "meta"), ("b", "meta")]
    targets.bring(("b", "c"))
    assert moves[3:] == [("a", "cpu"), ("b", "meta"), ("c", "meta")]
    replace(targets, config=tiny_run()).bring(("a",))
    assert len(moves) == 6


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
    return config.changed(
        stages=(StageConfig(steps=steps, groups=(low, high)),), optim={"warmup_steps": 1}
    )


def test_a_run_with_mosaics_and_all_kinds_of_shapes_learns(tiny_run: MakeRun) -> None:
    config = free_run(tiny_run)
    train(config, QUIET)
    groups = {row["group"] for row in read_metrics(config.run.out / "metrics.jsonl")}
    assert groups == {"clip+dino_v2@32,48", "sam@16,32"}
    student = RadioModel.from_pretrained(config.run.out / "student")
    assert student.preferred_resolution == (48, 48)
    assert student.forward_all(torch.rand(1, 3, 32, 48), ("sam",))["sam"].summary is None


def test_drawn_shapes_are_the_same_after_a_resume(tiny_run: MakeRun) -> None:
    whole = free_run(tiny_run)
    train(whole, QUIET)
    part = whole.changed(run={"out": whole.run.out.parent / "part", "max_steps": 3})
    train(part, QUIET)
    train(part.changed(run={"max_steps": 8, "resume": True}), QUIET)
    assert read_metrics(part.run.out / "metrics.jsonl") == read_metrics(
        whole.run.out / "metrics.jsonl"
    )


def test_several_resolutions_from_the_cache(tiny_run: MakeRun) -> None:
    config = tiny_run(cached_views=8, max_steps=8)
    group = replace(config.stages[0].groups[0], resolutions=(32, 48))
    stages = (replace(config.stages[0], groups=(group,)), config.stages[1])
    train(config.changed(stages=stages), QUIET)
    assert read_metrics(config.run.out / "metrics.jsonl")[0]["group"] == "clip+dino_v2@32,48"


def test_a_size_that_a_teacher_does_not_take_stops_the_run_before_it_begins(
    tiny_run: MakeRun,
) -> None:
    config = tiny_run()
    first, second = config.stages
    group = replace(second.groups[1], batch_size=9, mosaics={"sam": 3})
    stages = (first, replace(second, groups=(second.groups[0], group)))
    with pytest.raises(ValueError, match="3 x 3 tiles do not divide the grid of 8 patches"):
        train(config.changed(stages=stages), QUIET)
    assert not config.run.out.exists()
