"""Random numbers per sample that do not depend on how a batch is cut into parts.

A trainer that spreads a batch over processes, or over micro-batches, says which part of the batch
a forward pass sees. Each part then draws for the whole batch and keeps its own rows, so that every
sample gets the numbers that it would get in one piece, given the same seed.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

_PART: ContextVar[tuple[int, int] | None] = ContextVar("part of a batch", default=None)


@contextmanager
def part_of_batch(first: int, whole: int) -> Iterator[None]:
    """Within this context, batches are the samples from `first` on of one with `whole` samples.

    Args:
        first: place of a forward pass's first sample in the whole batch.
        whole: samples of the whole batch.
    """
    token = _PART.set((first, whole))
    try:
        yield
    finally:
        _PART.reset(token)


def uniform(batch: int, *shape: int, device: torch.device) -> Tensor:
    """Uniform numbers in [0, 1) from torch's global generator, as [batch, *shape] float32."""
    first, whole = _PART.get() or (0, batch)
    assert first + batch <= whole, "the part lies within its batch"
    return torch.rand(whole, *shape, device=device)[first : first + batch]
