"""Sequences that LLaVA cuts off at their end: counted, and told."""

import warnings
from collections.abc import Sequence
from typing import Any

_ATTRIBUTE = "radio_truncation"


class TruncationWarning(UserWarning):
    """Text or images were cut off because a sequence was too long."""


class Truncation:
    """What a model has cut off so far.

    Attributes:
        sequences: number of sequences that were too long.
        tokens: number of tokens that they lost, at least.
    """

    def __init__(self) -> None:
        self.sequences = 0
        self.tokens = 0
        self._told = 0

    @classmethod
    def of(cls, model: Any) -> "Truncation":
        """The counter of a model, a new one where it has none yet."""
        counter = getattr(model, _ATTRIBUTE, None)
        if not isinstance(counter, cls):
            counter = cls()
            setattr(model, _ATTRIBUTE, counter)
        return counter

    def add(self, limit: int, lengths: Sequence[int]) -> None:
        """Count sequences of these lengths in tokens, cut off after `limit`.

        A `TruncationWarning` comes with the first, and each time their number has doubled.
        """
        longer = [length for length in lengths if length > limit]
        self.sequences += len(longer)
        self.tokens += sum(longer) - limit * len(longer)
        if longer and self.sequences >= 2 * self._told:
            self._told = self.sequences
            warnings.warn(
                f"{self.sequences} sequence(s) so far were cut off after {limit} tokens, and lost "
                f"{self.tokens} or more: raise --model_max_length, or lower --radio_resolution",
                TruncationWarning,
                stacklevel=2,
            )
