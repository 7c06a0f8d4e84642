"""Fill the table cell by cell, and write it after each."""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from radio_eval.models import load_eval_model
from radio_eval.progress import Progress
from radio_eval.table1.cells import Cell, CellStore, digest, slug
from radio_eval.table1.columns import Column
from radio_eval.table1.models import Subject
from radio_eval.table1.paper import THROUGHPUT
from radio_eval.table1.table import Row
from radio_eval.table1.tasks import Task
from radio_eval.table1.throughput import ThroughputOptions, measure_throughput

_DEBUG = "RADIO_DEBUG"
_WORK = "work"


@dataclass(frozen=True, kw_only=True)
class Filling:
    """How the rows of a table are filled.

    Attributes:
        out: folder for finished cells, and for what interrupted ones go on with.
        columns: those that are wanted.
        tasks: what fills each of them.
        device: where the models run.
        throughput: how it is measured.
        announce: hears what is done next.
        progress: gives a listener for one cell.
        written: called after each cell.
    """

    out: Path
    columns: Sequence[Column]
    tasks: Mapping[str, Task]
    device: torch.device
    throughput: ThroughputOptions
    announce: Callable[[str], None]
    progress: Callable[[], AbstractContextManager[Progress]]
    written: Callable[[], None]

    def fill(self, row: Row) -> None:
        """Load the model of a row, and do all its tasks; what goes wrong is noted in the row."""
        store = CellStore(self.out / "cells")
        with _noted(lambda why: setattr(row, "failure", f"the model cannot be loaded: {why}")):
            self._load(row, store)
        self.written()
        if row.subject is None:
            return
        for column in self.columns:
            self._fill_cell(row, row.subject, column, store)
            self.written()

    def _load(self, row: Row, store: CellStore) -> None:
        """Find out what the model is and how fast; it does not stay in memory."""
        self.announce(f"{row.source}: loading")
        model = load_eval_model(row.source, device=self.device)
        row.subject = Subject.of(row.source, model)
        identity = {**row.subject.identity(), **self.throughput.identity(self.device)}
        cell = store.read(row.source, THROUGHPUT, identity)
        if cell is None:
            self.announce(f"{row.source}: throughput")
            with _noted(lambda why: row.cells.update({THROUGHPUT: Cell(note=why, failed=True)})):
                result = measure_throughput(model, self.throughput, self.device)
                cell = Cell(value=result["value"], result=result, identity=identity)
                store.write(row.source, THROUGHPUT, cell)
        if cell is not None:
            row.cells[THROUGHPUT] = cell

    def _fill_cell(self, row: Row, subject: Subject, column: Column, store: CellStore) -> None:
        task = self.tasks[column.name]
        missing = task.missing(subject)
        if missing is not None:
            row.cells[column.name] = Cell(note=missing)
            return
        with _noted(lambda why: row.cells.update({column.name: Cell(note=why, failed=True)})):
            identity = task.identity(subject)
            cell = store.read(row.source, column.name, identity) if subject.weights else None
            if cell is None:
                self.announce(f"{row.source}: {column.title}")
                cell = self._run(task, subject, column.name, identity)
                store.write(row.source, column.name, cell)
            row.cells[column.name] = cell

    def _run(self, task: Task, subject: Subject, column: str, identity: Mapping[str, Any]) -> Cell:
        name = f"{slug(subject.source)}.{column}-{digest(identity)}"
        start = time.perf_counter()
        task.prepare(subject)
        with self.progress() as progress:
            named = _named(progress, subject.source)
            result = task.run(subject, self.out / _WORK / name, named)
        seconds = round(time.perf_counter() - start, 3)
        return Cell(
            value=result["value"],
            note=result.get("note", ""),
            result={**result, "seconds_in_all": seconds},
            identity=identity,
        )


def _named(progress: Progress, name: str) -> Progress:
    def listen(what: str, done: int, total: int | None) -> None:
        progress(f"{name}: {what}", done, total)

    return listen


@contextmanager
def _noted(note: Callable[[str], object]) -> Iterator[None]:
    """Hand what goes wrong to `note`: one cell must not end a table that takes days.

    With RADIO_DEBUG=1 it is raised.
    """
    try:
        yield
    except Exception as error:
        if os.environ.get(_DEBUG, "") not in ("", "0"):
            raise
        text = " ".join(str(error).split())
        expected = isinstance(error, ValueError | OSError | ImportError)
        note(text if text and expected else f"{type(error).__name__}: {text}".rstrip(": "))
