"""Tables, figures and pages: texts stay texts, numbers are all there."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from radio_eval.report.figures import (
    Panel,
    Point,
    bars_figure,
    check_plot_path,
    confusion_figure,
    curves_figure,
    dots_figure,
    inline_svg,
    line_figure,
    pareto_front,
    read_curves,
    speed_figure,
    write_figure,
)
from radio_eval.report.sections import Card, Line, Picture, Section
from radio_eval.report.table import Cell, Column, Table

pytest.importorskip("matplotlib", reason="needs the extra 'eval'")

PIXELS = np.zeros((4, 4, 3), np.uint8)
TABLE = Table(
    title="[bold]title",
    columns=[Column("model"), Column("k-NN", "group"), Column("words", "group", numeric=False)],
    rows=[
        ["a|*b*", Cell("83.1", "82.9", "best", 83.125), Cell("as in the paper", tone="right")],
        ["[red]c", Cell("–", tone="dim"), "d"],
    ],
    breaks=[1],
)


def test_a_table_in_the_terminal_and_as_text() -> None:
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(*TABLE.terminal())
    shown = console.export_text()
    for text in ("[bold]title", "a|*b*", "83.1", "82.9", "[red]c", "as in the paper"):
        assert text in shown
    assert TABLE.markdown().splitlines() == [
        "| model | k-NN | words |",
        "| --- | ---: | --- |",
        "| a\\|\\*b\\* | **83.1** <sub>82.9</sub> | as in the paper |",
        "| \\[red\\]c | – | d |",
    ]
    rows = list(csv.DictReader(io.StringIO(TABLE.csv())))
    assert rows[0] == {"model": "a|*b*", "k-NN": "83.125", "words": "as in the paper"}
    assert TABLE.to_json()["rows"][0] == ["a|*b*", 83.125, "as in the paper"]
    assert TABLE.groups == [("", 1), ("group", 2)]


def test_a_narrow_terminal_gets_further_tables() -> None:
    columns = [Column(f"column {n}") for n in range(6)]
    table = Table(columns=columns, rows=[[f"number {n}" for n in range(6)]])
    console = Console(width=40, record=True, file=io.StringIO())
    parts = table.terminal(40)
    console.print(*parts)
    shown = console.export_text()
    assert len(parts) > 1
    assert all(f"column {n}" in shown and f"number {n}" in shown for n in range(6))
    assert "…" not in shown


def test_every_text_is_escaped(check: Any, page: Any, hostile: str) -> None:
    table = Table(columns=[Column(hostile)], rows=[[Cell(hostile, hostile)]], title=hostile)
    section = Section(
        title=hostile,
        text=hostile,
        legend=[(hostile, "#000000")],
        tables=[table],
        figures=[bars_figure([(hostile, None), ("b", 50.0)]), confusion_figure([hostile], {})],
        cards=[
            Card(title=hostile, lead=Picture(None, hostile, True, hostile), table=table),
            Card(lines=[Line(hostile, False, hostile)], pictures=[Picture(PIXELS, hostile)]),
        ],
        notes=[hostile],
    )
    found = check(page(section, note=hostile).html())
    assert "12.3" in found.text
    assert found.text.count(hostile) > 18
    assert "no picture" in found.text
    assert [tag for tag, _ in found.seen].count("svg") == 2


def test_a_name_that_is_no_text_does_not_break_the_file(tmp_path: Path, page: Any) -> None:
    path, name = tmp_path / "a" / "b.html", "caf\udce9"
    figures = [bars_figure([(name, 1.0)])]
    page(Section(title=name, figures=figures), lead=name).write(path)
    assert path.read_text(encoding="utf-8").count("caf\\udce9") == 4
    assert [file.name for file in path.parent.iterdir()] == ["b.html"]


@pytest.mark.parametrize("name", ["plot.png", "plot.svg"])
def test_figures_are_files_too(name: str, tmp_path: Path) -> None:
    points = [(64.0, 0.5), (96.0, 0.2), (128.0, 0.9)]
    panels = [Panel(title="<mse>", points=points, from_zero=True, mark=120, mark_label="here")]
    figure = line_figure("a & $b", "pixels", [*panels, Panel(title="p", points=points[:1])])
    write_figure(tmp_path / "new" / name, figure)
    if name.endswith("svg"):
        text = (tmp_path / "new" / name).read_text()
        assert all(part in text for part in ("a &amp; $b", "&lt;mse&gt;", "here", "pixels"))
        return
    image = np.asarray(Image.open(tmp_path / "new" / name).convert("RGB")).astype(int)
    blue = (image[..., 2] - image[..., 0]) > 100
    half = len(blue) // 2
    assert blue[:half].sum() > 200
    assert blue[half:].sum() > 20


def test_other_files_are_no_plots() -> None:
    with pytest.raises(ValueError, match=r"a plot ends in \.svg or \.png, not 'a\.gif'"):
        check_plot_path(Path("a.gif"))


def test_the_front_is_what_nothing_else_beats_in_both() -> None:
    a, b, c, d = Point("a", 9, 1), Point("b", 5, 5), Point("c", 4, 4), Point("d", 1, 9)
    assert pareto_front([d, c, b, a]) == [a, b, d]
    svg = inline_svg(speed_figure("t", "images a second", {"kNN": [d, c, b, a], "seg": [a]}))
    assert all(f">{text}<" in svg for text in ("a", "b", "c", "d", "kNN", "seg"))


def test_a_confusion_matrix_has_its_counts() -> None:
    names = [f"class {label}" for label in range(4)]
    counts = {(0, 0): 997, (0, 1): 1, (0, 2): 11, (1, 1): 5, (2, 1): 7}
    (axes,) = confusion_figure(names, counts).axes
    assert sorted(text.get_text() for text in axes.texts) == ["11", "5", "7", "997"]
    assert len(axes.collections) == 4


def test_dots_are_values_and_their_means() -> None:
    (axes,) = dots_figure({"k-NN": {"none": [1.0, 2.0], "both": [3.0, 5.0, 7.0]}}).axes
    assert [len(np.asarray(dots.get_offsets())) for dots in axes.collections] == [2, 3]
    assert [line.get_xdata() for line in axes.lines] == [[1.5], [5.0]]


def test_curves(tmp_path: Path) -> None:
    rows = [
        {"step": 1, "loss": 2.0, "lr": 0.1, "group": "a", "clip": 1.5, "clip/summary": 0.5},
        {"step": 2, "loss": float("nan"), "lr": 0.1, "group": "b", "sam": 1.0},
        {"step": 3, "loss": 1.0, "lr": 0.1, "group": "a", "clip": 1.0, "clip/summary": 0.25},
    ]
    path = tmp_path / "metrics.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)) + '\n{"step": 4, "lo')
    curves = read_curves(path)
    assert list(curves) == ["loss", "clip", "clip/summary", "sam"]
    assert curves["loss"] == [(1, 2.0), (3, 1.0)]
    long = [(float(step), float(step)) for step in range(10_001)]
    drawn = [axes.lines[0].get_xdata() for axes in curves_figure({**curves, "long": long}).axes]
    assert list(drawn[0]) == [1, 3]
    assert len(drawn[-1]) <= 400
    assert drawn[-1][-1] == 10_000
