"""What happens at which step, and in which process: groups, samples, shapes and learning rates.

Everything is a pure function of (seed, step): a resumed run meets exactly the steps that it would
have met, every worker and every process works out the same plan, and no result of training depends
on how a step is shared out over processes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from radio_core.data.order import EpochShuffle, SampleOrder
from radio_core.distill.config import TrainConfig
from radio_core.distill.groups import GroupConfig, Size, StageConfig, tiles
from radio_core.models.backbone import BackboneConfig
from radio_core.streams import Stream


@dataclass(frozen=True)
class BatchPlan:
    """One group's batch of one optimizer step, or a part of that batch.

    Attributes:
        number: of the step, from 1.
        group: the teacher group whose turn it is.
        views: ids of the views in its batch.
        index: place of the group among those of its stage.
        offset: place of the first of `views` in the group's batch.
    """

    number: int
    group: GroupConfig
    views: tuple[int, ...]
    index: int = 0
    offset: int = 0

    def piece(self, pieces: int, piece: int) -> "BatchPlan":
        """One of several pieces, which differ by at most one sample, or one group of samples that
        fill the group's mosaics together; empty where there are more pieces than those."""
        unit = mosaic_images(self.group)
        units = len(self.views) // unit
        first, last = (units * n // pieces * unit for n in (piece, piece + 1))
        return replace(self, views=self.views[first:last], offset=self.offset + first)


class StepShape(NamedTuple):
    """The student's input at one step.

    Attributes:
        height: pixels.
        width: pixels.
        window: side in patches of the attention windows; None for global attention.
    """

    height: int
    width: int
    window: int | None = None

    @property
    def size(self) -> Size:
        """(height, width)."""
        return self.height, self.width


class Schedule:
    """The plan of a run.

    Args:
        config: the run.
        order: of the samples, see `radio_core.data.order`.

    A view is a crop of an image, at random by (seed, view). With `cached_views` the run repeats
    that many views, every epoch in an order of its own; otherwise `order` says which views come,
    and none comes twice.
    """

    def __init__(self, config: TrainConfig, order: SampleOrder) -> None:
        self.config, self.order = config, order
        rng = Stream.GROUPS.rng(config.run.seed)
        self._turns: list[tuple[tuple[int, GroupConfig], ...]] = []  # groups that step together
        chosen = []
        for stage in config.stages:
            groups = tuple(enumerate(stage.groups))
            if stage.all_groups:
                drawn, turns = np.zeros(stage.steps, dtype=np.int64), [groups]
            else:
                rates = np.array([group.rate for group in stage.groups])
                drawn = rng.choice(len(rates), size=stage.steps, p=rates / rates.sum())
                turns = [(group,) for group in groups]
            chosen.append(drawn + len(self._turns))
            self._turns += turns
        self._chosen = np.concatenate(chosen)
        sizes = np.array([sum(group.batch_size for _, group in turn) for turn in self._turns])
        self._starts = np.concatenate([[0], np.cumsum(sizes[self._chosen])])
        cached = config.targets.cached_views
        self._cached = EpochShuffle(cached, config.run.seed)

    def batches(self, number: int) -> tuple[BatchPlan, ...]:
        """The batches of a step, 1 … total_steps: one, or one of each group of its stage."""
        first, batches = int(self._starts[number - 1]), []
        cached = self.config.targets.cached_views
        for index, group in self._turns[self._chosen[number - 1]]:
            places = range(first, first + group.batch_size)
            if cached:
                views = tuple(self._cached(*divmod(place, cached)) for place in places)
            else:
                views = tuple(map(self.order.view, places))
            batches.append(BatchPlan(number, group, views, index))
            first = places.stop
        return tuple(batches)

    def stage(self, number: int) -> StageConfig:
        """The stage that a step belongs to."""
        for stage in self.config.stages:
            if number <= stage.steps:
                return stage
            number -= stage.steps
        raise AssertionError("a step beyond the end of the schedule")

    def samples_before(self, number: int) -> int:
        """Images that the steps before this one consume."""
        return int(self._starts[number - 1])

    def learning_rate(self, number: int) -> float:
        """Linear warm-up to the peak (the stage's or the run's), then a cosine down to zero at
        the end of the schedule."""
        optim, stage = self.config.optim, self.stage(number)
        peak = optim.lr if stage.lr is None else stage.lr
        warm = min(number / max(optim.warmup_steps, 1), 1.0)
        rest = max(self.config.total_steps - optim.warmup_steps, 1)
        done = max(number - optim.warmup_steps, 0) / rest
        return peak * warm * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))

    def weight_decay(self, number: int) -> float:
        """The weight decay of matrices: the stage's, or the run's."""
        own = self.stage(number).weight_decay
        return self.config.optim.weight_decay if own is None else own


