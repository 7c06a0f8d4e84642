"""The vocabulary of the toy world: shapes, colours and textures."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Point = tuple[float, float]

SHAPES: tuple[str, ...] = ("circle", "square", "triangle", "star", "cross", "ring")
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (205, 40, 40),
    "yellow": (230, 200, 40),
    "green": (45, 165, 60),
    "blue": (45, 85, 210),
    "purple": (150, 55, 180),
    "white": (238, 238, 238),
}
TEXTURES: tuple[str, ...] = ("plain", "striped", "dotted")

_RING_HOLE = 0.5
_CROSS_ARM = 0.38
_STAR_INNER = 0.5


def _regular(corners: int, start: float, radii: Sequence[float] = (1.0,)) -> list[Point]:
    """Corners of a regular polygon whose radii cycle through `radii`."""
    angles = [start + 2 * math.pi * k / corners for k in range(corners)]
    return [
        (radii[k % len(radii)] * math.cos(a), radii[k % len(radii)] * math.sin(a))
        for k, a in enumerate(angles)
    ]


def _cross() -> list[Point]:
    arm = _CROSS_ARM
    quarter = [(arm, 1.0), (arm, arm), (1.0, arm)]
    corners: list[Point] = []
    for turn in range(4):
        cos, sin = round(math.cos(-math.pi / 2 * turn)), round(math.sin(-math.pi / 2 * turn))
        corners += [(x * cos - y * sin, x * sin + y * cos) for x, y in quarter]
    return corners


_OUTLINES: dict[str, list[list[Point]]] = {
    "circle": [_regular(48, 0.0)],
    "square": [_regular(4, math.pi / 4, (1.15,))],
    "triangle": [_regular(3, -math.pi / 2, (1.15,))],
    "star": [_regular(10, -math.pi / 2, (1.15, 1.15 * _STAR_INNER))],
    "cross": [_cross()],
    "ring": [_regular(48, 0.0), _regular(48, 0.0, (_RING_HOLE,))],
}


def outlines(shape: str, centre: Point, radius: float, angle: float) -> list[list[Point]]:
    """Polygons of a shape in pixels: the outline first, then a hole if it has one.

    Args:
        shape: one of `SHAPES`.
        centre: (x, y) in pixels.
        radius: in pixels.
        angle: rotation in radians.
    """
    cos, sin = radius * math.cos(angle), radius * math.sin(angle)
    return [
        [(centre[0] + x * cos - y * sin, centre[1] + x * sin + y * cos) for x, y in polygon]
        for polygon in _OUTLINES[shape]
    ]


def shade(
    texture: str, x: NDArray[np.float32], y: NDArray[np.float32], radius: float, angle: float
) -> NDArray[np.float32]:
    """Brightness factor in [0.45, 1] of a texture at pixel offsets (x, y) from the centre."""
    if texture == "plain":
        return np.ones(np.broadcast_shapes(x.shape, y.shape), dtype=np.float32)
    u = x * np.float32(math.cos(angle)) + y * np.float32(math.sin(angle))
    v = y * np.float32(math.cos(angle)) - x * np.float32(math.sin(angle))
    pitch = max(0.42 * radius, 5.0)
    wave = np.sin(np.float32(2 * math.pi / pitch) * u)
    if texture == "striped":
        dark = wave > 0
    else:
        dark = wave * np.sin(np.float32(2 * math.pi / pitch) * v) > 0.3
    return np.where(dark, np.float32(0.45), np.float32(1.0))
