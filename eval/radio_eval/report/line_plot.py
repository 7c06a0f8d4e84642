"""Line plots as one SVG or PNG file, without a plotting library."""

import html
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

FORMATS = (".svg", ".png")
_WIDTH, _PANEL, _TITLE = 640.0, 250.0, 40.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 72.0, 24.0, 28.0, 44.0
_INK, _GRID, _LINE, _MARK = "#333333", "#dddddd", "#2166ac", "#b2182b"
_TICKS = 5
_SHARPNESS, _PNG_SCALE = 2, 2
_NICE = (1.0, 2.0, 2.5, 5.0, 10.0)


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


@dataclass(frozen=True)
class _Stroke:
    points: tuple[tuple[float, float], ...]
    colour: str
    width: float = 1.0


@dataclass(frozen=True)
class _Dot:
    x: float
    y: float
    colour: str


@dataclass(frozen=True)
class _Text:
    x: float
    y: float
    text: str
    anchor: str = "middle"
    size: int = 12
    colour: str = _INK


_Shape = _Stroke | _Dot | _Text
_SVG_TO_PIL = {"start": "ls", "middle": "ms", "end": "rs"}


def write_plot(path: Path, title: str, x_label: str, panels: Sequence[Panel]) -> None:
    """Draw panels below each other, over the same x, into a .svg or .png file.

    Raises:
        ValueError: another kind of file.
    """
    check_plot_path(path)
    height = _TITLE + _PANEL * len(panels)
    shapes: list[_Shape] = [_Text(_WIDTH / 2, 26, title, size=15)]
    for number, panel in enumerate(panels):
        shapes += _panel_shapes(panel, x_label, _TITLE + _PANEL * number)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix.lower() == ".svg":
        path.write_text(_svg(shapes, height), encoding="utf-8")
    else:
        path.write_bytes(_png(shapes, height))


def check_plot_path(path: Path) -> None:
    """Raise ValueError unless `write_plot` can write such a file."""
    if path.suffix.lower() not in FORMATS:
        raise ValueError(f"a plot ends in {' or '.join(FORMATS)}, not {path.name!r}")


def _panel_shapes(panel: Panel, x_label: str, offset: float) -> Iterator[_Shape]:
    """Axes, ticks and the line of a panel whose top is at `offset`."""
    xs, ys = [x for x, _ in panel.points], [y for _, y in panel.points]
    marked = xs if panel.mark is None else [*xs, panel.mark]
    x_low, x_high = _padded(min(marked), max(marked))
    y_ticks = _ticks(0.0 if panel.from_zero else min(ys), max(ys))
    y_low, y_high = min(y_ticks[0], *ys), max(y_ticks[-1], *ys)
    left, right = _LEFT, _WIDTH - _RIGHT
    top, bottom = offset + _TOP, offset + _PANEL - _BOTTOM

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            left + (right - left) * (x - x_low) / (x_high - x_low),
            bottom - (bottom - top) * (y - y_low) / (y_high - y_low),
        )

    yield _Text(left, top - 9, panel.title, anchor="start", size=13)
    for tick in y_ticks:
        level = place(x_low, tick)[1]
        yield _Stroke(((left, level), (right, level)), _GRID)
        yield _Text(left - 8, level + 4, f"{tick:.4g}", anchor="end", size=11)
    for x in _spaced(xs):
        across = place(x, y_low)[0]
        yield _Stroke(((across, bottom), (across, bottom + 5)), _INK)
        yield _Text(across, bottom + 18, f"{x:g}", size=11)
    yield _Stroke(((left, bottom), (right, bottom)), _INK)
    yield _Text((left + right) / 2, bottom + 36, x_label, size=12)
    if panel.mark is not None:
        yield from _mark_shapes(place(panel.mark, y_low)[0], top, bottom, panel.mark_label)
    line = tuple(place(x, y) for x, y in panel.points)
    yield _Stroke(line, _LINE, 2.0)
    for x, y in line:
        yield _Dot(x, y, _LINE)


def _mark_shapes(x: float, top: float, bottom: float, label: str) -> Iterator[_Shape]:
    """A dashed vertical line with its name, which stays inside the panel."""
    dash, y = 6.0, top
    while y < bottom:
        yield _Stroke(((x, y), (x, min(y + dash, bottom))), _MARK)
        y += 2 * dash
    on_left = x > _WIDTH / 2
    shift, anchor = (-5.0, "end") if on_left else (5.0, "start")
    yield _Text(x + shift, top + 11, label, anchor=anchor, size=11, colour=_MARK)


def _padded(low: float, high: float) -> tuple[float, float]:
    margin = 0.04 * (high - low) or 1.0
    return low - margin, high + margin


def _ticks(low: float, high: float) -> list[float]:
    """About five round numbers that enclose low … high."""
    span = (high - low) or abs(high) or 1.0
    rough = span / _TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor for factor in _NICE if factor * power >= rough * 0.999) * power
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [number * step for number in range(first, max(last, first + 1) + 1)]


def _spaced(xs: Sequence[float]) -> list[float]:
    """Those x values whose numbers do not run into each other."""
    distance = (max(xs) - min(xs)) / 14
    kept: list[float] = []
    for x in xs:
        if not kept or x - kept[-1] >= distance:
            kept.append(x)
    return kept


def _svg(shapes: Sequence[_Shape], height: float) -> str:
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH:g} {height:g}" '
        f'width="{_WIDTH:g}" height="{height:g}" font-family="sans-serif">',
        f'<rect width="{_WIDTH:g}" height="{height:g}" fill="#ffffff"/>',
    ]
    for shape in shapes:
        if isinstance(shape, _Stroke):
            points = " ".join(f"{x:.1f},{y:.1f}" for x, y in shape.points)
            lines.append(
                f'<polyline points="{points}" fill="none" stroke="{shape.colour}" '
                f'stroke-width="{shape.width:g}"/>'
            )
        elif isinstance(shape, _Dot):
            lines.append(
                f'<circle cx="{shape.x:.1f}" cy="{shape.y:.1f}" r="3.5" fill="{shape.colour}"/>'
            )
        else:
            lines.append(
                f'<text x="{shape.x:.1f}" y="{shape.y:.1f}" text-anchor="{shape.anchor}" '
                f'font-size="{shape.size}" fill="{shape.colour}">{html.escape(shape.text)}</text>'
            )
    return "\n".join([*lines, "</svg>", ""])


def _png(shapes: Sequence[_Shape], height: float) -> bytes:
    """Drawn at twice the resolution of the file and averaged, for smooth lines."""
    scale = _PNG_SCALE * _SHARPNESS
    canvas = Image.new("RGB", (round(_WIDTH * scale), round(height * scale)), "#ffffff")
    pen = ImageDraw.Draw(canvas)
    for shape in shapes:
        if isinstance(shape, _Stroke):
            points = [(x * scale, y * scale) for x, y in shape.points]
            pen.line(points, fill=shape.colour, width=round(shape.width * scale), joint="curve")
        elif isinstance(shape, _Dot):
            pen.circle((shape.x * scale, shape.y * scale), 3.5 * scale, fill=shape.colour)
        else:
            font = ImageFont.load_default(shape.size * scale)
            place = (shape.x * scale, shape.y * scale)
            anchor = _SVG_TO_PIL[shape.anchor]
            pen.text(place, shape.text, fill=shape.colour, font=font, anchor=anchor)
    buffer = io.BytesIO()
    canvas.reduce(_SHARPNESS).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
