"""What happens at which step and in which process: a function of config, seed and step alone."""

import math
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from radio_core.data.order import PlainOrder
from radio_core.distill.config import (
    EngineConfig,
    OptimConfig,
    RunConfig,
    StudentConfig,
    TargetsConfig,
    TrainConfig,
)
from radio_core.distill.groups import GroupConfig, StageConfig, TeacherConfig
from radio_core.distill.schedule import (
    BatchPlan,
    Partition,
    Schedule,
    StepShape,
    group_ranks,
    step_shape,
)
from radio_core.models.vit import vit_config

LOW = GroupConfig(teachers=("a",), batch_size=4, resolutions=(16,), rate=3.0)
HIGH = GroupConfig(
    teachers=("b",), batch_size=3, resolutions=(32,), window_sizes=(1, 2), window_probability=0.4
)


def two_stages(
    low_steps: int = 1000, both_steps: int = 4000, cached: int = 0, seed: int = 0
) -> TrainConfig:
    return TrainConfig(
        student=StudentConfig(backbone=vit_config("tiny")),
        teachers={"a": TeacherConfig(source="a"), "b": TeacherConfig(source="b")},
        stages=(
            StageConfig(steps=low_steps, groups=(LOW,)),
            StageConfig(steps=both_steps, groups=(LOW, HIGH)),
        ),
        targets=TargetsConfig(cached_views=cached),
        optim=OptimConfig(warmup_steps=10, lr=2e-3),
        run=RunConfig(seed=seed),
    )


@pytest.mark.parametrize("cached", [0, 20])
def test_every_epoch_visits_each_view_once_in_an_order_of_its_own(cached: int) -> None:
    schedule = Schedule(two_stages(20, 20, cached), PlainOrder(14, 0))
    views = [view for number in range(1, 41) for view in schedule.batches(number)[0].views]
    size = cached or 14
    epochs = [views[start : start + size] for start in range(0, len(views) - size + 1, size)]
    assert len(epochs) > 4
    for number, epoch in enumerate(epochs):
        first = 0 if cached else number * size  # without a cache every epoch has new crops
        assert sorted(epoch) == list(range(first, first + size))
    orders = {tuple(view % size for view in epoch) for epoch in epochs}
    assert len(orders) == len(epochs)


def test_groups_take_turns_by_their_rates_within_their_stage() -> None:
    schedule = Schedule(two_stages(), PlainOrder(50, 0))
    steps = [schedule.batches(number)[0] for number in range(1, 5001)]
    assert {step.group for step in steps[:1000]} == {LOW}
    share = Counter(step.group.name for step in steps[1000:])["a@16"] / 4000
    assert share == pytest.approx(0.75, abs=0.03)
    assert all(len(step.views) == step.group.batch_size for step in steps)


def test_a_step_is_the_same_whatever_was_asked_before() -> None:
    forward, mixed = (Schedule(two_stages(5, 25), PlainOrder(11, 0)) for _ in range(2))
    wanted = {number: forward.batches(number) for number in range(1, 31)}
    for number in (30, 1, 17, 16, 29, 2, 17):
        assert mixed.batches(number) == wanted[number]
        assert mixed.samples_before(number) == sum(
            len(wanted[earlier][0].views) for earlier in range(1, number)
        )


def test_another_seed_is_another_run() -> None:
    one, other = (Schedule(two_stages(seed=seed), PlainOrder(100, seed)) for seed in (0, 1))
    assert one.batches(1) != other.batches(1)
    groups = [[s.batches(number)[0].group for number in range(1001, 1101)] for s in (one, other)]
    assert groups[0] != groups[1]


def test_learning_rate_rises_linearly_and_falls_as_a_cosine_to_zero() -> None:
    schedule = Schedule(two_stages(50, 60), PlainOrder(10, 0))
    rates = [schedule.learning_rate(number) for number in range(1, 111)]
    assert rates[:10] == pytest.approx([2e-3 * number / 10 for number in range(1, 11)])
    assert max(rates) == rates[9] == pytest.approx(2e-3)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[59] == pytest.approx(1e-3)  # half-way between the warm-up and the end
    assert rates[34] == pytest.approx(1e-3 * (1 + math.cos(math.pi / 4)))
    assert rates[-1] == pytest.approx(0, abs=1e-12)


STUDENT = vit_config("tiny")
STEPS = range(1, 2001)


def group(**changes: Any) -> GroupConfig:
    values = {"teachers": ("a",), "batch_size": 8, "resolutions": (64,)}
    return GroupConfig(**{**values, **changes})


def shape(of: GroupConfig, number: int, seed: int = 0, index: int = 0) -> StepShape:
    return step_shape(BatchPlan(number, of, (), index), seed, STUDENT)


