"""Simple drawings (lines, dots and words) as one SVG or PNG file, without a plotting library."""

import html
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

FORMATS = (".svg", ".png")
INK, GRID = "#333333", "#dddddd"
_TICKS = 5
_SHARPNESS, _PNG_SCALE = 2, 2
_NICE = (1.0, 2.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True)
class Stroke:
    """A line through points, in pixels from the top left corner."""

    points: tuple[tuple[float, float], ...]
    colour: str
    width: float = 1.0


@dataclass(frozen=True)
class Dot:
    """A filled circle."""

    x: float
    y: float
    colour: str


@dataclass(frozen=True)
class Text:
    """Words; `anchor` says which end of their baseline lies at (x, y)."""

    x: float
    y: float
    text: str
    anchor: str = "middle"
    size: int = 12
    colour: str = INK


Shape = Stroke | Dot | Text
_SVG_TO_PIL = {"start": "ls", "middle": "ms", "end": "rs"}


def write_drawing(path: Path, shapes: Sequence[Shape], width: float, height: float) -> None:
    """Write shapes on white, later ones above earlier ones, into a .svg or .png file.

    Raises:
        ValueError: another kind of file.
    """
    check_plot_path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix.lower() == ".svg":
        path.write_text(_svg(shapes, width, height), encoding="utf-8")
    else:
        path.write_bytes(_png(shapes, width, height))


def check_plot_path(path: Path) -> None:
    """Raise ValueError unless `write_drawing` can write such a file."""
    if path.suffix.lower() not in FORMATS:
        raise ValueError(f"a plot ends in {' or '.join(FORMATS)}, not {path.name!r}")


def padded(low: float, high: float) -> tuple[float, float]:
    """A range that leaves some air at both ends."""
    margin = 0.04 * (high - low) or 1.0
    return low - margin, high + margin


def ticks(low: float, high: float) -> list[float]:
    """About five round numbers that enclose low … high."""
    span = (high - low) or abs(high) or 1.0
    rough = span / _TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor for factor in _NICE if factor * power >= rough * 0.999) * power
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [number * step for number in range(first, max(last, first + 1) + 1)]


def _svg(shapes: Sequence[Shape], width: float, height: float) -> str:
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" '
        f'width="{width:g}" height="{height:g}" font-family="sans-serif">',
        f'<rect width="{width:g}" height="{height:g}" fill="#ffffff"/>',
    ]
    for shape in shapes:
        if isinstance(shape, Stroke):
            points = " ".join(f"{x:.1f},{y:.1f}" for x, y in shape.points)
            lines.append(
                f'<polyline points="{points}" fill="none" stroke="{shape.colour}" '
                f'stroke-width="{shape.width:g}"/>'
            )
        elif isinstance(shape, Dot):
            lines.append(
                f'<circle cx="{shape.x:.1f}" cy="{shape.y:.1f}" r="3.5" fill="{shape.colour}"/>'
            )
        else:
            lines.append(
                f'<text x="{shape.x:.1f}" y="{shape.y:.1f}" text-anchor="{shape.anchor}" '
                f'font-size="{shape.size}" fill="{shape.colour}">{html.escape(shape.text)}</text>'
            )
    return "\n".join([*lines, "</svg>", ""])


def _png(shapes: Sequence[Shape], width: float, height: float) -> bytes:
    """Drawn at twice the resolution of the file and averaged, for smooth lines."""
    scale = _PNG_SCALE * _SHARPNESS
    canvas = Image.new("RGB", (round(width * scale), round(height * scale)), "#ffffff")
    pen = ImageDraw.Draw(canvas)
    for shape in shapes:
        if isinstance(shape, Stroke):
            points = [(x * scale, y * scale) for x, y in shape.points]
            pen.line(points, fill=shape.colour, width=round(shape.width * scale), joint="curve")
        elif isinstance(shape, Dot):
            pen.circle((shape.x * scale, shape.y * scale), 3.5 * scale, fill=shape.colour)
        else:
            font = ImageFont.load_default(shape.size * scale)
            place = (shape.x * scale, shape.y * scale)
            anchor = _SVG_TO_PIL[shape.anchor]
            pen.text(place, shape.text, fill=shape.colour, font=font, anchor=anchor)
    buffer = io.BytesIO()
    canvas.reduce(_SHARPNESS).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
