"""Fill a table: each task on each model once, kept on disk as soon as it is done."""

import dataclasses
import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from radio_core.progress import rich_progress
from radio_eval.results import Json, plain, read_result, write_result
from radio_eval.runner import Context, Task, run_task


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One model on one task.

    Attributes:
        value: percent (of "throughput" images a second); None for an empty cell.
        note: why the cell is empty, or a remark.
        failed: it is empty because something went wrong.
        result: everything that was found, and the protocol, as JSON types.
        identity: what the result depends on, as JSON types.
    """

    value: float | None = None
    note: str = ""
    failed: bool = False
    result: Json = field(default_factory=dict)
    identity: Json = field(default_factory=dict)


class Filling:
    """Keeps finished cells in a folder, and tells the console what is done."""

    def __init__(self, folder: Path, console: Console | None = None) -> None:
        self.folder = folder
        self.console = console or Console(stderr=True)
        self._start = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Since the filling began."""
        return round(time.perf_counter() - self._start, 1)

    def announce(self, what: str) -> None:
        """Say what is done next, and how much time has passed."""
        minutes, seconds = divmod(int(self.seconds), 60)
        self.console.print(f"[{minutes}:{seconds:02d}] {what}", markup=False, highlight=False)

    def cell(self, row: str, column: str, identity: Json, make: Callable[[], Cell]) -> Cell:
        """The finished cell of this identity; made and kept if there is none, or a damaged one.

        The identity is all that the result depends on: weights, data, protocol. A cell of other
        settings or of an earlier version is made again, which is said; a failed one is not kept.
        """
        path, identity = self._path(row, column), plain(identity)
        kept = read_result(path, identity)
        if kept is not None and kept.keys() == {"value", "note", "result"}:
            return Cell(**kept, identity=identity)
        if path.is_file():
            self.announce(f"{row}, {column}: was found with other settings, data or version; again")
        cell = dataclasses.replace(make(), identity=identity)
        if not cell.failed:
            kept = {"value": cell.value, "note": cell.note, "result": cell.result}
            write_result(path, identity, kept)
        return cell

    def forget(self, row: str, column: str) -> None:
        """Remove a finished cell whose work is gone."""
        self._path(row, column).unlink(missing_ok=True)

    def _path(self, row: str, column: str) -> Path:
        return self.folder / f"{slug(row)}.{column}.json"

    def run(self, task: Task, model: Any, label: str, headline: str = "") -> Cell:
        """Run a task on a model; raises ValueError, with the reason, where it has no score."""
        start = time.perf_counter()
        with rich_progress(self.console) as progress:
            context = Context(
                progress=lambda what, done, total: progress(f"{label}: {what}", done, total)
            )
            result = run_task(task, model, context)
        if result.unscored:
            raise ValueError(f"it cannot be scored: {result.unscored}")
        value = result.metrics.get(headline) if headline else result.value
        seconds = round(time.perf_counter() - start, 3)
        found = {**result.to_json(), "seconds_in_all": seconds}
        note = "; ".join(context.notes) if value is None else ""
        return Cell(value=value, note=note, result=found)


@contextmanager
def noted() -> Iterator[list[str]]:
    """Go on after what goes wrong, which the list then tells: one cell must not end a long table.

    With RADIO_DEBUG=1 it is raised.
    """
    wrong: list[str] = []
    try:
        yield wrong
    except Exception as error:
        if os.environ.get("RADIO_DEBUG", "") not in ("", "0"):
            raise
        text = " ".join(str(error).split())
        expected = isinstance(error, ValueError | OSError | ImportError)
        wrong.append(text if text and expected else f"{type(error).__name__}: {text}".rstrip(": "))


def slug(name: str) -> str:
    """A file name for a model: readable, and different for different names."""
    readable = re.sub(r"[^\w.-]+", "-", name).strip("-.")[-60:]
    return f"{readable}-{hashlib.sha256(name.encode('utf-8', 'surrogateescape')).hexdigest()[:8]}"
