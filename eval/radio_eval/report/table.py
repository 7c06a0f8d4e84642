"""One table for the terminal, Markdown, CSV, HTML (through `page`) and JSON."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal

from rich import box
from rich.table import Table as RichTable
from rich.text import Text

Tone = Literal["", "best", "right", "wrong", "dim"]
_STYLES: dict[Tone, str] = {
    "": "",
    "best": "bold",
    "right": "green",
    "wrong": "red",
    "dim": "dim",
}
_WIDEST_NAME = 32
"""Characters of a row's name on one line of the terminal."""


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
        text: as it is read; "" for an empty cell.
        note: a second, smaller text below it, such as the paper's number.
        tone: "best" of its column (bold), "right" and "wrong" (coloured), "dim".
        value: what CSV and JSON have in place of the text; None for the text itself.
    """

    text: str = ""
    note: str = ""
    tone: Tone = ""
    value: float | int | str | None = None

    @property
    def plain(self) -> float | int | str | None:
        """The value, or the text; None for an empty cell."""
        return (self.text or None) if self.value is None else self.value


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        title: its heading.
        group: a heading over it and its neighbours of the same group (HTML only).
        numeric: aligned to the right.
    """

    title: str
    group: str = ""
    numeric: bool = True


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table whose first column names its rows.

    Attributes:
        columns: from left to right, the names' among them.
        rows: from top to bottom, each with a text or a cell for every column.
        title: heading in the terminal; pages have their own.
        breaks: numbers of the rows above which a line is drawn.
    """

    columns: Sequence[Column]
    rows: Sequence[Sequence[str | Cell]]
    title: str = ""
    breaks: Sequence[int] = ()

    @property
    def cells(self) -> list[list[Cell]]:
        """The rows, each text as a cell."""
        return [[Cell(c) if isinstance(c, str) else c for c in row] for row in self.rows]

    @property
    def groups(self) -> list[tuple[str, int]]:
        """Headings over the columns: (title, columns that it spans); nothing without any."""
        found = [(title, len(list(same))) for title, same in groupby(c.group for c in self.columns)]
        return found if any(title for title, _ in found) else []

    def terminal(self, width: int = 0) -> list[RichTable]:
        """The table for `rich`; texts are shown as they are.

        Args:
            width: of the terminal in characters: columns that do not fit go into further tables
                below, each with the names again. 0 for one table.
        """
        cells = [[_rich(cell) for cell in row] for row in self.cells]
        widths = [
            2 + max(map(_width, (Text(column.title), *(row[place] for row in cells))))
            for place, column in enumerate(self.columns)
        ]
        first = min(widths[0], _WIDEST_NAME + 2)
        blocks: list[list[int]] = [[]]
        for place in range(1, len(self.columns)):
            used = first + 2 + sum(widths[other] for other in blocks[-1])
            if width and blocks[-1] and used + widths[place] > width:
                blocks.append([])
            blocks[-1].append(place)
        return [
            self._block(cells, [0, *block], self.title if number == 0 else "", bool(width))
            for number, block in enumerate(blocks)
        ]

    def _block(
        self, cells: Sequence[Sequence[Text]], places: Sequence[int], title: str, fixed: bool
    ) -> RichTable:
        made = RichTable(title=Text(title) if title else None, box=box.SIMPLE_HEAD, padding=(0, 1))
        for place in places:
            column = self.columns[place]
            made.add_column(
                Text(column.title),
                justify="right" if place and column.numeric else "left",
                overflow="fold",
                no_wrap=fixed and place > 0,
                max_width=None if place else _WIDEST_NAME,
            )
        for number, row in enumerate(cells):
            if number in self.breaks:
                made.add_section()
            made.add_row(*(row[place] for place in places))
        return made

    def markdown(self) -> str:
        """The lines of the table: the best bold, notes as subscripts."""
        numbers = [column.numeric for column in self.columns[1:]]
        rule = ["---", *("---:" if numeric else "---" for numeric in numbers)]
        rows = [[escaped(column.title) for column in self.columns], rule]
        for row in self.cells:
            rows.append([_markdown(cell) for cell in row])
        return "\n".join("| " + " | ".join(row) + " |" for row in rows)

    def csv(self) -> str:
        """Headings and values; numbers with up to four digits behind the point."""
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(column.title for column in self.columns)
        for row in self.cells:
            writer.writerow(_number(cell.plain) for cell in row)
        return file.getvalue()

    def to_json(self) -> dict[str, Any]:
        """The "columns" (headings) and "rows" (values) as JSON types."""
        return {
            "columns": [column.title for column in self.columns],
            "rows": [[cell.plain for cell in row] for row in self.cells],
        }


def escaped(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    flat = " ".join(text.split())
    for sign in "\\`*_|<>[]":
        flat = flat.replace(sign, f"\\{sign}")
    return flat


def _rich(cell: Cell) -> Text:
    text = Text(cell.text, style=_STYLES[cell.tone])
    return text.append(f"\n{cell.note}", style="not bold dim") if cell.note else text


def _width(text: Text) -> int:
    return max((Text(line).cell_len for line in text.plain.split("\n")), default=0)


def _markdown(cell: Cell) -> str:
    text = f"**{escaped(cell.text)}**" if cell.tone == "best" else escaped(cell.text)
    return f"{text} <sub>{escaped(cell.note)}</sub>".lstrip() if cell.note else text


def _number(value: float | int | str | None) -> str:
    if isinstance(value, float):
        return f"{value:.4f}".rstrip("0").rstrip(".")
    return "" if value is None else str(value)
