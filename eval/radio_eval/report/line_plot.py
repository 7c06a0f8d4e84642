"""Line plots as one SVG or PNG file."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

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

_WIDTH, _PANEL, _TITLE = 640.0, 250.0, 40.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 72.0, 24.0, 28.0, 44.0
_LINE, _MARK = "#2166ac", "#b2182b"


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One line over x.

    Attributes:
        title: what y is.
        points: (x, y), in ascending order of x.
        from_zero: the y axis begins at 0.
        mark: an x that gets a dashed line.
        mark_label: the name of that line.
    """

    title: str
    points: Sequence[tuple[float, float]]
    from_zero: bool = False
    mark: float | None = None
    mark_label: str = ""

    def __post_init__(self) -> None:
        if not self.points or not all(math.isfinite(value) for p in self.points for value in p):
            raise ValueError(f"plot {self.title!r} needs points, all of them finite")


def write_plot(path: Path, title: str, x_label: str, panels: Sequence[Panel]) -> None:
    """Draw panels below each other, over the same x, into a .svg or .png file.

    Raises:
        ValueError: another kind of file.
    """
    height = _TITLE + _PANEL * len(panels)
    shapes: list[Shape] = [Text(_WIDTH / 2, 26, title, size=15)]
    for number, panel in enumerate(panels):
        shapes += _panel_shapes(panel, x_label, _TITLE + _PANEL * number)
    write_drawing(path, shapes, _WIDTH, height)


def _panel_shapes(panel: Panel, x_label: str, offset: float) -> Iterator[Shape]:
    """Axes, ticks and the line of a panel whose top is at `offset`."""
    xs, ys = [x for x, _ in panel.points], [y for _, y in panel.points]
    marked = xs if panel.mark is None else [*xs, panel.mark]
    x_low, x_high = padded(min(marked), max(marked))
    y_ticks = ticks(0.0 if panel.from_zero else min(ys), max(ys))
    y_low, y_high = min(y_ticks[0], *ys), max(y_ticks[-1], *ys)
    left, right = _LEFT, _WIDTH - _RIGHT
    top, bottom = offset + _TOP, offset + _PANEL - _BOTTOM

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            left + (right - left) * (x - x_low) / (x_high - x_low),
            bottom - (bottom - top) * (y - y_low) / (y_high - y_low),
        )

    yield Text(left, top - 9, panel.title, anchor="start", size=13)
    for tick in y_ticks:
        level = place(x_low, tick)[1]
        yield Stroke(((left, level), (right, level)), GRID)
        yield Text(left - 8, level + 4, f"{tick:.4g}", anchor="end", size=11)
    for x in _spaced(xs):
        across = place(x, y_low)[0]
        yield Stroke(((across, bottom), (across, bottom + 5)), INK)
        yield Text(across, bottom + 18, f"{x:g}", size=11)
    yield Stroke(((left, bottom), (right, bottom)), INK)
    yield Text((left + right) / 2, bottom + 36, x_label, size=12)
    if panel.mark is not None:
        yield from _mark_shapes(place(panel.mark, y_low)[0], top, bottom, panel.mark_label)
    line = tuple(place(x, y) for x, y in panel.points)
    yield Stroke(line, _LINE, 2.0)
    for x, y in line:
        yield Dot(x, y, _LINE)


def _mark_shapes(x: float, top: float, bottom: float, label: str) -> Iterator[Shape]:
    """A dashed vertical line with its name, which stays inside the panel."""
    dash, y = 6.0, top
    while y < bottom:
        yield Stroke(((x, y), (x, min(y + dash, bottom))), _MARK)
        y += 2 * dash
    on_left = x > _WIDTH / 2
    shift, anchor = (-5.0, "end") if on_left else (5.0, "start")
    yield Text(x + shift, top + 11, label, anchor=anchor, size=11, colour=_MARK)


def _spaced(xs: Sequence[float]) -> list[float]:
    """Those x values whose numbers do not run into each other."""
    distance = (max(xs) - min(xs)) / 14
    kept: list[float] = []
    for x in xs:
        if not kept or x - kept[-1] >= distance:
            kept.append(x)
    return kept
