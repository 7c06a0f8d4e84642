"""What happens at which step: group, samples and learning rate, all functions of (seed, step).

Nothing here has state, so a resumed run meets exactly the steps that it would have met.
"""

import math
from dataclasses import dataclass

import numpy as np

from radio_core.distill.config import GroupConfig, TrainConfig


@dataclass(frozen=True)
class Step:
    """One optimizer step.

    Attributes:
        number: from 1.
        group: the teacher group whose turn it is.
        views: ids of the views in its batch.
    """

    number: int
    group: GroupConfig
    views: tuple[int, ...]


class Schedule:
    """The plan of a run.

    Args:
        config: the run.
        num_images: images in the data source.

    A view is a crop of an image: view v shows image v mod num_images, cropped at random by
    (seed, v). With `cached_views` the run repeats that many views; otherwise each epoch has new
    ones. Every epoch visits its views once, in an order of its own.
    """

    def __init__(self, config: TrainConfig, num_images: int) -> None:
        self.config = config
        self.fresh = config.cached_views == 0
        self.epoch_size = num_images if self.fresh else config.cached_views
        rng = np.random.default_rng((config.seed, 1))
        self._groups: list[GroupConfig] = []
        chosen = []
        for stage in config.stages:
            rates = np.array([group.rate for group in stage.groups])
            drawn = rng.choice(len(rates), size=stage.steps, p=rates / rates.sum())
            chosen.append(drawn + len(self._groups))
            self._groups += stage.groups
        self._chosen = np.concatenate(chosen)
        sizes = np.array([group.batch_size for group in self._groups])[self._chosen]
        self._starts = np.concatenate([[0], np.cumsum(sizes)])
        self._order: tuple[int, np.ndarray] = (-1, np.empty(0, dtype=np.int64))

    def step(self, number: int) -> Step:
        """The step with this number, 1 … total_steps."""
        group = self._groups[self._chosen[number - 1]]
        first, last = self._starts[number - 1], self._starts[number]
        views = tuple(self._view(position) for position in range(first, last))
        return Step(number, group, views)

    def samples_before(self, number: int) -> int:
        """Images that the steps before this one consume."""
        return int(self._starts[number - 1])

    def learning_rate(self, number: int) -> float:
        """Linear warm-up, then a cosine down to zero at the end of the schedule."""
        config = self.config
        warm = min(number / max(config.warmup_steps, 1), 1.0)
        done = max(number - config.warmup_steps, 0) / max(
            config.total_steps - config.warmup_steps, 1
        )
        return config.lr * warm * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))

    def _view(self, position: int) -> int:
        epoch, place = divmod(position, self.epoch_size)
        if self._order[0] != epoch:
            rng = np.random.default_rng((self.config.seed, 2, epoch))
            self._order = (epoch, rng.permutation(self.epoch_size))
        view = int(self._order[1][place])
        return view + epoch * self.epoch_size if self.fresh else view


def step_seed(seed: int, number: int) -> int:
    """Seed of all torch randomness within one step (position crops, windows, dropout)."""
    return int(np.random.SeedSequence((seed, 3, number)).generate_state(1, np.uint64)[0] >> 1)
