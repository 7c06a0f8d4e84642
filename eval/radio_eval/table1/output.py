"""The table in the terminal, as Markdown, CSV, HTML and JSON."""

import csv
import io
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from rich import box
from rich.table import Table as RichTable
from rich.text import Text

from radio_eval.report.html import environment
from radio_eval.report.markdown import escaped, pipe_table
from radio_eval.table1.cells import write_text
from radio_eval.table1.columns import IMAGENET, VQA_COLUMNS
from radio_eval.table1.paper import SETTING, SOURCE, THROUGHPUT
from radio_eval.table1.table import Row, Table

_MILLION = 1e6
_WIDEST_NAME = 32  # characters of a model's name on one line of the terminal
_PADDING = 2  # blanks at a column of the terminal
NAME = "table1"
"""Of the files, before their ends."""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A cell as it is read.

    Attributes:
        ours: our number; "" for an empty cell.
        paper: the paper's number beside it, with its mark; "" where it has none, or the cell is
            empty.
        best: ours is the highest of the column.
    """

    ours: str
    paper: str = ""
    best: bool = False


def headings(table: Table) -> list[str]:
    """The heading of every column after the model's."""
    return ["Params (M)", "Resolution", "Throughput", *(c.title for c in table.columns)]


def groups(table: Table) -> list[tuple[str, int]]:
    """Headings over the columns: (title, columns that it spans), the first three without."""
    found = groupby(column.group for column in table.columns)
    names = {IMAGENET: "Classification"} if table.kind == "toy" else {}
    return [("", 3), *((names.get(title, title), len(list(same))) for title, same in found)]


def shown(table: Table, row: Row) -> list[Shown]:
    """A row's cells, in the order of `headings`."""
    cells = list(_facts(row))
    for column in table.columns:
        value = row.value(column.name)
        if value is None:
            cells.append(Shown(ours=""))
            continue
        paper = row.paper_value(column.name)
        text = "" if paper is None else f"{paper:.2f}{row.mark(column.name)}"
        best = value == table.best(column.name)
        cells.append(Shown(ours=f"{value:.2f}", paper=text, best=best))
    return cells


def _facts(row: Row) -> Iterator[Shown]:
    subject, paper = row.subject, row.paper
    if subject is None or subject.parameters is None:
        yield Shown(ours="")
    else:
        millions = subject.parameters / _MILLION
        text = f"{millions:,.0f}" if millions >= 10 else f"{millions:.2f}"
        yield Shown(ours=text, paper=f"{paper.parameters_m:,.0f}" if paper else "")
    if subject is None:
        yield Shown(ours="")
    else:
        yield Shown(ours=str(subject.resolution), paper=str(paper.resolution) if paper else "")
    speed = row.value(THROUGHPUT)
    if speed is None:
        yield Shown(ours="")
    else:
        text = f"{speed:,.0f}" if speed >= 100 else f"{speed:.1f}"
        beside = f"{paper.throughput:.0f}{row.mark(THROUGHPUT)}" if paper else ""
        yield Shown(ours=text, paper=beside)


def label(row: Row) -> Shown:
    """A row's first cell: the model's name, and the paper's for it."""
    return Shown(ours=row.source, paper=f"{row.paper.name}{row.mark('name')}" if row.paper else "")


def terminal_tables(table: Table, width: int) -> list[RichTable]:
    """For the terminal; the paper's numbers are dim and below ours.

    Args:
        table: the table.
        width: of the terminal in characters. What does not fit goes into further tables below.
    """
    names = [_rich(label(row)) for row in table.rows]
    cells = [[_rich(cell) for cell in shown(table, row)] for row in table.rows]
    columns = [
        (heading, [row[place] for row in cells]) for place, heading in enumerate(headings(table))
    ]
    first = min(max(_width(name) for name in names), _WIDEST_NAME)
    blocks: list[list[tuple[str, list[Text]]]] = []
    room = 0
    for heading, column in columns:
        needed = _PADDING + max(len(heading), *(_width(cell) for cell in column))
        if not blocks or needed > room:
            blocks.append([])
            room = width - first - 2 * _PADDING
        blocks[-1].append((heading, column))
        room -= needed
    made = []
    for number, block in enumerate(blocks):
        title = Text(table.title()) if number == 0 else None
        made.append(RichTable(title=title, box=box.SIMPLE_HEAD, padding=(0, 1)))
        made[-1].add_column("model", overflow="fold", min_width=first, max_width=first)
        for heading, _ in block:
            made[-1].add_column(Text(heading), justify="right", no_wrap=True)
        for name, *row in zip(names, *(column for _, column in block), strict=True):
            made[-1].add_row(name, *row)
    return made


