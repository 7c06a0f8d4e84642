"""Finished cells of the table, kept on disk: a repeated command does only what is missing."""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What became of one model on one task.

    Attributes:
        value: percent (of "throughput" images a second); None for an empty cell.
        note: why the cell is empty, or a remark.
        failed: it is empty because something went wrong.
        result: everything that the evaluation found, and its protocol, as JSON types.
        identity: what the result depends on, as JSON types.
    """

    value: float | None = None
    note: str = ""
    failed: bool = False
    result: Mapping[str, Any] = field(default_factory=dict)
    identity: Mapping[str, Any] = field(default_factory=dict)


class CellStore:
    """A folder with a file for each finished cell.

    Args:
        folder: made when the first cell is written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, model: str, column: str) -> Path:
        """The file of a cell."""
        return self.folder / f"{slug(model)}.{column}.json"

    def read(self, model: str, column: str, identity: Mapping[str, Any]) -> Cell | None:
        """The finished cell; None if there is none, or it was of other weights, data or protocol.

        Args:
            model: as `--models` names it.
            column: of the table.
            identity: what the result would depend on today.
        """
        try:
            content = json.loads(self.path(model, column).read_text(encoding="utf-8"))
            same = content["identity"] == plain(identity)
            value, note, result = content["value"], content["note"], content["result"]
        except (OSError, ValueError, KeyError, TypeError):  # none, or damaged: it is done again
            return None
        if not same or not isinstance(value, float | int | None) or not isinstance(result, dict):
            return None
        return Cell(value=value, note=note, result=result, identity=content["identity"])

    def write(self, model: str, column: str, cell: Cell) -> None:
        """Keep a finished cell, whole or not at all."""
        content = {
            "model": model,
            "column": column,
            "value": cell.value,
            "note": cell.note,
            "identity": plain(cell.identity),
            "result": plain(cell.result),
        }
        write_text(self.path(model, column), json.dumps(content, indent=2) + "\n")


def slug(name: str) -> str:
    """A file name for a model: readable, and different for different names."""
    readable = re.sub(r"[^\w.-]+", "-", name).strip("-.")[-60:]
    return f"{readable}-{hashlib.sha256(name.encode('utf-8', 'surrogateescape')).hexdigest()[:8]}"


def digest(identity: Mapping[str, Any]) -> str:
    """A short name for an identity."""
    text = json.dumps(plain(identity), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def plain(value: Any) -> Any:
    """A value as JSON gives it back: tuples become lists, paths and other things text."""
    return json.loads(json.dumps(value, default=str))


def write_text(path: Path, text: str) -> None:
    """Write a file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8", errors="replace")
    os.replace(partial, path)
