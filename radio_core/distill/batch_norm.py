"""Running statistics of BatchNorm that do not depend on the order of a step's micro-batches."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from radio_core.processes import Processes


class RunningStatistics:
    """Moves the running statistics of a model once a step, by the mean over its micro-batches.

    Each micro-batch starts from the statistics before the step. What normalises a sample in
    training is still its own micro-batch in its own process.

    Args:
        model: with any number of BatchNorm layers, or none.
        ranks: the processes that share a step.
    """

    def __init__(self, model: nn.Module, ranks: Processes) -> None:
        self._ranks = ranks
        layers = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        self._values = [value for layer in layers for value in _running(layer)]
        self._counts = [c for layer in layers if (c := layer.num_batches_tracked) is not None]
        self._before = [value.clone() for value in self._values]
        self._moves = [torch.zeros_like(value) for value in self._values]

    def __bool__(self) -> bool:
        """Whether the model has any."""
        return bool(self._values)

    def begin(self) -> None:
        """A step begins."""
        self._before = [value.clone() for value in self._values]
        self._moves = [torch.zeros_like(value) for value in self._values]

    def add(self, weight: float) -> None:
        """A micro-batch has been run, with this weight in the step."""
        for value, before, move in zip(self._values, self._before, self._moves, strict=True):
            move += weight * (value - before)
            value.copy_(before)

    def end(self) -> None:
        """All micro-batches of the step have been run, in every process."""
        self._ranks.sum(self._moves)
        for value, before, move in zip(self._values, self._before, self._moves, strict=True):
            value.copy_(before + move)
        for count in self._counts:
            count.zero_()  # it serves layers without momentum only, of which there are none


def _running(layer: nn.Module) -> Iterator[Tensor]:
    for name in ("running_mean", "running_var"):
        statistic = getattr(layer, name)
        if statistic is not None:
            yield statistic
