"""Who runs what: a plan that gives every sample of a step to exactly one process."""

from dataclasses import replace
from itertools import pairwise

import pytest

from radio_core.distill.config import GroupConfig, StageConfig, TeacherConfig, TrainConfig
from radio_core.distill.partition import (
    Partition,
    cut,
    group_ranks,
    mosaic_images,
    share_out,
)
from radio_core.distill.schedule import Step
from radio_core.models.vit import vit_config

LOW = GroupConfig(teachers=("a", "b"), batch_size=7, resolutions=(16,))
HIGH = GroupConfig(teachers=("c",), batch_size=8, resolutions=(32,), mosaics={"c": 2})


def test_pieces_of_a_batch_fill_mosaics_of_every_size() -> None:
    group = replace(HIGH, teachers=("a", "c"), batch_size=72, mosaics={"a": 2, "c": 3})
    assert mosaic_images(group) == 36
    assert mosaic_images(LOW) == 1
    assert [cut(72, 3, piece, 36) for piece in range(3)] == [(0, 0), (0, 36), (36, 72)]


def config(accumulate: int = 1, mode: str = "all") -> TrainConfig:
    teachers = {name: TeacherConfig(source=name, summary_weight=0.0) for name in "abc"}
    return TrainConfig(
        student=vit_config("tiny"),
        teachers=teachers,
        stages=(StageConfig(steps=5, groups=(LOW, HIGH), groups_per_step=mode),),  # type: ignore[arg-type]
        accumulate=accumulate,
        warmup_steps=1,
    )


def batches() -> tuple[Step, Step]:
    return Step(1, LOW, tuple(range(7)), 0), Step(1, HIGH, tuple(range(7, 15)), 1)


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
    ranks = share_out(shares, size)
    assert tuple(map(len, ranks)) == counts
    assert sorted(rank for group in ranks for rank in group) == list(range(size))


def test_with_fewer_processes_than_groups_one_has_several() -> None:
    assert share_out((1, 1, 1), 1) == [(0,)] * 3
    owners = share_out((5, 3, 1, 1), 2)
    assert owners == [(0,), (1,), (1,), (1,)]


def test_rank_share_takes_the_place_of_the_rate() -> None:
    stage = StageConfig(steps=1, groups=(LOW, replace(HIGH, rank_share=3)), groups_per_step="all")
    assert [len(ranks) for ranks in group_ranks(stage, 8)] == [2, 6]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 20])
@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("mode", ["one", "all"])
def test_every_sample_is_run_once(size: int, accumulate: int, mode: str) -> None:
    run = config(accumulate, mode)
    plan = batches()[1:] if mode == "one" else batches()
    seen = []
    for rank in range(size):
        partition = Partition(run, rank, size)
        for part in partition.part(run.stages[0], plan):
            whole = plan[part.index - plan[0].index]
            last = part.offset + len(part.views)
            assert part.views == whole.views[part.offset : last]
            assert set(part.group.teachers) <= set(partition.teachers())
            if part.group is HIGH:
                assert len(part.views) % 4 == part.offset % 4 == 0  # mosaics stay whole
            seen += part.views
        assert len(partition.part(run.stages[0], plan)) <= partition.passes(run.stages[0], plan)
    assert sorted(seen) == [view for whole in plan for view in whole.views]


def test_a_process_has_the_teachers_of_its_groups_alone() -> None:
    both = [Partition(config(), rank, 2) for rank in range(2)]
    assert [partition.teachers() for partition in both] == [("a", "b"), ("c",)]
    assert both[0].holders("a") == (0,)
    assert both[0].holders("c") == (1,)
    assert Partition(config(mode="one"), 1, 2).teachers() == ("a", "b", "c")


def test_pieces_differ_by_one_unit_at_most() -> None:
    for count, pieces, unit in [(7, 3, 1), (2, 5, 1), (16, 3, 4), (0, 2, 1)]:
        bounds = [cut(count, pieces, piece, unit) for piece in range(pieces)]
        assert [bounds[0][0], bounds[-1][1]] == [0, count]
        assert all(one[1] == two[0] for one, two in pairwise(bounds))
        sizes = [(last - first) // unit for first, last in bounds]
        assert max(sizes) - min(sizes) <= 1
