"""Figures by matplotlib: curves, bars, confusion, quality against speed; as SVG or PNG."""

import io
import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from radio_core.distill.run_folder import read_metrics
from radio_core.extras import require

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = (".svg", ".png")
ACCENT, GOOD, BAD = "#0b6bcb", "#13733a", "#b3261e"
INK, RULE = "#1c2126", "#dfe4e8"
"""Of texts and of grids; pages replace them by their own, which follow the reader's dark mode."""
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # texts stay texts
    "svg.hashsalt": "radio",  # the same figure is the same file
    "text.parse_math": False,  # names are shown as they are
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.8,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.titlecolor"), INK),
    **dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color"), INK),
}
_MOST_BARS = 25
"""In one column."""
_LEAST_SHARE = 0.01
Curve = list[tuple[float, float]]


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


class Point(NamedTuple):
    """One model: its name, images a second (above 0), and its quality."""

    name: str
    speed: float
    quality: float


def check_plot_path(path: Path) -> None:
    """Raise ValueError unless `write_figure` can write such a file, ImportError without matplotlib.

    For the beginning of long work.
    """
    if path.suffix.lower() not in FORMATS:
        raise ValueError(f"a plot ends in {' or '.join(FORMATS)}, not {path.name!r}")
    require("matplotlib", extra="eval")


def write_figure(path: Path, figure: "Figure") -> None:
    """Write a figure on white into a .svg or .png file; its folder is made."""
    check_plot_path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_saved(figure, path.suffix[1:].lower(), transparent=False))


def inline_svg(figure: "Figure") -> str:
    """A figure as an <svg> element that takes the page's colours `--ink` and `--rule`."""
    text = _saved(figure, "svg", transparent=True).decode("utf-8")
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = text.replace("xlink:href", "href")
    return text.replace(INK, "var(--ink)").replace(RULE, "var(--rule)")


def line_figure(title: str, x_label: str, panels: Sequence[Panel]) -> "Figure":
    """Draw panels below each other, over the same x."""
    with _figure(6.4, 0.4 + 2.5 * len(panels)) as figure:
        figure.suptitle(title)
        for axes, panel in zip(_grid(figure, len(panels), 1), panels, strict=True):
            xs, ys = zip(*panel.points, strict=True)
            axes.plot(xs, ys, color=ACCENT, marker="o", markersize=5, linewidth=2)
            axes.set_title(panel.title)
            axes.set_xlabel(x_label)
            if panel.from_zero:
                axes.set_ylim(bottom=min(0.0, *ys))
            if panel.mark is not None:
                axes.axvline(panel.mark, color=BAD, linestyle="--", linewidth=1)
                left = panel.mark > (min(xs) + max(xs)) / 2
                axes.annotate(
                    panel.mark_label,
                    (panel.mark, 1),
                    (-5 if left else 5, -2),
                    xycoords=("data", "axes fraction"),
                    textcoords="offset points",
                    ha="right" if left else "left",
                    va="top",
                    color=BAD,
                )
    return figure


def speed_figure(title: str, x_label: str, panels: Mapping[str, Sequence[Point]]) -> "Figure":
    """Draw quality over speed, a panel for each measure of quality (paper Figure 3).

    Speed is on a logarithmic axis. A line joins the models that no other one beats in both.
    """
    with _figure(7.2, 0.4 + 3.6 * len(panels)) as figure:
        from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

        figure.suptitle(title)
        for axes, (name, points) in zip(_grid(figure, len(panels), 1), panels.items(), strict=True):
            front = pareto_front(points)
            axes.plot([p.speed for p in front], [p.quality for p in front], color=BAD, alpha=0.4)
            colours = [BAD if point in front else ACCENT for point in points]
            axes.scatter([p.speed for p in points], [p.quality for p in points], c=colours, s=28)
            axes.set(xscale="log", title=name, xlabel=x_label)
            axes.margins(0.08)
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
            axes.xaxis.set_minor_locator(NullLocator())
            _name_points(figure, axes, points)
    return figure


def pareto_front(points: Sequence[Point]) -> list[Point]:
    """The models that no other one beats in both speed and quality, fastest first."""
    front: list[Point] = []
    for point in sorted(points, key=lambda p: (-p.speed, -p.quality)):
        if not front or point.quality > front[-1].quality:
            front.append(point)
    return front


