"""The table of an evaluation: rows are models, columns are tasks, cells are percentages."""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from radio_eval.contract import TaskResult
from radio_eval.report.table import Cell, Column, Table, Tone
from radio_eval.runner import installed_versions

TASKS = {
    "zero_shot": "zero-shot top-1",
    "knn": "kNN top-1",
    "linear_seg": "linear seg mIoU",
    "sam_miou": "SAM box mIoU",
}
"""Columns, in order, with their titles."""

Kind = Literal["student", "teacher", "baseline"]


@dataclass(kw_only=True)
class Row:
    """One model's scores.

    Attributes:
        name: of the model.
        kind: what it is; fractions compare students with the best teacher.
        scores: task -> percent, None where the model cannot do the task.
        results: the evaluations behind the scores.
        note: a remark, e.g. why the row is empty.
    """

    name: str
    kind: Kind
    scores: dict[str, float | None] = field(default_factory=lambda: dict.fromkeys(TASKS))
    results: list[TaskResult] = field(default_factory=list)
    note: str = ""

    def add(self, result: TaskResult) -> None:
        """Enter an evaluation into its column."""
        self.scores[result.task] = result.value
        self.results.append(result)


@dataclass(kw_only=True)
class Results:
    """All rows of a table with what is needed to reproduce them.

    Attributes:
        rows: the table, top to bottom.
        metadata: JSON types: command, seeds, times, data set sizes.
    """

    rows: list[Row]
    metadata: dict[str, Any] = field(default_factory=dict)

    def best(self, task: str, kind: Kind | None = None) -> float | None:
        """The highest score of a column, among the rows of one kind or all."""
        values = [row.scores.get(task) for row in self.rows if kind in (None, row.kind)]
        return max((value for value in values if value is not None), default=None)

    def fraction(self, row: Row, task: str) -> float | None:
        """A row's score divided by the best teacher's; None where either is missing."""
        value, best = row.scores.get(task), self.best(task, "teacher")
        return value / best if value is not None and best else None

    def table(self) -> Table:
        """Scores with, of students, the fraction of the best teacher's score below."""
        rows: list[list[str | Cell]] = []
        for row in self.rows:
            cells: list[str | Cell] = [row.name]
            for task in TASKS:
                value = row.scores.get(task)
                if value is None:
                    cells.append(Cell("–", tone="dim"))
                    continue
                fraction = self.fraction(row, task) if row.kind == "student" else None
                note = "" if fraction is None else f"{fraction:.2f} ×"
                tone: Tone = "best" if value == self.best(task) else ""
                cells.append(Cell(f"{value:.1f}", note, tone, value))
            rows.append(cells)
        kinds = [row.kind for row in self.rows]
        return Table(
            title="Scores in percent; × of the best teacher",
            columns=[Column(title) for title in ("model", *TASKS.values())],
            rows=rows,
            breaks=[n for n in range(1, len(kinds)) if kinds[n] != kinds[n - 1]],
        )

    def to_json(self) -> dict[str, Any]:
        """The results as plain JSON types; `rows` is {row: {task: percent or null}}."""
        return {
            "rows": {row.name: {task: row.scores.get(task) for task in TASKS} for row in self.rows},
            "fractions_of_best_teacher": {
                row.name: {task: self.fraction(row, task) for task in TASKS}
                for row in self.rows
                if row.kind == "student"
            },
            "notes": {row.name: row.note for row in self.rows if row.note},
            "evaluations": [result.to_json() for row in self.rows for result in row.results],
            "metadata": {**self.metadata, "versions": installed_versions()},
        }

    def write(self, path: Path) -> None:
        """Write `to_json` to a file, whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + ".partial")
        partial.write_text(json.dumps(self.to_json(), indent=2) + "\n", encoding="utf-8")
        os.replace(partial, path)
