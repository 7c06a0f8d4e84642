"""An ablation in the terminal, as Markdown, HTML and JSON."""

import json
from pathlib import Path
from typing import Any

from radio_eval.report.figures import dots_figure
from radio_eval.report.page import Page
from radio_eval.report.sections import Section
from radio_eval.report.table import Cell, Column, Table, Tone, escaped
from radio_eval.results import write_whole
from radio_eval.runner import installed_versions
from radio_eval.tables.ablation import SPREADS, AblationResults, Outcome

_TONES: dict[Outcome, Tone] = {
    "as in the paper": "right",
    "within the spread": "",
    "not seen here": "wrong",
    "not measured": "dim",
}


def write_ablation(results: AblationResults, out: Path) -> list[Path]:
    """Write OUT/tableN.md, .html and .json, each whole or not at all."""
    content = {
        "md": markdown(results),
        "html": page(results).html(),
        "json": json.dumps(to_json(results), indent=2) + "\n",
    }
    paths = []
    for end, text in content.items():
        paths.append(out / f"{results.table.name}.{end}")
        write_whole(paths[-1], text)
    return paths


def numbers(results: AblationResults) -> Table:
    """Mean and standard deviation of every cell, with the paper's number below it."""
    table = results.table
    rows: list[list[str | Cell]] = []
    for name, variant in table.variants.items():
        row: list[str | Cell] = [variant.title]
        for metric in table.metrics:
            found, printed = results.summary(name, metric), variant.printed.get(metric)
            paper, digits = "" if printed is None else f"{printed:.2f}", _digits(results, metric)
            if found is None:
                row.append(Cell("–", paper, "dim"))
            else:
                row.append(Cell(f"{_number(found[0], digits)} ±{found[1]:.{digits}f}", paper))
        rows.append(row)
    columns = [Column(title) for title in ("", *(m.title for m in table.metrics.values()))]
    return Table(title=table.title, columns=columns, rows=rows)


def claims(results: AblationResults) -> Table:
    """What the paper says of the table, and what was seen here."""
    table = results.table
    rows: list[list[str | Cell]] = []
    for judgement in results.judgements():
        claim, digits = judgement.claim, _digits(results, judgement.claim.metric)
        difference = table.variants[claim.higher].title
        if claim.lower is not None:
            difference += f" − {table.variants[claim.lower].title}"
        if claim.margin:
            difference += f" > {claim.margin:g}"
        ours = "–"
        if judgement.summary is not None:
            mean, spread = judgement.summary
            signed = _number(mean, digits, signed=claim.lower is not None)
            ours = f"{signed} ±{spread:.{digits}f}"
        paper = "–" if judgement.printed is None else _number(judgement.printed, 2, signed=True)
        verdict = Cell(judgement.verdict, tone=_TONES[judgement.outcome])
        title = table.metrics[claim.metric].title
        rows.append([f"{claim.text} ({claim.source})", title, difference, ours, paper, verdict])
    texts = ("the paper's claim", "on", "difference", "here", "paper", "verdict")
    columns = [Column(text, numeric=text in ("here", "paper")) for text in texts]
    return Table(columns=columns, rows=rows)


def explanations(results: AblationResults) -> list[str]:
    """What the numbers are, and what went wrong, a sentence or more each."""
    options = results.metadata.get("options", {})
    found = [
        f"Toy world, {options.get('seeds')} seeds, {options.get('steps')} steps a student. Mean "
        "and standard deviation (n − 1) over the seeds; scores in percent; small: the paper's "
        "numbers, of other models and other data. What is compared is the direction.",
        "Differences are taken seed by seed: the variants of one seed see the same crops in the "
        "same order. A direction counts as seen where the mean difference is larger than "
        f"{SPREADS} standard deviations over the seeds; below that it is within the spread. All "
        "students are evaluated on the same images, whose choice the spread does not show.",
        *results.table.setting,
    ]
    for (variant, seed), reason in results.failures.items():
        found.append(f"{results.table.variants[variant].title}, seed {seed}: {reason}")
    return found


def markdown(results: AblationResults) -> str:
    """For a README: the paper's numbers as subscripts."""
    tables = [numbers(results).markdown(), claims(results).markdown()]
    texts = [f"# {results.table.title}", *tables, *map(escaped, explanations(results))]
    return "\n\n".join(texts) + "\n"


def page(results: AblationResults) -> Page:
    """The table as a page, with the values of every seed."""
    table, (lead, *notes) = results.table, explanations(results)
    dots = {}
    for name, metric in table.metrics.items():
        rows = {v.title: results.by_seed(key, name) for key, v in table.variants.items()}
        if any(rows.values()):
            dots[metric.title] = {title: [*row.values()] for title, row in rows.items() if row}
    sections = [
        Section(title="", tables=[numbers(results)]),
        Section(
            title="What the paper says of it",
            text="In brackets: whether its caption, its text or its numbers say so.",
            tables=[claims(results)],
            notes=notes,
        ),
    ]
    if dots:
        text = "A dot is a seed, the line their mean."
        sections.append(Section(title="Every seed", text=text, figures=[dots_figure(dots)]))
    folded = {"Every value, options, versions and times": to_json(results)}
    return Page(title=table.title, lead=lead, sections=sections, folded=folded)


def to_json(results: AblationResults) -> dict[str, Any]:
    """Everything as plain JSON types."""
    table = results.table
    rows = {}
    for name, variant in table.variants.items():
        cells = {}
        for metric in table.metrics:
            mean, spread = results.summary(name, metric) or (None, None)
            by_seed, printed = results.by_seed(name, metric), variant.printed.get(metric)
            cells[metric] = {"mean": mean, "std": spread, "by_seed": by_seed, "paper": printed}
        rows[name] = {"title": variant.title, "cells": cells}
    names = ("text", "source", "metric", "higher", "lower", "margin")
    return {
        "table": table.name,
        "title": table.title,
        "setting": list(table.setting),
        "metrics": {name: metric.title for name, metric in table.metrics.items()},
        "rows": rows,
        "claims": [
            {
                **{name: getattr(judgement.claim, name) for name in names},
                "difference": judgement.summary and judgement.summary[0],
                "std": judgement.summary and judgement.summary[1],
                "by_seed": dict(judgement.differences),
                "paper": judgement.printed,
                "verdict": judgement.verdict,
            }
            for judgement in results.judgements()
        ],
        "failures": [
            {"variant": variant, "seed": seed, "reason": reason}
            for (variant, seed), reason in results.failures.items()
        ],
        "metadata": {**results.metadata, "versions": installed_versions()},
    }


def _digits(results: AblationResults, metric: str) -> int:
    """Losses are small numbers; percentages are not."""
    values = [v for name in results.table.variants for v in results.by_seed(name, metric).values()]
    return 1 if not values or max(map(abs, values)) >= 10 else 3


def _number(value: float, digits: int, *, signed: bool = False) -> str:
    return f"{value:{'+' if signed else ''}.{digits}f}".replace("-", "−")