def read_curves(path: Path) -> dict[str, Curve]:
    """Every loss in a run's metrics.jsonl, as (step, value) points in the order of steps.

    The total ("loss") comes first, then each teacher's loss and its parts ("clip",
    "clip/summary"), by name. A step without a teacher has no point in that teacher's curve.
    """
    curves: dict[str, dict[float, float]] = {}
    for row in read_metrics(path):
        for name, value in row.items():
            if name not in ("step", "lr") and isinstance(value, float) and math.isfinite(value):
                curves.setdefault(name, {})[row["step"]] = value
    ordered = sorted(curves, key=lambda name: (name != "loss", name))
    return {name: sorted(curves[name].items()) for name in ordered}


def curves_figure(curves: Mapping[str, Curve], columns: int = 3) -> "Figure":
    """Draw curves, each in a small panel with its last value; long ones are thinned."""
    rows = -(-len(curves) // columns)
    with _figure(9.0, 1.6 * rows) as figure:
        from matplotlib.ticker import MaxNLocator

        for axes, (name, curve) in zip(
            _grid(figure, rows, columns, len(curves)), curves.items(), strict=True
        ):
            kept = curve[:: -max(1, -(-len(curve) // 400))][::-1]
            axes.plot(*zip(*kept, strict=True), color=ACCENT, linewidth=1.2)
            axes.set_title(name)
            axes.set_title(f"{curve[-1][1]:.4g}", loc="right", fontweight="normal")
            axes.xaxis.set_major_locator(MaxNLocator(3, integer=True))
            axes.yaxis.set_major_locator(MaxNLocator(3))
    return figure


def bars_figure(
    values: Sequence[tuple[str, float | None]], colours: Sequence[str] = ()
) -> "Figure":
    """Draw percentages in [0, 100] as horizontal bars, in up to three columns.

    Args:
        values: (name, percentage) from top to bottom; None, for nothing to measure, gets a dash.
        colours: "#rrggbb" of each bar; all of one colour by default.
    """
    columns = min(3, max(1, -(-len(values) // _MOST_BARS)))
    per_column = max(1, -(-len(values) // columns))
    with _figure(6.4 if columns == 1 else 10.0, 0.35 + 0.22 * per_column) as figure:
        for number, axes in enumerate(_grid(figure, 1, columns)):
            part = slice(number * per_column, (number + 1) * per_column)
            shown = values[part]
            axes.barh(
                range(len(shown)),
                [value or 0.0 for _, value in shown],
                color=colours[part] or ACCENT,
                edgecolor=RULE,
                linewidth=0.5,
                height=0.75,
            )
            for place, (_, value) in enumerate(shown):
                text = "–" if value is None else f"{value:.1f}"
                axes.text((value or 0.0) + 1, place, text, va="center", fontsize=8)
            axes.set_yticks(range(len(shown)), [_text(name) for name, _ in shown])
            axes.set(xlim=(0, 112), ylim=(per_column - 0.4, -0.6))
            axes.set_xticks([])
            axes.tick_params(left=False)
            axes.grid(False)
            axes.spines[["bottom", "left"]].set_visible(False)
    return figure


def confusion_figure(names: Sequence[str], counts: Mapping[tuple[int, int], int]) -> "Figure":
    """Draw a confusion matrix with its counts: a row for each true class, a column for predictions.

    The stronger a colour, the larger the share of the row's images: right ones are blue and on the
    diagonal, wrong ones red. Wrong ones below 1 % are left out.
    """
    classes = range(len(names))
    totals = [sum(counts.get((truth, other), 0) for other in classes) for truth in classes]
    side = min(max(7.5 / len(names), 0.16), 0.4)
    with _figure(side * len(names) + 1.6, side * len(names) + 1.6) as figure:
        (axes,) = _grid(figure, 1, 1)
        for (truth, predicted), count in counts.items():
            share = count / totals[truth]
            if truth != predicted and share < _LEAST_SHARE:
                continue
            colour = ACCENT if truth == predicted else BAD
            axes.fill_between(
                (predicted - 0.5, predicted + 0.5),
                truth - 0.5,
                truth + 0.5,
                color=colour,
                alpha=0.12 + 0.88 * share,
                linewidth=0,
            )
            axes.text(
                predicted,
                truth,
                str(count),
                ha="center",
                va="center",
                fontsize=min(9.0, 26 * side),
                color="#ffffff" if share > 0.5 else INK,
            )
        labels = [_text(name if len(name) <= 22 else name[:21] + "…") for name in names]
        axes.set_xticks(classes, labels, rotation=90)
        axes.set_yticks(classes, labels)
        axes.set(xlim=(-0.5, len(names) - 0.5), ylim=(len(names) - 0.5, -0.5), aspect="equal")
        axes.xaxis.tick_top()
        axes.tick_params(length=0, labelsize=min(9.0, 50 * side))
        axes.grid(False)
        axes.spines[:].set_visible(True)
        axes.spines[:].set_color(RULE)
    return figure


def dots_figure(columns: Mapping[str, Mapping[str, Sequence[float]]]) -> "Figure":
    """Draw single values as dots and their means as lines, a panel for each column."""
    across = min(3, len(columns))
    down = -(-len(columns) // across)
    rows = max(len(values) for values in columns.values())
    with _figure(3.2 * across, down * (0.8 + 0.25 * rows)) as figure:
        from matplotlib.ticker import MaxNLocator

        for axes, (title, values) in zip(
            _grid(figure, down, across, len(columns)), columns.items(), strict=True
        ):
            for place, numbers in enumerate(values.values()):
                axes.scatter(numbers, [place] * len(numbers), color=ACCENT, alpha=0.55, s=28)
                axes.plot([sum(numbers) / len(numbers)], [place], "|", color=INK, markersize=14)
            axes.set_yticks(range(len(values)), [_text(name) for name in values])
            axes.set(title=title, ylim=(len(values) - 0.5, -0.5))
            axes.xaxis.set_major_locator(MaxNLocator(4))
            axes.spines["left"].set_visible(False)
            axes.tick_params(left=False)
    return figure


@contextmanager
def _figure(width: float, height: float) -> "Iterator[Figure]":
    """A figure of so many inches, to be drawn on in this package's style."""
    matplotlib = require("matplotlib", extra="eval")
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        yield Figure(figsize=(width, height), layout="constrained")


def _grid(figure: "Figure", rows: int, columns: int, used: int = 0) -> "list[Axes]":
    """The first `used` (all by default) of rows x columns axes, row by row."""
    return [figure.add_subplot(rows, columns, 1 + n) for n in range(used or rows * columns)]


def _saved(figure: "Figure", kind: str, *, transparent: bool) -> bytes:
    buffer = io.BytesIO()
    metadata = {"Date": None} if kind == "svg" else None
    import matplotlib

    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # browsers have more of them
        figure.savefig(buffer, format=kind, dpi=160, transparent=transparent, metadata=metadata)
    return buffer.getvalue()


def _text(text: str) -> str:
    """Text that any font can be asked for: names of files may not be Unicode."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _name_points(figure: "Figure", axes: "Axes", points: Sequence[Point]) -> None:
    """Write the names beside the points, moved up or down where they would cover something."""
    figure.draw_without_rendering()
    frame = axes.get_window_extent()
    taken = [
        (x - 5, y - 5, x + 5, y + 5)
        for x, y in axes.transData.transform([(p.speed, p.quality) for p in points])
    ]
    for point in sorted(points, key=lambda p: -p.quality):
        made = axes.annotate(
            _text(point.name),
            (point.speed, point.quality),
            (6, 0),
            textcoords="offset points",
            fontsize=7.5,
            va="center",
        )
        if made.get_window_extent().x1 > frame.x1:
            made.set(ha="right", position=(-6, 0))
        for step in (0, 1, -1, 2, -2, 3, -3):
            made.set_position((made.get_position()[0], 9 * step))
            x0, y0, x1, y1 = made.get_window_extent().extents
            if all(x1 < a or c < x0 or y1 < b or d < y0 for a, b, c, d in taken):
                break
        taken.append((x0, y0, x1, y1))
