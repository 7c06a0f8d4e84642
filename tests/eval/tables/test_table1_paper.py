"""The paper's table, against the paper."""

import re
from itertools import pairwise
from pathlib import Path

import pytest

from radio_eval.tables.table1 import COLUMNS
from radio_eval.tables.table1_paper import FOOTNOTES, PAPER_ROWS, PaperRow, paper_row


def printed(row: PaperRow) -> list[str]:
    """The numbers of a row as the paper prints them, left to right."""
    facts = [f"{row.parameters_m:,.0f}", str(row.resolution), f"{row.throughput:.0f}"]
    return facts + [f"{score:.2f}" for score in row.scores.values() if score is not None]


def test_every_number_of_a_row_is_in_the_papers_row_in_that_order(shared: Path) -> None:
    text = (shared / "paper.txt").read_text(encoding="utf-8")
    start = text.index("ModelParams")
    line = text[start : text.index("Table 1. Comparison", start)]
    names = [row.name for row in PAPER_ROWS]
    found = "Intern-ViT-6B"
    places = [line.index(name.partition(" (")[0]) for name in names]
    places[names.index(f"{found} (448)")] = line.index("5,537")
    assert places == sorted(places)
    for row, (begin, end) in zip(PAPER_ROWS, pairwise([*places, len(line)]), strict=True):
        # reading order gives every digit of the row's cells once: glued columns come apart
        part = line[begin:end].removeprefix(row.name.partition(" (")[0])
        digits = re.sub(r"\[\d+\]|\(Ours\)|[^\d]", "", part)
        assert digits == re.sub(r"[^\d]", "", "".join(printed(row))), row.name


def test_rows_have_the_columns_of_the_table_and_known_marks() -> None:
    shared_columns = [name for name, column in COLUMNS.items() if column.data]
    for row in PAPER_ROWS:
        assert list(row.scores) == shared_columns
        assert set(row.marks.values()) <= set(FOOTNOTES)
    teachers = [row.name for row in PAPER_ROWS if row.marks.get("name") == "*"]
    assert teachers == ["DFN CLIP-H/14", "OpenAI CLIP-L/14", "DINOv2-g/14-reg", "SAM-H/16"]


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("radio_v2.1", "RADIO-ViT-H/16"),
        ("radio_v2.1-h", "RADIO-ViT-H/16"),
        ("radio_h", "RADIO-ViT-H/16"),
        ("RADIO-V2.1", "RADIO-ViT-H/16"),
        ("e-radio", "E-RADIO-L"),
        ("e-radio_v2", "E-RADIO-L"),
        ("open_clip:ViT-L-14-336/openai", "OpenAI CLIP-L/14"),
        ("open_clip:ViT-H-14-378-quickgelu/dfn5b", "DFN CLIP-H/14"),
        ("dinov2:facebook/dinov2-with-registers-giant", "DINOv2-g/14-reg"),
        ("sam:vit_h:folder/sam_vit_h_4b8939.pth", "SAM-H/16"),
    ],
)
def test_models_find_their_row(source: str, name: str) -> None:
    row = paper_row(source)
    assert row is not None
    assert row.name == name


@pytest.mark.parametrize(
    "source",
    ["toy", "radio_b", "c-radio_v4-h", "open_clip:ViT-L-14/openai", "sam:vit_b:x.pth", "sam:dir"],
)
def test_other_models_have_none(source: str) -> None:
    assert paper_row(source) is None


def test_no_name_belongs_to_two_rows() -> None:
    names = [name for row in PAPER_ROWS for name in (*row.aliases, *row.kin)]
    for name in names:
        source = f"{name}file" if name.endswith(":") else name
        assert sum(row.is_of(source) for row in PAPER_ROWS) == 1, name


def test_a_later_release_is_not_passed_off_as_the_papers() -> None:
    row = paper_row("radio_h")
    assert row is not None
    assert "radio_v2.5-h" in row.remark("radio_h")
    assert row.remark("radio_v2.1") == ""
