"""Table 1 in the terminal, as Markdown, CSV, HTML and JSON."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from radio_eval.report.page import Page
from radio_eval.report.sections import Section
from radio_eval.report.table import Cell, Column, Table, escaped
from radio_eval.results import plain, write_whole
from radio_eval.runner import installed_versions
from radio_eval.tables.table1 import IMAGENET, LANGUAGE, Row, Table1
from radio_eval.tables.table1_paper import FOOTNOTES, SETTING, SOURCE, THROUGHPUT

NAME = "table1"
"""Of the files, before their ends."""


def write_table1(table: Table1, out: Path) -> list[Path]:
    """Write OUT/table1.md, .csv, .html and .json, each whole or not at all."""
    content = {
        "md": markdown(table),
        "csv": numbers(table).csv(),
        "html": page(table).html(),
        "json": json.dumps(to_json(table), indent=2) + "\n",
    }
    paths = []
    for end, text in content.items():
        paths.append(out / f"{NAME}.{end}")
        write_whole(paths[-1], text)
    return paths


def shown(table: Table1) -> Table:
    """Our numbers, the best of a column bold, with the paper's below them."""
    names = {IMAGENET: "Classification"} if table.toy else {}
    columns = [
        *map(Column, ("model", "Params (M)", "Resolution", "Throughput")),
        *(Column(c.title, names.get(c.group, c.group)) for c in table.columns),
    ]
    rows = [[*_facts(row), *_scores(table, row)] for row in table.rows]
    return Table(title=title(table), columns=columns, rows=rows)


def title(table: Table1) -> str:
    """Heading of the table."""
    return "Table 1 in the toy world" if table.toy else "Table 1 of AM-RADIO, measured"


def _facts(row: Row) -> Iterator[Cell]:
    """Name, parameters, resolution and throughput."""
    facts, paper, marks = row.facts, row.paper, {} if row.paper is None else row.paper.marks
    yield Cell(row.source, f"{paper.name}{marks.get('name', '')}" if paper else "")
    if facts is None or facts.parameters is None:
        yield Cell()
    else:
        millions = facts.parameters / 1e6
        text = f"{millions:,.0f}" if millions >= 10 else f"{millions:.2f}"
        yield Cell(text, f"{paper.parameters_m:,.0f}" if paper else "")
    size = "" if facts is None else str(facts.resolution)
    yield Cell(size, str(paper.resolution) if paper and size else "")
    speed = row.value(THROUGHPUT)
    if speed is None:
        yield Cell()
    else:
        text = f"{speed:,.0f}" if speed >= 100 else f"{speed:.1f}"
        note = f"{paper.throughput:.0f}{marks.get(THROUGHPUT, '')}" if paper else ""
        yield Cell(text, note)


def _scores(table: Table1, row: Row) -> Iterator[Cell]:
    for column in table.columns:
        value = row.value(column.name)
        if value is None:
            yield Cell()
            continue
        note = ""
        if row.paper is not None and (printed := row.paper.scores.get(column.name)) is not None:
            note = f"{printed:.2f}{row.paper.marks.get(column.name, '')}"
        yield Cell(f"{value:.2f}", note, "best" if value == table.best(column.name) else "")


def numbers(table: Table1) -> Table:
    """A row a model, for programs: our numbers, then the paper's; empty where there is none."""
    names = [column.name for column in table.columns]
    ours = ["params_m", "resolution", THROUGHPUT, *names]
    head = ["model", *ours, "paper_model", *(f"paper_{name}" for name in ours)]
    rows = []
    for row in table.rows:
        facts, paper = row.facts, row.paper
        millions = None if facts is None or not facts.parameters else facts.parameters / 1e6
        values: list[Any] = [row.source, millions, facts and facts.resolution]
        values += [row.value(name) for name in (THROUGHPUT, *names)]
        if paper is not None:
            values += [paper.name, paper.parameters_m, paper.resolution, paper.throughput]
            values += [paper.scores.get(name) for name in names]
        values += [None] * (len(head) - len(values))
        rows.append([Cell(value=value) for value in values])
    return Table(columns=[Column(text) for text in head], rows=rows)


def remarks(table: Table1) -> list[str]:
    """What must be said below the table, a sentence each."""
    found = [f"{row.source}: {row.failure}" for row in table.rows if row.failure]
    titles = {column.name: column.title for column in table.columns}
    of_note: dict[str, tuple[dict[str, None], dict[str, None]]] = {}
    for row in table.rows:
        for name, cell in row.cells.items():
            if cell.note:  # those with the same words are put together
                columns, models = of_note.setdefault(cell.note, ({}, {}))
                columns[titles.get(name, name)] = models[row.source] = None
    for note, (columns, models) in of_note.items():
        found.append(f"{', '.join(columns)} of {', '.join(models)}: {note}")
    papers = {row.source: row.paper for row in table.rows if row.paper}
    found += [text for source, paper in papers.items() if (text := paper.remark(source))]
    marks = {mark for paper in papers.values() for mark in paper.marks.values()}
    return found + [f"{mark} {text}." for mark, text in FOOTNOTES.items() if mark in marks]


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
    if table.toy and any(column.group == LANGUAGE for column in table.columns):
        training = options.get("training", {})
        found.append(
            f"Each model has a toy LLaVA of its own, trained for {training.get('pretrain_steps')} "
            f"and {training.get('instruct_steps')} steps; RADIO's images have "
            f"{options.get('llava_resolution')} pixels there, and teachers' their own resolution."
        )
    if any(row.paper for row in table.rows):
        found.append(f"Small: the paper's numbers ({SOURCE}). {SETTING}")
    return found + remarks(table)


def markdown(table: Table1) -> str:
    """For a README: the paper's numbers as subscripts."""
    texts = [f"# {title(table)}", shown(table).markdown(), *map(escaped, explanations(table))]
    return "\n\n".join(texts) + "\n"


def page(table: Table1) -> Page:
    """The table as a page."""
    return Page(
        title=title(table),
        sections=[Section(title="", tables=[shown(table)], notes=explanations(table))],
        folded={"Every result with its protocol, options, versions and times": to_json(table)},
    )


def to_json(table: Table1) -> dict[str, Any]:
    """Everything as plain JSON types."""
    return {
        "title": title(table),
        "data": "toy" if table.toy else "folders",
        "columns": {column.name: column.metric for column in table.columns},
        "rows": {row.source: _row_json(table, row) for row in table.rows},
        "notes": remarks(table),
        "paper": {"source": SOURCE, "setting": SETTING},
        "evaluations": {
            row.source: {
                name: {"identity": plain(cell.identity), "result": plain(cell.result)}
                for name, cell in row.cells.items()
                if cell.result
            }
            for row in table.rows
        },
        "metadata": {**plain(table.metadata), "versions": installed_versions()},
    }


def _row_json(table: Table1, row: Row) -> dict[str, Any]:
    paper = row.paper and asdict(row.paper)
    keys = ("name", "parameters_m", "resolution", "throughput", "scores", "marks")
    return {
        "parameters": None if row.facts is None else row.facts.parameters,
        "resolution": None if row.facts is None else row.facts.resolution,
        "throughput": row.value(THROUGHPUT),
        "scores": {column.name: row.value(column.name) for column in table.columns},
        "paper": paper and {key: paper[key] for key in keys},
    }
