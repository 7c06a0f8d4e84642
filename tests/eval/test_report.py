"""Results as JSON, in the terminal and as HTML."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from radio_eval.contract import TaskResult
from radio_eval.report.charts import draw, read_curves
from radio_eval.report.html import Gallery, PictureRow, render_report, write_report
from radio_eval.report.results import TASKS, Results, Row
from radio_eval.report.table import results_table

HOSTILE = "<script>alert('x')</script>&\"[bold]"
VOID = {"meta", "img", "line", "polyline"}


def results() -> Results:
    def row(name: str, kind: str, *values: float | None) -> Row:
        scores = dict(zip(TASKS, values, strict=True))
        return Row(name=name, kind=kind, scores=scores)  # type: ignore[arg-type]

    student = row("student", "student", 60.0, 81.0, None, 70.0)
    student.results.append(
        TaskResult(
            task="knn", model="student", value=81.0, metrics={}, parameters={"k": 20}, seconds=1.5
        )
    )
    return Results(
        rows=[
            student,
            row(HOSTILE, "teacher", 80.0, 75.0, 50.0, None),
            row("chance", "baseline", 2.8, 2.8, 10.0, None),
            Row(name="empty", kind="baseline", note=HOSTILE),
        ],
        metadata={"seed": 0, "path": HOSTILE},
    )


class Checker(HTMLParser):
    """Fails on tags that are not closed in order; collects what is there."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def page(tmp_path: Path) -> str:
    picture = np.zeros((4, 4, 3), np.uint8)
    gallery = Gallery(
        title=HOSTILE, text=HOSTILE, rows=(PictureRow(label=HOSTILE, pictures=(picture,)),)
    )
    charts = [draw(HOSTILE, [(1, 2.0), (5, 1.0)])]
    path = tmp_path / "new" / "report.html"
    write_report(path, results(), title=HOSTILE, charts=charts, galleries=[gallery])
    return path.read_text(encoding="utf-8")


def test_html_is_well_formed_and_holds_every_row(page: str) -> None:
    checker = Checker()
    checker.feed(page)
    checker.close()
    assert not checker.open
    for text in ("student", "chance", "empty", "60.0", "0.75 ×", "1.08 ×", HOSTILE):
        assert text in checker.text
    best = re.findall(r'<td class="best">([\d.]+)', page)
    assert best == ["81.0", "70.0", "80.0", "50.0"]


def test_html_escapes_texts_and_needs_no_network(page: str) -> None:
    checker = Checker()
    checker.feed(page)
    assert not [tag for tag, _ in checker.seen if tag in ("script", "link", "iframe", "object")]
    for _, attributes in checker.seen:
        for name in ("src", "href"):
            assert (attributes.get(name) or "data:").startswith("data:image/png;base64,") or (
                name not in attributes
            )
    assert "url(" not in page
    assert "@import" not in page


def test_html_without_charts_and_pictures() -> None:
    checker = Checker()
    checker.feed(render_report(results(), title="t"))
    assert not checker.open
    assert not [tag for tag, _ in checker.seen if tag in ("svg", "img")]


def test_json(tmp_path: Path) -> None:
    results().write(tmp_path / "new" / "results.json")
    data = json.loads((tmp_path / "new" / "results.json").read_text())
    assert data["rows"]["student"] == {
        "zero_shot": 60.0,
        "knn": 81.0,
        "linear_seg": None,
        "sam_miou": 70.0,
    }
    fractions = data["fractions_of_best_teacher"]["student"]
    assert fractions["zero_shot"] == 0.75
    assert fractions["sam_miou"] is None
    assert data["evaluations"][0]["parameters"] == {"k": 20}
    assert "torch" in data["metadata"]["versions"]


def test_terminal_table() -> None:
    console = Console(width=120, record=True, file=None, quiet=False)
    with console.capture() as capture:
        console.print(results_table(results(), title=HOSTILE))
    text = capture.get()
    assert "60.0 (0.75x)" in text
    assert HOSTILE in text
    assert text.count("–") == 7


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
    chart = draw("loss", curves["loss"])
    assert chart.points == "0.0,0.0 320.0,150.0"
    assert (chart.first_step, chart.last_step, chart.last) == (1, 3, 1.0)


def test_long_curves_are_thinned_and_keep_their_end() -> None:
    chart = draw("loss", [(step, float(step)) for step in range(10_001)])
    assert len(chart.points.split()) <= 400
    assert chart.last_step == 10_000
