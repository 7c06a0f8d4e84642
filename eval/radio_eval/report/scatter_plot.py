"""Quality against speed as one SVG or PNG file (paper Figure 3)."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from radio_eval.report.drawing import (
    GRID,
    INK,
    Dot,
    Shape,
    Stroke,
    Text,
    padded,
    ticks,
    write_drawing,
)

_WIDTH, _PANEL, _TITLE = 720.0, 340.0, 40.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 64.0, 24.0, 28.0, 48.0
_POINT, _FRONT, _FRONT_LINE = "#2166ac", "#b2182b", "#e6a6ad"
_LETTER, _LINE = 5.6, 12.0  # pixels of the names beside the points
_ROUND = (1, 2, 5)


class Point(NamedTuple):
    """One model: its name, images a second (above 0), and its quality."""

    name: str
    speed: float
    quality: float


@dataclass(frozen=True, kw_only=True)
class Scatter:
    """Models by speed and one measure of quality, of which more is better.

    Attributes:
        title: what the quality is.
        points: at least one; all finite.
    """

    title: str
    points: Sequence[Point]

    def __post_init__(self) -> None:
        good = all(p.speed > 0 and math.isfinite(p.speed + p.quality) for p in self.points)
        if not self.points or not good:
            raise ValueError(f"plot {self.title!r} needs points, finite and of a speed above 0")


def write_scatter(path: Path, title: str, x_label: str, panels: Sequence[Scatter]) -> None:
    """Draw panels below each other into a .svg or .png file, speed on a logarithmic axis.

    A red line joins the models that no other one beats in both speed and quality.

    Raises:
        ValueError: another kind of file.
    """
    shapes: list[Shape] = [Text(_WIDTH / 2, 26, title, size=15)]
    for number, panel in enumerate(panels):
        shapes += _panel_shapes(panel, x_label, _TITLE + _PANEL * number)
    write_drawing(path, shapes, _WIDTH, _TITLE + _PANEL * len(panels))


def pareto_front(points: Sequence[Point]) -> list[Point]:
    """The models that no other one beats in both speed and quality, fastest first."""
    front: list[Point] = []
    for point in sorted(points, key=lambda p: (-p.speed, -p.quality)):
        if not front or point.quality > front[-1].quality:
            front.append(point)
    return front


def _panel_shapes(panel: Scatter, x_label: str, offset: float) -> Iterator[Shape]:
    """Axes, front, points and names of a panel whose top is at `offset`."""
    x_low, x_high = padded(*_ends([math.log10(p.speed) for p in panel.points]))
    y_ticks = ticks(*_ends([p.quality for p in panel.points]))
    y_low, y_high = y_ticks[0], y_ticks[-1]
    left, right = _LEFT, _WIDTH - _RIGHT
    top, bottom = offset + _TOP, offset + _PANEL - _BOTTOM

    def place(speed: float, quality: float) -> tuple[float, float]:
        return (
            left + (right - left) * (math.log10(speed) - x_low) / (x_high - x_low),
            bottom - (bottom - top) * (quality - y_low) / (y_high - y_low),
        )

    yield Text(left, top - 9, panel.title, anchor="start", size=13)
    for tick in y_ticks:
        level = place(10**x_low, tick)[1]
        yield Stroke(((left, level), (right, level)), GRID)
        yield Text(left - 8, level + 4, f"{tick:.4g}", anchor="end", size=11)
    for speed in _round_speeds(10**x_low, 10**x_high):
        across = place(speed, y_low)[0]
        yield Stroke(((across, bottom), (across, bottom + 5)), INK)
        yield Text(across, bottom + 18, f"{speed:g}", size=11)
    yield Stroke(((left, bottom), (right, bottom)), INK)
    yield Text((left + right) / 2, bottom + 38, x_label, size=12)
    front = pareto_front(panel.points)
    yield Stroke(tuple(place(p.speed, p.quality) for p in front), _FRONT_LINE, 1.5)
    placed = [(p.name, *place(p.speed, p.quality)) for p in panel.points]
    for point, (_, x, y) in zip(panel.points, placed, strict=True):
        yield Dot(x, y, _FRONT if point in front else _POINT)
    yield from _names(placed, right)


def _ends(values: Sequence[float]) -> tuple[float, float]:
    return min(values), max(values)


def _round_speeds(low: float, high: float) -> list[float]:
    """1, 2, 5, 10, 20 … within low … high; the two ends themselves where there are fewer than 2."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    inside = [m * 10.0**p for p in powers for m in _ROUND if low <= m * 10.0**p <= high]
    return inside if len(inside) > 1 else [float(f"{end:.2g}") for end in (low, high)]


def _names(placed: Sequence[tuple[str, float, float]], right: float) -> Iterator[Text]:
    """The names beside their points, moved up or down where they would cover something."""
    taken = [(y + 4, x - 5, x + 5) for _, x, y in placed]
    for name, x, y in sorted(placed, key=lambda item: item[2]):
        width = _LETTER * len(name)
        begins = x + 7 if x + 7 + width <= right else x - 7 - width
        line = y + 4
        for step in (0, -1, 1, -2, 2, -3, 3):
            line = y + 4 + step * _LINE
            if all(
                abs(line - other) >= _LINE or begins + width < start or end < begins
                for other, start, end in taken
            ):
                break
        taken.append((line, begins, begins + width))
        yield Text(begins, line, name, anchor="start", size=10)