def test_windows_are_drawn_by_their_probability_and_only_where_asked_for() -> None:
    assert {shape(LOW, number).window for number in range(200)} == {None}
    drawn = Counter(shape(HIGH, number).window for number in range(3000))
    assert drawn[None] / 3000 == pytest.approx(0.6, abs=0.03)
    assert drawn[1] / 3000 == pytest.approx(0.2, abs=0.03)


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
        shapes = group(resolutions=(side,), max_aspect=max_aspect).shapes(8)
        assert (side, side) in shapes
        assert {(width, height) for height, width in shapes} == set(shapes)
        for height, width in shapes:
            assert height % 8 == width % 8 == 0
            assert 1 / max_aspect <= height / width <= max_aspect
            assert height * width == pytest.approx(side**2, rel=0.08)
    tallest = max(
        height / width
        for height, width in group(resolutions=(256,), max_aspect=max_aspect).shapes(8)
    )
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


PAIR = GroupConfig(teachers=("a", "b"), batch_size=7, resolutions=(16,))
TILED = GroupConfig(teachers=("c",), batch_size=8, resolutions=(32,), mosaics={"c": 2})


def partitioned(accumulate: int = 1, mode: str = "all") -> TrainConfig:
    teachers = {name: TeacherConfig(source=name, summary_weight=0.0) for name in "abc"}
    return TrainConfig(
        student=StudentConfig(backbone=vit_config("tiny")),
        teachers=teachers,
        stages=(StageConfig(steps=5, groups=(PAIR, TILED), groups_per_step=mode),),  # type: ignore[arg-type]
        engine=EngineConfig(accumulate=accumulate),
    )


def batches() -> tuple[BatchPlan, BatchPlan]:
    return BatchPlan(1, PAIR, tuple(range(7)), 0), BatchPlan(1, TILED, tuple(range(7, 15)), 1)


def sharing(*shares: float) -> StageConfig:
    groups = tuple(replace(PAIR, rate=share) for share in shares)
    return StageConfig(steps=1, groups=groups, groups_per_step="all")


@pytest.mark.parametrize(
    ("shares", "size", "counts"),
    [
        ((1, 1), 64, (32, 32)),  # the paper's two groups
        ((1, 1), 3, (2, 1)),
        ((3, 1), 8, (6, 2)),
        ((5, 3, 2), 7, (4, 2, 1)),  # 3.5, 2.1 and 1.4: the largest remainder gets the seventh
        ((100, 1, 1), 4, (2, 1, 1)),  # nobody goes away empty
        ((1,), 4, (4,)),
    ],
)
def test_processes_are_shared_out_by_the_largest_remainder(
    shares: tuple[float, ...], size: int, counts: tuple[int, ...]
) -> None:
    ranks = group_ranks(sharing(*shares), size)
    assert tuple(map(len, ranks)) == counts
    assert sorted(rank for group in ranks for rank in group) == list(range(size))


def test_with_fewer_processes_than_groups_one_has_several() -> None:
    assert group_ranks(sharing(1, 1, 1), 1) == [(0,)] * 3
    owners = group_ranks(sharing(5, 3, 1, 1), 2)
    assert owners == [(0,), (1,), (1,), (1,)]


def test_rank_share_takes_the_place_of_the_rate() -> None:
    stage = StageConfig(steps=1, groups=(PAIR, replace(TILED, rank_share=3)), groups_per_step="all")
    assert [len(ranks) for ranks in group_ranks(stage, 8)] == [2, 6]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 20])
@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("mode", ["one", "all"])
def test_every_sample_is_run_once(size: int, accumulate: int, mode: str) -> None:
    run = partitioned(accumulate, mode)
    plan = batches()[1:] if mode == "one" else batches()
    seen = []
    for rank in range(size):
        partition = Partition(run, rank, size)
        for part in partition.part(run.stages[0], plan):
            whole = plan[part.index - plan[0].index]
            last = part.offset + len(part.views)
            assert part.views == whole.views[part.offset : last]
            assert set(part.group.teachers) <= set(partition.teachers())
            if part.group is TILED:
                assert len(part.views) % 4 == part.offset % 4 == 0  # mosaics stay whole
            seen += part.views
        assert len(partition.part(run.stages[0], plan)) <= partition.passes(run.stages[0], plan)
    assert sorted(seen) == [view for whole in plan for view in whole.views]


def test_a_process_has_the_teachers_of_its_groups_alone() -> None:
    both = [Partition(partitioned(), rank, 2) for rank in range(2)]
    assert [partition.teachers() for partition in both] == [("a", "b"), ("c",)]
    assert both[0].holders("a") == (0,)
    assert both[0].holders("c") == (1,)
    assert Partition(partitioned(mode="one"), 1, 2).teachers() == ("a", "b", "c")


def test_pieces_differ_by_one_unit_at_most() -> None:
    tiled = replace(PAIR, teachers=("a", "c"), batch_size=72, mosaics={"a": 2, "c": 3})
    for of, count, pieces, unit in (
        (PAIR, 7, 3, 1),
        (PAIR, 2, 5, 1),
        (TILED, 16, 3, 4),
        (tiled, 72, 3, 36),
    ):
        whole = BatchPlan(1, of, tuple(range(count)))
        parts = [whole.piece(pieces, piece) for piece in range(pieces)]
        assert sum((part.views for part in parts), ()) == whole.views
        assert all(part.views == whole.views[part.offset :][: len(part.views)] for part in parts)
        sizes = {len(part.views) / unit for part in parts}
        assert max(sizes) - min(sizes) <= 1
        assert all(size.is_integer() for size in sizes)
