"""The results as a table in the terminal."""

from rich.table import Table
from rich.text import Text

from radio_eval.report.results import TASKS, Results, Row


def results_table(results: Results, title: str = "") -> Table:
    """A rich table: a dash where a model cannot do a task, the best of each column bold.

    Students' cells also show the fraction of the best teacher's score.
    """
    table = Table(title=Text(title) if title else None)
    table.add_column("model")
    for heading in TASKS.values():
        table.add_column(Text(heading), justify="right")
    kind = None
    for row in results.rows:
        if kind not in (None, row.kind):
            table.add_section()
        kind = row.kind
        table.add_row(Text(row.name), *(_cell(results, row, task) for task in TASKS))
    return table


def _cell(results: Results, row: Row, task: str) -> Text:
    value = row.scores.get(task)
    if value is None:
        return Text("–", style="dim")
    text = Text(f"{value:.1f}", style="bold" if value == results.best(task) else "")
    fraction = results.fraction(row, task) if row.kind == "student" else None
    if fraction is not None:
        text.append(f" ({fraction:.2f}x)", style="dim")
    return text
