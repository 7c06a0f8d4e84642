"""A table in the terminal, as Markdown, HTML and JSON."""

import json
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.table import Table
from rich.text import Text

from radio_eval.paper.claims import SPREADS, Judgement, Outcome
from radio_eval.paper.results import PaperResults
from radio_eval.report.html import environment
from radio_eval.report.markdown import escaped, pipe_table
from radio_eval.table1.cells import write_text

_STYLES: dict[Outcome, str] = {
    "as in the paper": "green",
    "within the spread": "",
    "not seen here": "red",
    "not measured": "dim",
}
_CLASSES: dict[Outcome, str] = {
    "as in the paper": "right",
    "within the spread": "",
    "not seen here": "wrong",
    "not measured": "none",
}
_EMPTY = "–"


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A cell as it is read.

    Attributes:
        mean: our number, or a dash.
        spread: "±" and its standard deviation; "" for an empty cell.
        paper: the paper's number; "" where it prints none.
    """

    mean: str
    spread: str = ""
    paper: str = ""


@dataclass(frozen=True, kw_only=True)
class ShownClaim:
    """A claim as it is read.

    Attributes:
        text: the claim.
        column: which metric it is about.
        difference: what is subtracted from what.
        ours: mean and standard deviation, or a dash.
        paper: the paper's difference, or a dash.
        verdict: what became of it.
        style: CSS class of the verdict.
    """

    text: str
    column: str
    difference: str
    ours: str
    paper: str
    verdict: str
    style: str


@dataclass(frozen=True, kw_only=True)
class Dots:
    """All values of one column, for a picture.

    Attributes:
        title: of the column.
        low: lowest value.
        high: highest value.
        rows: (variant, place of each seed's value, place of the mean), places in [0, 1].
    """

    title: str
    low: str
    high: str
    rows: tuple[tuple[str, tuple[float, ...], float], ...]


def shown(results: PaperResults, variant: str, metric: str) -> Shown:
    """One cell."""
    found = results.summary(variant, metric)
    printed = results.table.variants[variant].paper.get(metric)
    paper = "" if printed is None else f"{printed:.2f}"
    if found is None:
        return Shown(mean=_EMPTY, paper=paper)
    digits = _digits(results, metric)
    return Shown(mean=_number(found[0], digits), spread=f"±{found[1]:.{digits}f}", paper=paper)


def _digits(results: PaperResults, metric: str) -> int:
    """Losses are small numbers; percentages are not."""
    values = [value for name in results.table.variants for value in results.of(name, metric)]
    return 1 if not values or max(map(abs, values)) >= 10 else 3


def _number(value: float, digits: int, *, signed: bool = False) -> str:
    return f"{value:{'+' if signed else ''}.{digits}f}".replace("-", "−")


def shown_claim(results: PaperResults, judgement: Judgement) -> ShownClaim:
    """One claim."""
    claim, table = judgement.claim, results.table
    digits = _digits(results, claim.metric)
    difference = table.variants[claim.higher].title
    if claim.lower is not None:
        difference += f" − {table.variants[claim.lower].title}"
    if claim.margin:
        difference += f" > {claim.margin:g}"
    ours = _EMPTY
    if judgement.mean is not None:
        mean = _number(judgement.mean, digits, signed=claim.lower is not None)
        ours = f"{mean} ±{judgement.spread:.{digits}f}"
    return ShownClaim(
        text=f"{claim.text} ({claim.source})",
        column=table.metrics[claim.metric].title,
        difference=difference,
        ours=ours,
        paper=_EMPTY if judgement.paper is None else _number(judgement.paper, 2, signed=True),
        verdict=judgement.verdict,
        style=_CLASSES[judgement.outcome],
    )


def explanations(results: PaperResults) -> list[str]:
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


def dots(results: PaperResults) -> list[Dots]:
    """The values behind the means, a picture for each column that has any."""
    found = []
    for name, metric in results.table.metrics.items():
        cells = {v: results.of(v, name) for v in results.table.variants}
        values = [value for cell in cells.values() for value in cell]
        if not values:
            continue
        low, span = min(values), max(values) - min(values) or 1.0
        rows = []
        for variant, cell in cells.items():
            places = tuple((value - low) / span for value in cell)
            if places:
                title = results.table.variants[variant].title
                rows.append((title, places, sum(places) / len(places)))
        digits = _digits(results, name)
        ends = f"{low:.{digits}f}", f"{max(values):.{digits}f}"
        found.append(Dots(title=metric.title, low=ends[0], high=ends[1], rows=tuple(rows)))
    return found


def terminal_tables(results: PaperResults) -> list[Table]:
    """The numbers, and below them the claims; the paper's numbers are dim."""
    table = results.table
    numbers = Table(title=Text(table.title), box=box.SIMPLE_HEAD)
    numbers.add_column("")
    for metric in table.metrics.values():
        numbers.add_column(Text(metric.title), justify="right")
    for name, variant in table.variants.items():
        cells = [shown(results, name, metric) for metric in table.metrics]
        numbers.add_row(Text(variant.title), *map(_rich, cells))
    claims = Table(box=box.SIMPLE_HEAD)
    for heading in ("the paper's claim", "on", "here", "paper", "verdict"):
        claims.add_column(heading, justify="right" if heading in ("here", "paper") else "left")
    for judgement in results.judgements():
        claim = shown_claim(results, judgement)
        verdict = Text(claim.verdict, style=_STYLES[judgement.outcome])
        texts = (claim.text, claim.column, claim.ours, claim.paper)
        claims.add_row(*map(Text, texts), verdict)
    return [numbers, claims]


def _rich(cell: Shown) -> Text:
    text = Text(f"{cell.mean} {cell.spread}".rstrip())
    return text.append(f"\n{cell.paper}", style="dim") if cell.paper else text


def markdown(results: PaperResults) -> str:
    """For a README: the paper's numbers as subscripts."""
    table = results.table
    rows = [["", *(metric.title for metric in table.metrics.values())]]
    for name, variant in table.variants.items():
        cells = [shown(results, name, metric) for metric in table.metrics]
        rows.append([variant.title, *map(_markdown, cells)])
    claims = [["the paper's claim", "on", "difference", "here", "paper", "verdict"]]
    for judgement in results.judgements():
        claim = shown_claim(results, judgement)
        claims.append(
            [claim.text, claim.column, claim.difference, claim.ours, claim.paper, claim.verdict]
        )
    lines = [f"# {table.title}", "", *pipe_table(rows), "", *pipe_table(claims)]
    for text in explanations(results):
        lines += ["", escaped(text)]
    return "\n".join(lines) + "\n"


def _markdown(cell: Shown) -> str:
    text = f"{cell.mean} {cell.spread}".rstrip()
    return f"{text} <sub>{cell.paper}</sub>" if cell.paper else text


def html(results: PaperResults) -> str:
    """A page without any outside resource; all texts are escaped.

    Raises:
        ImportError: jinja2 is missing; the message names the extra.
    """
    table = results.table
    page: str = (
        environment()
        .get_template("paper.html.j2")
        .render(
            title=table.title,
            headings=[metric.title for metric in table.metrics.values()],
            rows=[
                (variant.title, [shown(results, name, metric) for metric in table.metrics])
                for name, variant in table.variants.items()
            ],
            claims=[shown_claim(results, judgement) for judgement in results.judgements()],
            dots=dots(results),
            explanations=explanations(results),
            data=results.to_json(),
        )
    )
    return page


def write_results(results: PaperResults, out: Path) -> list[Path]:
    """Write OUT/tableN.md, .html and .json, each whole or not at all."""
    content = {
        "md": markdown(results),
        "html": html(results),
        "json": json.dumps(results.to_json(), indent=2) + "\n",
    }
    paths = []
    for end, text in content.items():
        paths.append(out / f"{results.table.name}.{end}")
        write_text(paths[-1], text)
    return paths
