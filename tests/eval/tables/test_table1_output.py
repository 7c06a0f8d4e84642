"""The table as people and programs read it."""

import csv
import io
import re

import pytest
from rich.console import Console

pytest.importorskip("jinja2", reason="needs the extra 'eval'")

from radio_eval.tables.filling import Cell
from radio_eval.tables.table1 import COLUMNS, Facts, Row, Table1
from radio_eval.tables.table1_output import markdown, numbers, page, remarks, shown, to_json

CLIP, DINO = "open_clip:ViT-L-14-336/openai", "dinov2:facebook/dinov2-with-registers-giant"
HOSTILE = "timm:<script>alert(1)</script>|*x*"


@pytest.fixture
def table() -> Table1:
    clip = Row(source=CLIP)
    clip.facts = Facts(parameters=304_000_000, resolution=336, identity={}, lacks={})
    clip.cells = {
        "throughput": Cell(value=412.0),
        "zero-shot": Cell(value=75.5, result={"metrics": {"top1": 75.5}}),
        "knn": Cell(value=80.0),
        "ade20k": Cell(note="no data: name its folder with --ade20k DIR", failed=True),
        "coco": Cell(),
    }
    dino = Row(source=DINO)
    dino.facts = Facts(parameters=1_136_000_000, resolution=518, identity={}, lacks={})
    dino.cells = {"throughput": Cell(value=33.3), "zero-shot": Cell(), "knn": Cell(value=83.125)}
    dino.cells["ade20k"] = clip.cells["ade20k"]
    hostile = Row(source=HOSTILE, failure="the model cannot be loaded: <b>none</b>")
    columns = [COLUMNS[name] for name in ("zero-shot", "knn", "ade20k", "coco")]
    metadata = {"options": {"throughput": {"batch_size": 4}}, "machine": {"device": "cpu"}}
    rows = [clip, dino, hostile]
    return Table1(rows=rows, columns=columns, toy=False, metadata=metadata)


def test_the_page_shows_ours_and_smaller_the_papers(table: Table1) -> None:
    clip, dino, hostile = ([(c.text, c.note, c.tone) for c in row] for row in shown(table).cells)
    assert [cell[:2] for cell in clip] == [
        (CLIP, "OpenAI CLIP-L/14*"),
        ("304", "305"),
        ("336", "336"),
        ("412", "414"),
        ("75.50", "75.54"),
        ("80.00", "79.80"),
        ("", ""),
        ("", ""),
    ]
    assert dino[3:6] == [("33.3", "294†", ""), ("", "", ""), ("83.12", "83.41", "best")]
    assert hostile[0][0] == HOSTILE
    html = page(table).html()
    assert '<td class="best">83.12<small>83.41</small></td>' in html
    assert "<script" not in html
    assert "prefers-color-scheme" in html
    assert not re.search(r"(src|href)=[\"']?http", html)


def test_remarks_say_what_failed_and_explain_the_marks(table: Table1) -> None:
    found = remarks(table)
    both = f"ADE20k of {CLIP}, {DINO}: no data: name its folder with --ade20k DIR"
    assert both in found
    assert any(remark.startswith("† ") for remark in found)
    assert any(remark.startswith("* ") for remark in found)
    assert not any(remark.startswith("‡ ") for remark in found)
    assert table.failed


def test_an_empty_cell_is_no_failure() -> None:
    row = Row(source="toy", cells={"coco": Cell(note="no LLaVA")})
    assert not Table1(rows=[row], columns=[COLUMNS["coco"]], toy=True).failed


def test_the_toy_world_is_not_called_imagenet(table: Table1) -> None:
    assert shown(table).groups[1] == ("ImageNet1K", 2)
    table.toy = True
    assert shown(table).groups == [
        ("", 4),
        ("Classification", 2),
        ("Segmentation (linear)", 1),
        ("SAM", 1),
    ]


def test_the_best_of_a_column_is_none_where_all_are_equal() -> None:
    rows = [Row(source=name, cells={"knn": Cell(value=5.0)}) for name in ("a", "b")]
    table = Table1(rows=rows, columns=[COLUMNS["knn"]], toy=True)
    assert table.best("knn") is None
    rows[0].cells["knn"] = Cell(value=6.0)
    assert table.best("knn") == 6.0


def test_markdown_has_a_table_that_texts_cannot_break(table: Table1) -> None:
    lines = markdown(table).splitlines()
    rows = [line for line in lines if line.startswith("| ")]
    assert len(rows) == 5
    cells = [re.split(r"(?<!\\)\|", row) for row in rows]
    assert {len(row) for row in cells} == {10}
    assert cells[3][6].strip() == "**83.12** <sub>83.41</sub>"
    assert cells[2][7].strip() == ""
    assert "<script>" not in "\n".join(lines)


def test_csv_has_ours_and_the_papers_in_columns_of_their_own(table: Table1) -> None:
    clip, dino, hostile = csv.DictReader(io.StringIO(numbers(table).csv()))
    assert clip["zero-shot"] == "75.5"
    assert clip["paper_zero-shot"] == "75.54"
    assert clip["paper_model"] == "OpenAI CLIP-L/14"
    assert (dino["zero-shot"], dino["paper_zero-shot"], dino["paper_knn"]) == ("", "", "83.41")
    assert dino["params_m"] == "1136"
    assert {value for name, value in hostile.items() if name != "model"} == {""}


@pytest.mark.parametrize("width", [60, 80, 200])
def test_no_number_is_cut_off_in_a_narrow_terminal(table: Table1, width: int) -> None:
    console = Console(width=width, record=True, file=io.StringIO())
    parts = shown(table).terminal(width)
    console.print(*parts)
    text = console.export_text()
    for number in ("75.50", "80.00", "83.12", "1,136", "33.3", "294†", "79.80", "COCO"):
        assert number in text
    assert "…" not in text
    assert (len(parts) == 1) == (width == 200)


def test_json_keeps_results_and_the_papers_row(table: Table1) -> None:
    content = to_json(table)
    clip = content["rows"][CLIP]
    assert clip["scores"] == {"zero-shot": 75.5, "knn": 80.0, "ade20k": None, "coco": None}
    assert clip["paper"]["scores"]["gqa"] == 62.20
    assert content["rows"][HOSTILE]["paper"] is None
    found = content["evaluations"][CLIP]["zero-shot"]
    assert found["result"]["metrics"] == {"top1": 75.5}
    assert "torch" in content["metadata"]["versions"]