def step_shape(batch: BatchPlan, seed: int, student: BackboneConfig) -> StepShape:
    """Draw what the student sees of a batch.

    A resolution is drawn uniformly, then height : width log-uniformly within the group's
    `max_aspect` (the nearest shape in multiples of the student's step is taken), then the window,
    out of those that tile that shape. What leaves no choice is not drawn.

    Args:
        batch: all or a part of it.
        seed: of the run.
        student: the shape of the student.
    """
    group, where = batch.group, (batch.number, batch.index)
    rng = Stream.SHAPE.rng(seed, *where)
    several = len(group.resolutions) > 1
    resolution = int(rng.choice(group.resolutions)) if several else group.resolutions[0]
    shapes = group.shapes(student.resolution_step, resolution)
    size = shapes[0]
    if len(shapes) > 1:
        limit = math.log(group.max_aspect)
        wanted = rng.uniform(-limit, limit)
        size = min(shapes, key=lambda size: abs(math.log(size[0] / size[1]) - wanted))
    fitting = [w for w in group.window_sizes if tiles(w, size, student.patch_size)]
    rng = Stream.WINDOW.rng(seed, *where)
    windowed = fitting and rng.random() < group.window_probability
    return StepShape(*size, int(rng.choice(fitting)) if windowed else None)


def mosaic_images(group: GroupConfig) -> int:
    """Samples of a group's batch that have to stay together, so that they fill all its mosaics."""
    return math.lcm(*(side**2 for side in group.mosaics.values()))


@dataclass(frozen=True)
class Partition:
    """The part of every step that one of several processes runs (paper section 4).

    Attributes:
        config: the run.
        rank: this process, from 0.
        size: number of processes.
    """

    config: TrainConfig
    rank: int = 0
    size: int = 1

    def part(self, stage: StageConfig, batches: Sequence[BatchPlan]) -> list[BatchPlan]:
        """This process's micro-batches of a step, in the order in which they are run.

        Args:
            stage: the stage of the step.
            batches: of the whole step, as `Schedule.batches` gives them.

        Returns:
            Parts of `batches`; their order is the groups', then the samples'. Empty for a process
            that has no sample of the step.
        """
        owners = group_ranks(stage, self.size)
        parts = []
        for batch in batches:
            ranks = owners[batch.index]
            if self.rank in ranks:
                share = batch.piece(len(ranks), ranks.index(self.rank))
                pieces = self.config.engine.accumulate
                parts += [share.piece(pieces, piece) for piece in range(pieces)]
        return [part for part in parts if part.views]

    def passes(self, stage: StageConfig, batches: Sequence[BatchPlan]) -> int:
        """The most micro-batches of a step that any process runs."""
        others = (Partition(self.config, rank, self.size) for rank in range(self.size))
        return max(len(other.part(stage, batches)) for other in others)

    def teachers(self) -> tuple[str, ...]:
        """The teachers that this process ever runs, in the order of the config."""
        needed = {
            name
            for stage in self.config.stages
            for group, ranks in zip(stage.groups, group_ranks(stage, self.size), strict=True)
            if self.rank in ranks
            for name in group.teachers
        }
        return tuple(name for name in self.config.teachers if name in needed)

    def holders(self, teacher: str) -> tuple[int, ...]:
        """The processes that run a teacher."""
        others = (Partition(self.config, rank, self.size) for rank in range(self.size))
        return tuple(other.rank for other in others if teacher in other.teachers())


def group_ranks(stage: StageConfig, size: int) -> list[tuple[int, ...]]:
    """The processes of each group of a stage, of `size` in all.

    Where every step draws one group, each group has them all. Where every step runs all groups,
    each has its own: one, and of the rest as many as its share, rounded by the largest remainder.
    With fewer processes than groups, every group has one process and the processes' sums of
    shares are about equal (the largest group first, to the process with the least so far).
    """
    if not stage.all_groups:
        return [tuple(range(size))] * len(stage.groups)
    shares = [g.rate if g.rank_share is None else g.rank_share for g in stage.groups]
    if size < len(shares):
        loads = [0.0] * size
        owner = [0] * len(shares)
        for index in sorted(range(len(shares)), key=lambda index: -shares[index]):
            owner[index] = loads.index(min(loads))
            loads[owner[index]] += shares[index]
        return [(rank,) for rank in owner]
    exact = [share * size / sum(shares) for share in shares]
    counts = [max(int(value), 1) for value in exact]
    while (missing := size - sum(counts)) != 0:
        rest = [value - count for value, count in zip(exact, counts, strict=True)]
        if missing > 0:
            counts[rest.index(max(rest))] += 1
        else:  # the least of one has been given too often: take from who has most too many
            candidates = [index for index, count in enumerate(counts) if count > 1]
            counts[min(candidates, key=lambda index: rest[index])] -= 1
    starts = [sum(counts[:index]) for index in range(len(counts))]
    return [tuple(range(start, start + n)) for start, n in zip(starts, counts, strict=True)]
