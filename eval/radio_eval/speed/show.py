"""Measured speeds in the terminal, as Markdown, and as a plot of quality against speed."""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from radio_core.bench.throughput import Throughput
from radio_core.bench.timing import SPREAD
from radio_eval.report.figures import Point, speed_figure, write_figure
from radio_eval.report.table import Column, Table, escaped
from radio_eval.speed.tables import SpeedTable


def throughput_table(rows: Sequence[Throughput]) -> Table:
    """One row a case, and a column for each baseline."""
    names = list(dict.fromkeys(name for row in rows for name in row.ratios))
    peak = any(row.peak_share is not None for row in rows)
    headings = ["model", "batch", "ms", "images/s", *(f"time / {name}" for name in names)]
    cells = []
    for row in rows:
        how = f" ({row.case.how})" if row.case.how else ""
        product = row.case.engine == "matmul"
        ratios = (f"{row.ratios[name]:.3f}" if name in row.ratios else "" for name in names)
        share = "" if row.peak_share is None else f"{row.peak_share:.0%}"
        cells.append(
            [
                row.case.name + how,
                "" if product else str(row.case.batch_size),
                str(row.timing),
                "" if product else f"{row.images_per_second:.2f}",
                *ratios,
                *([share] if peak else []),
            ]
        )
    return _table([*headings, *(["of matmul peak"] if peak else [])], cells)


Quality = dict[str, dict[str, float]]
"""Model -> metric -> number."""
Named = Sequence[tuple[str, Throughput]]
"""Measurements under the names that people know; a model that was run in several ways is there
once each."""


def paper_table(table: SpeedTable, named: Named) -> Table:
    """The paper's table, with a measured column beside the paper's for each engine.

    Speeds are divided by those of the reference; nothing is divided where it has none.
    """
    measured: dict[str, list[Throughput]] = {row.label: [] for row in table.rows}
    for label, found in named:
        measured[label].append(found)
    first = measured[table.rows[0].label]
    headings = ["model", "params (M)", *table.metrics, "paper: images/s", f"/ {table.reference}"]
    for found in first:
        how = f"{found.case.engine}, {found.case.dtype}"
        headings += [f"here: images/s ({how})", f"/ {table.reference}"]
    paper = {row.label: row.images_per_second for row in table.rows}.get(table.reference)
    references = measured.get(table.reference, [None] * len(first))
    rows = []
    for row in table.rows:
        parameters = measured[row.label][0].parameters
        cells = [row.label, "" if parameters is None else f"{parameters / 1e6:.0f}"]
        cells += [_number(row.quality.get(metric)) for metric in table.metrics]
        cells += [_number(row.images_per_second), _ratio(row.images_per_second, paper)]
        for ours, other in zip(measured[row.label], references, strict=True):
            speed = ours.images_per_second
            cells.append(f"{speed:.3g} ±{100 * ours.timing.spread:.0f}%")
            cells.append(_ratio(speed, None if other is None else other.images_per_second))
        rows.append(cells)
    return _table(headings, rows)


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    return Table(columns=[Column(heading) for heading in headings], rows=rows)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:g}"


def _ratio(value: float | None, reference: float | None) -> str:
    return "" if value is None or reference is None else f"{value / reference:.2f}"


def markdown_page(title: str, table: Table, remarks: Sequence[str]) -> str:
    """A page with the table, and a paragraph for each remark."""
    lines = [f"# {escaped(title)}", "", table.markdown()]
    for remark in remarks:
        lines += ["", escaped(remark)]
    return "\n".join(lines) + "\n"


def described(date: str, machine: Mapping[str, Any], settings: Mapping[str, Any]) -> list[str]:
    """What the numbers depend on, a sentence or more each, for people."""
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    system = machine["system"].partition("-")[0]
    return [
        f"Measured on {date}: {machine['device']} ({machine['cpu']}, "
        f"{machine['threads']} threads), torch {machine['torch']}"
        f"{', ' + packages if packages else ''}, {system}; {settings['repeats']} repeats, "
        f"{SPREAD}."
    ]


def write_quality_plot(path: Path, title: str, named: Named, quality: Quality) -> None:
    """Draw each metric over the speed of the models that have it, as a .svg or .png file."""
    panels: dict[str, list[Point]] = {}
    for name, row in named:
        label = f"{name} ({row.case.how})" if row.case.how else name
        for metric, value in quality.get(name, {}).items():
            panels.setdefault(metric, []).append(Point(label, row.images_per_second, value))
    if not panels:
        known = ", ".join(quality)
        raise ValueError(f"none of the measured models has quality numbers; there are: {known}")
    write_figure(path, speed_figure(title, "images a second", panels))


def read_quality(path: Path) -> Quality:
    """Quality numbers: the JSON of `radio eval table1`, or a .csv with a column "model" and one
    for each metric, where empty cells are unknown."""
    text = path.read_text(encoding="utf-8-sig")
    found: Quality = {}
    try:
        if path.suffix.lower() == ".csv":
            lines = csv.DictReader(text.splitlines(), strict=True)
            cells = [(line.pop("model"), line) for line in lines]
        else:
            cells = [(name, row["scores"]) for name, row in json.loads(text)["rows"].items()]
        for name, scores in cells:
            known = {
                metric: float(cell) for metric, cell in scores.items() if cell not in ("", None)
            }
            if not all(map(math.isfinite, known.values())):
                raise ValueError(f"{name} has numbers that are not finite")
            found[name] = known
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} has no quality numbers: give the .json of `radio eval table1`, or a .csv with "
            f"the columns model,METRIC,...: {error}"
        ) from None
    return found
