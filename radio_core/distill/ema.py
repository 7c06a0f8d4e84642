"""A moving average of the student's weights, which is often better than the last weights."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class WeightAverage:
    """avg <- d avg + (1 - d) w after each step, d = min(decay, (1 + n) / (10 + n)) at step n.

    The smaller d of the first steps lets the average forget the weights before training. Buffers
    are not averaged.

    Args:
        model: whose parameters are followed; perhaps sharded, then so is the average.
        decay: in (0, 1).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self._model = model
        self._values = {name: p.detach().clone() for name, p in model.named_parameters()}

    @torch.no_grad()
    def update(self, number: int) -> None:
        """Take over the weights after the optimizer step with this number, from 1."""
        decay = min(self.decay, (1 + number) / (10 + number))
        for name, parameter in self._model.named_parameters():
            self._values[name].lerp_(parameter.detach(), 1 - decay)

    def tensors(self) -> dict[str, Tensor]:
        """The averages by the parameters' names."""
        return dict(self._values)

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over averages from a checkpoint, of the same names, shapes and sharding.

        Raises:
            ValueError: the names differ.
        """
        if tensors.keys() != self._values.keys():
            names = sorted(tensors.keys() ^ self._values.keys())
            raise ValueError(f"the moving average has other weights: {', '.join(names[:5])}")
        for name, value in tensors.items():
            self._values[name].copy_(value)
