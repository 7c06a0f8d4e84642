"""Training curves, read from a run's metrics and laid out as SVG polylines."""

import math
from dataclasses import dataclass
from pathlib import Path

from radio_core.distill.run_folder import read_metrics

WIDTH, HEIGHT = 320.0, 150.0
_MAX_POINTS = 400
_NO_LOSS = ("step", "lr")

Curve = list[tuple[float, float]]


@dataclass(frozen=True, kw_only=True)
class Chart:
    """One curve, ready to be drawn in a box of WIDTH x HEIGHT.

    Attributes:
        title: name of the quantity.
        points: SVG polyline coordinates, "x,y x,y ...".
        low: lowest value, at the bottom.
        high: highest value, at the top.
        first_step: at the left edge.
        last_step: at the right edge.
        last: the curve's final value.
    """

    title: str
    points: str
    low: float
    high: float
    first_step: int
    last_step: int
    last: float


def read_curves(path: Path) -> dict[str, Curve]:
    """Every loss in a run's metrics.jsonl, as (step, value) points in the order of steps.

    The total ("loss") comes first, then each teacher's loss and its parts ("clip",
    "clip/summary"), by name. A step without a teacher has no point in that teacher's curve.
    """
    curves: dict[str, dict[float, float]] = {}
    for row in read_metrics(path):
        for name, value in row.items():
            if name not in _NO_LOSS and isinstance(value, float) and math.isfinite(value):
                curves.setdefault(name, {})[row["step"]] = value
    ordered = sorted(curves, key=lambda name: (name != "loss", name))
    return {name: sorted(curves[name].items()) for name in ordered}


def draw(title: str, curve: Curve) -> Chart:
    """Lay out one curve; long ones are thinned to at most 400 points, the last one kept.

    Raises:
        ValueError: an empty curve.
    """
    if not curve:
        raise ValueError(f"curve {title!r} has no points")
    stride = -(-len(curve) // _MAX_POINTS)
    kept = curve[::-1][::stride][::-1]
    steps, values = [x for x, _ in kept], [y for _, y in kept]
    low, high = min(values), max(values)
    span_x, span_y = (steps[-1] - steps[0]) or 1.0, (high - low) or 1.0
    points = " ".join(
        f"{WIDTH * (x - steps[0]) / span_x:.1f},{HEIGHT * (1 - (y - low) / span_y):.1f}"
        for x, y in kept
    )
    return Chart(
        title=title,
        points=points,
        low=low,
        high=high,
        first_step=int(steps[0]),
        last_step=int(steps[-1]),
        last=values[-1],
    )
