"""The table in the terminal, as Markdown, CSV, HTML and JSON."""

import json
from collections.abc import Iterator
from pathlib import Path

from radio_eval.report.page import Page
from radio_eval.report.sections import Section
from radio_eval.report.table import Cell, Column, Table, escaped
from radio_eval.table1.cells import write_text
from radio_eval.table1.columns import IMAGENET, VQA_COLUMNS
from radio_eval.table1.paper import SETTING, SOURCE, THROUGHPUT
from radio_eval.table1.table import Row
from radio_eval.table1.table import Table as Table1

NAME = "table1"
"""Of the files, before their ends."""


def shown(table: Table1) -> Table:
    """Our numbers, the best of a column bold, with the paper's below them."""
    names = {IMAGENET: "Classification"} if table.kind == "toy" else {}
    columns = [
        *map(Column, ("model", "Params (M)", "Resolution", "Throughput")),
        *(Column(c.title, names.get(c.group, c.group)) for c in table.columns),
    ]
    rows = [[*_facts(row), *_scores(table, row)] for row in table.rows]
    return Table(title=table.title(), columns=columns, rows=rows)


def _facts(row: Row) -> Iterator[Cell]:
    """Name, parameters, resolution and throughput."""
    subject, paper = row.subject, row.paper
    yield Cell(row.source, f"{paper.name}{row.mark('name')}" if paper else "")
    if subject is None or subject.parameters is None:
        yield Cell()
    else:
        millions = subject.parameters / 1e6
        text = f"{millions:,.0f}" if millions >= 10 else f"{millions:.2f}"
        yield Cell(text, f"{paper.parameters_m:,.0f}" if paper else "")
    size = "" if subject is None else str(subject.resolution)
    yield Cell(size, str(paper.resolution) if paper and size else "")
    speed = row.value(THROUGHPUT)
    if speed is None:
        yield Cell()
    else:
        text = f"{speed:,.0f}" if speed >= 100 else f"{speed:.1f}"
        yield Cell(text, f"{paper.throughput:.0f}{row.mark(THROUGHPUT)}" if paper else "")


def _scores(table: Table1, row: Row) -> Iterator[Cell]:
    for column in table.columns:
        value, paper = row.value(column.name), row.paper_value(column.name)
        if value is None:
            yield Cell()
            continue
        note = "" if paper is None else f"{paper:.2f}{row.mark(column.name)}"
        yield Cell(f"{value:.2f}", note, "best" if value == table.best(column.name) else "")


def numbers(table: Table1) -> Table:
    """A row a model, for programs: our numbers, then the paper's; empty where there is none."""
    names = [column.name for column in table.columns]
    ours = ["params_m", "resolution", THROUGHPUT, *names]
    head = ["model", *ours, "paper_model", *(f"paper_{name}" for name in ours)]
    rows = []
    for row in table.rows:
        subject, paper = row.subject, row.paper
        millions = None if subject is None or not subject.parameters else subject.parameters / 1e6
        size = None if subject is None else subject.resolution
        values: list[str | float | None] = [row.source, millions, size]
        values += [row.value(name) for name in (THROUGHPUT, *names)]
        if paper is None:
            values += [None, None, None]
        else:
            values += [paper.name, paper.parameters_m, paper.resolution]
        values += [row.paper_value(name) for name in (THROUGHPUT, *names)]
        rows.append([Cell(value=value) for value in values])
    return Table(columns=[Column(title) for title in head], rows=rows)


def explanations(table: Table1) -> list[str]:
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


def markdown(table: Table1) -> str:
    """For a README: the paper's numbers as subscripts."""
    texts = [f"# {table.title()}", shown(table).markdown(), *map(escaped, explanations(table))]
    return "\n\n".join(texts) + "\n"


def page(table: Table1) -> Page:
    """The table as a page."""
    return Page(
        title=table.title(),
        sections=[Section(title="", tables=[shown(table)], notes=explanations(table))],
        folded={"Every result with its protocol, options, versions and times": table.to_json()},
    )


def write_table(table: Table1, out: Path) -> list[Path]:
    """Write OUT/table1.md, .csv, .html and .json, each whole or not at all."""
    content = {
        "md": markdown(table),
        "csv": numbers(table).csv(),
        "html": page(table).html(),
        "json": json.dumps(table.to_json(), indent=2) + "\n",
    }
    paths = []
    for end, text in content.items():
        paths.append(out / f"{NAME}.{end}")
        write_text(paths[-1], text)
    return paths
