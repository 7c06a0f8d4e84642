"""Tables and texts as Markdown."""

from collections.abc import Sequence


def pipe_table(rows: Sequence[Sequence[str]], numbers: bool = False) -> list[str]:
    """The lines of a table.

    Args:
        rows: the headings, then each row; cells are Markdown already.
        numbers: all columns but the first are aligned to the right.
    """
    head, *body = rows
    rule = ["---", *(("---:" if numbers else "---") for _ in head[1:])]
    return ["| " + " | ".join(row) + " |" for row in (head, rule, *body)]


def escaped(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    flat = " ".join(text.split())
    for sign in "\\`*_|<>[]":
        flat = flat.replace(sign, f"\\{sign}")
    return flat
