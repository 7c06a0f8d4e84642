"""The table as it stands: models in rows, with what is known of each and the paper's numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from radio_eval.runner import installed_versions
from radio_eval.table1.cells import Cell, plain
from radio_eval.table1.columns import Column
from radio_eval.table1.models import Subject
from radio_eval.table1.paper import FOOTNOTES, SETTING, SOURCE, THROUGHPUT, PaperRow, paper_row

EMPTY = Cell()


@dataclass(kw_only=True)
class Row:
    """One model.

    Attributes:
        source: as `--models` names it.
        subject: what is known of it; None before it is loaded, or if that failed.
        cells: column (or "throughput") -> what became of it.
        failure: why the model could not be loaded.
    """

    source: str
    subject: Subject | None = None
    cells: dict[str, Cell] = field(default_factory=dict)
    failure: str = ""

    @property
    def paper(self) -> PaperRow | None:
        """The paper's row of the model."""
        return paper_row(self.source)

    def value(self, column: str) -> float | None:
        """Our number of a column or of "throughput"; None for an empty cell."""
        return self.cells.get(column, EMPTY).value

    def paper_value(self, column: str) -> float | None:
        """The paper's number of a column or of "throughput"; None where it has none."""
        if self.paper is None:
            return None
        return self.paper.throughput if column == THROUGHPUT else self.paper.scores.get(column)

    def mark(self, column: str) -> str:
        """The footnote mark at the paper's number; "" for none."""
        return "" if self.paper is None else self.paper.marks.get(column, "")


@dataclass(kw_only=True)
class Table:
    """The whole table.

    Attributes:
        rows: top to bottom.
        columns: left to right.
        kind: of the data, "toy" or "folders".
        metadata: JSON types: options, machine, times.
    """

    rows: Sequence[Row]
    columns: Sequence[Column]
    kind: str
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def failed(self) -> bool:
        """Whether anything went wrong."""
        return any(
            row.failure or any(cell.failed for cell in row.cells.values()) for row in self.rows
        )

    @property
    def has_paper_rows(self) -> bool:
        """Whether the paper has a row of one of the models."""
        return any(row.paper is not None for row in self.rows)

    def best(self, column: str) -> float | None:
        """The highest of our numbers in a column, where there are different ones."""
        values = {value for row in self.rows if (value := row.value(column)) is not None}
        return max(values) if len(values) > 1 else None

    def title(self) -> str:
        """Heading of the table."""
        return "Table 1 in the toy world" if self.kind == "toy" else "Table 1 of AM-RADIO, measured"

    def remarks(self) -> list[str]:
        """What must be said below the table, a sentence each."""
        found = [f"{row.source}: {row.failure}" for row in self.rows if row.failure]
        found += self._cell_notes()
        found += [text for row in self.rows if row.paper and (text := row.paper.remark(row.source))]
        marks = {mark for row in self.rows if row.paper for mark in row.paper.marks.values()}
        return found + [f"{mark} {text}." for mark, text in FOOTNOTES.items() if mark in marks]

    def _cell_notes(self) -> list[str]:
        """Notes of cells; those with the same words are put together."""
        of_note: dict[str, tuple[dict[str, None], dict[str, None]]] = {}
        titles = {column.name: column.title for column in self.columns}
        for row in self.rows:
            for name, cell in row.cells.items():
                if cell.note:
                    columns, models = of_note.setdefault(cell.note, ({}, {}))
                    columns[titles.get(name, name)] = None
                    models[row.source] = None
        return [
            f"{', '.join(columns)} of {', '.join(models)}: {note}"
            for note, (columns, models) in of_note.items()
        ]

    def to_json(self) -> dict[str, Any]:
        """Everything as plain JSON types."""
        return {
            "title": self.title(),
            "data": self.kind,
            "columns": {column.name: column.metric for column in self.columns},
            "rows": {row.source: self._row_json(row) for row in self.rows},
            "notes": self.remarks(),
            "paper": {"source": SOURCE, "setting": SETTING},
            "evaluations": {
                row.source: {
                    name: {"identity": plain(cell.identity), "result": plain(cell.result)}
                    for name, cell in row.cells.items()
                    if cell.result
                }
                for row in self.rows
            },
            "metadata": {**plain(self.metadata), "versions": installed_versions()},
        }

    def _row_json(self, row: Row) -> dict[str, Any]:
        names = [column.name for column in self.columns]
        paper = row.paper
        return {
            "parameters": None if row.subject is None else row.subject.parameters,
            "resolution": None if row.subject is None else row.subject.resolution,
            "throughput": row.value(THROUGHPUT),
            "scores": {name: row.value(name) for name in names},
            "paper": paper
            and {
                "name": paper.name,
                "parameters_m": paper.parameters_m,
                "resolution": paper.resolution,
                "throughput": paper.throughput,
                "scores": dict(paper.scores),
                "marks": dict(paper.marks),
            },
        }
