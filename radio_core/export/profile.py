"""The shapes of images that an engine is built for."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from radio_core.export.card import ExportCard
from radio_core.export.subject import check_size

_NAMES = ("minimum", "optimum", "maximum")
_SHAPE = re.compile(r"(\d{1,5})x(\d{1,5})x(\d{1,5})")


class Shape(NamedTuple):
    """A batch of images of one size."""

    batch: int
    height: int
    width: int

    def __str__(self) -> str:
        """BATCHxHEIGHTxWIDTH."""
        return f"{self.batch}x{self.height}x{self.width}"


def parse_shape(text: str) -> Shape:
    """The shape that BATCHxHEIGHTxWIDTH means.

    Raises:
        ValueError: another form, or a zero.
    """
    match = _SHAPE.fullmatch(text)
    if match is None or "0" in match.groups():
        raise ValueError(f"a shape is BATCHxHEIGHTxWIDTH, such as 4x432x432, not {text!r}")
    return Shape(*map(int, match.groups()))


@dataclass(frozen=True, kw_only=True)
class Profile:
    """The smallest and the largest shapes that an engine takes, and the one it is best at."""

    minimum: Shape
    optimum: Shape
    maximum: Shape

    def __post_init__(self) -> None:
        for low, high in ((self.minimum, self.optimum), (self.optimum, self.maximum)):
            if any(a > b for a, b in zip(low, high, strict=True)):
                raise ValueError(
                    f"the shapes of a profile must not shrink from min to opt to max: "
                    f"{self.minimum}, {self.optimum}, {self.maximum}"
                )

    @property
    def shapes(self) -> list[Shape]:
        """Its different shapes."""
        return list(dict.fromkeys((self.minimum, self.optimum, self.maximum)))

    def to_mapping(self) -> dict[str, str]:
        """The shapes as texts, for JSON."""
        return {name: str(getattr(self, name)) for name in _NAMES}

    def check(self, card: ExportCard) -> None:
        """Refuse a profile of which the network does not take a shape.

        Raises:
            ValueError: naming the shape and the nearest one.
        """
        for name in _NAMES:
            shape: Shape = getattr(self, name)
            try:
                check_size(card, shape.height, shape.width)
            except ValueError as error:
                raise ValueError(f"--{name[:3]} {shape}: {error}") from None

    def check_images(self, images: Tensor) -> None:
        """Raise ValueError unless images [B, 3, H, W] lie between `minimum` and `maximum`."""
        shape = Shape(*(images.shape[dim] for dim in (0, 2, 3)))
        bounds = zip(self.minimum, shape, self.maximum, strict=True)
        if not all(low <= side <= high for low, side, high in bounds):
            raise ValueError(
                f"images of shape {shape} are outside of what the engine was built for, "
                f"{self.minimum} to {self.maximum}"
            )


def read_profile(shapes: Mapping[str, str]) -> Profile:
    """The profile that `Profile.to_mapping` wrote.

    Raises:
        KeyError, TypeError, ValueError: a malformed one.
    """
    minimum, optimum, maximum = (parse_shape(shapes[name]) for name in _NAMES)
    return Profile(minimum=minimum, optimum=optimum, maximum=maximum)
