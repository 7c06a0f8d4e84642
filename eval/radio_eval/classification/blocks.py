"""Labelled images of any number, in blocks that are read one after the other."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from PIL import Image


@dataclass(frozen=True, kw_only=True)
class LabelledItem:
    """One image that has not been decoded yet.

    Attributes:
        name: path or key, for people.
        label: index of its class.
        read: the image as 8-bit RGB; raises `UnreadableImage` if that cannot be done.
    """

    name: str
    label: int
    read: Callable[[], Image.Image]


class Block(Protocol):
    """Some images of a split, always the same ones in the same order.

    One process computes a whole block: what comes out depends neither on how many processes there
    are nor on where a run was interrupted.
    """

    @property
    def count(self) -> int | None:
        """Number of images, if it is known before they are read."""

    def __iter__(self) -> Iterator[LabelledItem]:
        """The images.

        Raises:
            UnreadableImage: the rest of the block cannot be read.
        """


class ClassificationSet(Protocol):
    """A split of a classification data set."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Name of every class, also of those without an image; a label is an index into it."""

    def blocks(self, size: int) -> Sequence[Block]:
        """All images in blocks.

        Args:
            size: images a block, where the layout leaves a choice.
        """

    def identity(self) -> dict[str, Any] | None:
        """What tells this data from other data, as JSON types; None for data without files."""