def _width(text: Text) -> int:
    """Characters of the longest line."""
    return max((len(line) for line in text.plain.split("\n")), default=0)


def _rich(cell: Shown) -> Text:
    text = Text(cell.ours, style="bold" if cell.best else "")
    return text.append(f"\n{cell.paper}", style="dim") if cell.paper else text


def markdown(table: Table) -> str:
    """For a README: the best of a column bold, the paper's numbers as subscripts."""
    rows = [["model", *headings(table)]]
    for row in table.rows:
        rows.append([_markdown(cell) for cell in (label(row), *shown(table, row))])
    lines = [f"# {table.title()}", "", *pipe_table(rows, numbers=True)]
    for remark in explanations(table):
        lines += ["", escaped(remark)]
    return "\n".join(lines) + "\n"


def _markdown(cell: Shown) -> str:
    ours = escaped(cell.ours)
    text = f"**{ours}**" if cell.best else ours
    return f"{text} <sub>{escaped(cell.paper)}</sub>" if cell.paper else text


def explanations(table: Table) -> list[str]:
    """What the numbers are, and the remarks on them, a sentence or more each."""
    options = table.metadata.get("options", {})
    machine = table.metadata.get("machine", {})
    metrics = ", ".join(f"{column.title} {column.metric}" for column in table.columns)
    found = [
        f"Percent: {metrics}. Params: the vision backbone's. Throughput: images a second at the "
        f"given resolution, batches of {options.get('throughput', {}).get('batch_size')}, float32, "
        f"PyTorch, on {machine.get('device')} ({machine.get('cpu')}, {machine.get('threads')} "
        "threads)."
    ]
    if table.kind == "toy" and any(column.name in VQA_COLUMNS for column in table.columns):
        training = options.get("training", {})
        found.append(
            f"Each model has a toy LLaVA of its own, trained for {training.get('pretrain_steps')} "
            f"and {training.get('instruct_steps')} steps; RADIO's images have "
            f"{options.get('llava_resolution')} pixels there, and teachers' their own resolution."
        )
    if table.has_paper_rows:
        found.append(f"Small: the paper's numbers ({SOURCE}). {SETTING}")
    return found + table.remarks()


def csv_text(table: Table) -> str:
    """A line a model: our numbers, then the paper's; empty where there is none."""
    names = [column.name for column in table.columns]
    ours = ["params_m", "resolution", "throughput", *names]
    head = ["model", *ours, "paper_model", *(f"paper_{name}" for name in ours)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    for row in table.rows:
        writer.writerow([_csv(value) for value in _numbers(row, names)])
    return text.getvalue()


def _numbers(row: Row, names: Sequence[str]) -> list[object]:
    subject, paper = row.subject, row.paper
    millions = None if subject is None or subject.parameters is None else subject.parameters / 1e6
    size = None if subject is None else subject.resolution
    first = [row.source, millions, size, row.value(THROUGHPUT), *(row.value(n) for n in names)]
    facts = [paper and paper.name, paper and paper.parameters_m, paper and paper.resolution]
    return [*first, *facts, row.paper_value(THROUGHPUT), *(row.paper_value(n) for n in names)]


def _csv(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.4f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def html(table: Table) -> str:
    """A page without any outside resource; all texts are escaped.

    Raises:
        ImportError: jinja2 is missing; the message names the extra.
    """
    page: str = (
        environment()
        .get_template("table1.html.j2")
        .render(
            title=table.title(),
            groups=groups(table),
            headings=headings(table),
            rows=[(label(row), shown(table, row)) for row in table.rows],
            explanations=explanations(table),
            pieces=_pieces,
            data=table.to_json(),
        )
    )
    return page


def _pieces(name: str) -> list[str]:
    """A model's name, cut where a line may end."""
    return re.split(r"(?<=[:/_.-])", name)


def write_table(table: Table, out: Path) -> list[Path]:
    """Write OUT/table1.md, .csv, .html and .json, each whole or not at all."""
    content = {
        "md": markdown(table),
        "csv": csv_text(table),
        "html": html(table),
        "json": json.dumps(table.to_json(), indent=2) + "\n",
    }
    paths = []
    for end, text in content.items():
        paths.append(out / f"{NAME}.{end}")
        write_text(paths[-1], text)
    return paths
