"""Which process runs which samples of a step (paper section 4, "rank/teacher partitioning").

Pure functions of the config and the number of processes: every process works out the whole plan
and takes its own part. No result of training depends on the plan, only its speed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from radio_core.distill.config import TrainConfig
from radio_core.distill.group_config import GroupConfig, StageConfig
from radio_core.distill.schedule import Step


@dataclass(frozen=True)
class Partition:
    """The part of every step that one of several processes runs.

    Attributes:
        config: the run.
        rank: this process, from 0.
        size: number of processes.
    """

    config: TrainConfig
    rank: int = 0
    size: int = 1

    def part(self, stage: StageConfig, batches: Sequence[Step]) -> list[Step]:
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
            if self.rank not in ranks:
                continue
            unit = mosaic_images(batch.group)
            share = batch.part(*cut(len(batch.views), len(ranks), ranks.index(self.rank), unit))
            pieces = self.config.accumulate
            for piece in range(pieces):
                parts.append(share.part(*cut(len(share.views), pieces, piece, unit)))
        return [part for part in parts if part.views]

    def passes(self, stage: StageConfig, batches: Sequence[Step]) -> int:
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
    """The processes of each group of a stage.

    Where every step draws one group, each group has them all. Where every step runs all groups,
    they are shared out.
    """
    if not stage.all_groups:
        return [tuple(range(size))] * len(stage.groups)
    shares = [
        group.rate if group.rank_share is None else group.rank_share for group in stage.groups
    ]
    return share_out(shares, size)


def share_out(shares: Sequence[float], size: int) -> list[tuple[int, ...]]:
    """Give each group its processes.

    Args:
        shares: weight of each group, positive.
        size: number of processes.

    Returns:
        The ranks of each group. With at least as many processes as groups every group has its
        own ones: one, and of the rest as many as its share, rounded by the largest remainder.
        With fewer, every group has one process and the processes' sums of shares are about equal
        (the largest group first, to the process with the least so far).
    """
    if size < len(shares):
        loads = [0.0] * size
        owner = [0] * len(shares)
        for index in sorted(range(len(shares)), key=lambda index: -shares[index]):
            owner[index] = loads.index(min(loads))
            loads[owner[index]] += shares[index]
        return [(rank,) for rank in owner]
    counts = _largest_remainder(shares, size)
    starts = [sum(counts[:index]) for index in range(len(counts))]
    return [tuple(range(s, s + count)) for s, count in zip(starts, counts, strict=True)]


def _largest_remainder(shares: Sequence[float], seats: int) -> list[int]:
    """Whole numbers in proportion to `shares`, at least 1 each, that add up to `seats`."""
    exact = [share * seats / sum(shares) for share in shares]
    counts = [max(int(value), 1) for value in exact]
    while (missing := seats - sum(counts)) != 0:
        rest = [value - count for value, count in zip(exact, counts, strict=True)]
        if missing > 0:
            counts[rest.index(max(rest))] += 1
        else:  # the least of one has been given too often: take from who has most too many
            candidates = [index for index, count in enumerate(counts) if count > 1]
            counts[min(candidates, key=lambda index: rest[index])] -= 1
    return counts


def cut(count: int, pieces: int, piece: int, unit: int = 1) -> tuple[int, int]:
    """One of several pieces of 0 … count - 1, as (first, last + 1); sizes differ by one unit.

    Args:
        count: number of samples, a multiple of `unit`.
        pieces: number of pieces; some are empty where there are more of them than units.
        piece: which one, from 0.
        unit: samples that stay together.
    """
    units = count // unit
    return units * piece // pieces * unit, units * (piece + 1) // pieces * unit


def mosaic_images(group: GroupConfig) -> int:
    """Samples of a group's batch that have to stay together, so that they fill all its mosaics."""
    return math.lcm(*(side**2 for side in group.mosaics.values()))
