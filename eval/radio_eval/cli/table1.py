"""The paper's Table 1 for any models: radio eval table1 --models A,B,C [--tasks ...]."""

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from radio_core.bench.timing import machine
from radio_core.cli import UsageError, parse
from radio_core.config_file import to_mapping
from radio_core.devices import choose_device
from radio_eval.progress import rich_progress
from radio_eval.report.page import require_pages
from radio_eval.table1.columns import Column, choose_columns
from radio_eval.table1.data import available_columns, folder_tasks, toy_tasks
from radio_eval.table1.models import read_models
from radio_eval.table1.options import Table1Options
from radio_eval.table1.output import explanations, shown, write_table
from radio_eval.table1.run import Filling
from radio_eval.table1.table import Row, Table
from radio_eval.table1.tasks import Task


def main(argv: Sequence[str]) -> int:
    """Run `radio eval table1`; returns the exit code: 1 if a cell failed."""
    options = parse(Table1Options, argv, prog="radio eval table1")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError("table1 runs in one process; under torchrun use radio eval TASK")
    models = read_models(options.models)
    columns = choose_columns(options.tasks, available_columns(options), options.kind)
    device = choose_device(options.device)
    require_pages()  # a table of hours must not end without its page
    screen = Console(stderr=True)
    start = time.perf_counter()

    def announce(what: str) -> None:
        minutes, seconds = divmod(int(time.perf_counter() - start), 60)
        screen.print(f"[{minutes}:{seconds:02d}] {what}", markup=False, highlight=False)

    rows = [Row(source=name) for name in models]
    metadata: dict[str, Any] = {
        "command": "radio eval table1",
        "options": to_mapping(options),
        "machine": machine(device),
    }
    table = Table(rows=rows, columns=columns, kind=options.kind, metadata=metadata)

    def write() -> None:
        metadata["seconds"] = round(time.perf_counter() - start, 1)
        write_table(table, options.out)

    filling = Filling(
        out=options.out,
        columns=columns,
        tasks=_tasks(options, models, columns, screen, announce),
        device=device,
        throughput=options.throughput,
        announce=announce,
        progress=lambda: rich_progress(screen),
        written=write,
    )
    for row in rows:
        filling.fill(row)
    _print(table, write_table(table, options.out))
    return 1 if table.failed else 0


def _tasks(
    options: Table1Options,
    models: tuple[str, ...],
    columns: tuple[Column, ...],
    screen: Console,
    announce: Callable[[str], None],
) -> dict[str, Task]:
    """What fills the columns; the toy world is made first where it is missing."""
    if options.kind == "folders":
        return folder_tasks(options, models)
    with rich_progress(screen) as progress:
        return toy_tasks(options, columns, progress, announce)


def _print(table: Table, paths: Sequence[Path]) -> None:
    console = Console()
    console.print(*shown(table).terminal(console.width))
    for text in explanations(table):
        console.print(text, markup=False, highlight=False, style="dim")
    for path in paths:
        console.print(f"wrote {path}", markup=False, highlight=False)
