"""What happens at which step: group, samples and learning rate, all functions of (seed, step).

Nothing here has state, so a resumed run meets exactly the steps that it would have met.
"""

import math
from dataclasses import dataclass, replace

import numpy as np

from radio_core.data.order import EpochShuffle, SampleOrder
from radio_core.distill.config import GroupConfig, StageConfig, TrainConfig
from radio_core.streams import Stream


@dataclass(frozen=True)
class Step:
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

    def part(self, first: int, last: int) -> "Step":
        """The batch's views first … last - 1."""
        return replace(self, views=self.views[first:last], offset=self.offset + first)

    @property
    def share(self) -> float:
        """The share of the group's batch that this is."""
        return len(self.views) / self.group.batch_size


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
        self.config = config
        self.order = order
        rng = Stream.GROUPS.rng(config.seed)
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
        sizes = sizes[self._chosen]
        self._starts = np.concatenate([[0], np.cumsum(sizes)])
        self._cached = EpochShuffle(config.cached_views, config.seed, Stream.CACHED_VIEWS)

    def batches(self, number: int) -> tuple[Step, ...]:
        """The batches of a step, 1 … total_steps: one, or one of each group of its stage."""
        first, batches = int(self._starts[number - 1]), []
        for index, group in self._turns[self._chosen[number - 1]]:
            last = first + group.batch_size
            views = tuple(self._view(position) for position in range(first, last))
            batches.append(Step(number, group, views, index))
            first = last
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
        config, stage = self.config, self.stage(number)
        peak = config.lr if stage.lr is None else stage.lr
        warm = min(number / max(config.warmup_steps, 1), 1.0)
        done = max(number - config.warmup_steps, 0) / max(
            config.total_steps - config.warmup_steps, 1
        )
        return peak * warm * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))

    def weight_decay(self, number: int) -> float:
        """The weight decay of matrices: the stage's, or the run's."""
        own = self.stage(number).weight_decay
        return self.config.weight_decay if own is None else own

    def _view(self, position: int) -> int:
        if self.config.cached_views:
            return self._cached(*divmod(position, self.config.cached_views))
        return self.order.view(position)


def step_seed(seed: int, number: int, index: int = 0) -> int:
    """Seed of all torch randomness (position crops, dropout) of one group within one step."""
    return Stream.STEP.number(seed, number, index) >> 1
