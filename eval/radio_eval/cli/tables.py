"""`radio quickstart`, `radio eval table1`, and `radio paper {table3,table4,table5,table6}`."""

import dataclasses
import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from radio_core.bench.timing import machine
from radio_core.cli import UsageError
from radio_core.config_file import to_mapping
from radio_core.devices import choose_device
from radio_core.distill.recipes import get_recipe
from radio_core.distill.trainer import train
from radio_core.progress import rich_progress
from radio_eval.report.page import require_pages
from radio_eval.results import write_whole
from radio_eval.tables import ablation_output, table1_output
from radio_eval.tables.ablation import AblationOptions, AblationResults, fill_ablation
from radio_eval.tables.ablations import ABLATIONS
from radio_eval.tables.filling import Filling
from radio_eval.tables.quickstart import (
    Results,
    baseline_rows,
    picture_sections,
    quickstart_rows,
    score_rows,
)
from radio_eval.tables.table1 import Row, Table1, Table1Options, fill_table1
from radio_eval.toyworld import ToySizes, toy_tasks


@dataclass(frozen=True, kw_only=True)
class QuickstartOptions:
    """Train the toy student from the three toy teachers, then compare all of them.

    Writes OUT/results.json, OUT/report.html and the student's checkpoint. A run that was
    interrupted goes on where it stopped when it is started again.
    """

    out: Path = Path("runs/quickstart")
    """Folder for everything that is written."""
    recipe: str = "toy"
    """Recipe of the training."""
    student: Path | None = None
    """Evaluate this model folder instead of training one."""
    max_steps: int | None = None
    """Stop the training early."""
    seed: int = 0
    """Of the training."""
    sizes: ToySizes = field(default_factory=ToySizes)
    """How much of the toy world the evaluation sees."""


def quickstart(options: QuickstartOptions) -> int:
    """Distil and evaluate a student in the toy world, end to end, in minutes."""
    require_pages()
    console = Console()
    seconds: dict[str, float] = {}
    student = options.student
    with _phase(console, seconds, "training"):
        if student is None:
            run = options.out / "train"
            config = get_recipe(options.recipe).changed(
                run={
                    "out": run,
                    "seed": options.seed,
                    "max_steps": options.max_steps,
                    "resume": run.exists(),
                }
            )
            student = train(config).student
    if student is None:
        console.print("interrupted; the same command continues this run")
        return 1
    with _phase(console, seconds, "evaluation"):
        with rich_progress(console) as progress:
            tasks = toy_tasks(options.out / "data", options.sizes, progress)
        rows = quickstart_rows(student)
        score_rows(rows, tasks, Filling(options.out / "cells", console))
        results = Results(rows=[*rows, *baseline_rows(tasks)])
    with _phase(console, seconds, "report"):
        pictures = picture_sections(rows, tasks)
        results.metadata.update(
            command="radio quickstart",
            recipe=options.recipe,
            training_seed=options.seed,
            sizes=dataclasses.asdict(options.sizes),
            threads=torch.get_num_threads(),
            seconds=seconds,
        )
        file, report = options.out / "results.json", options.out / "report.html"
        write_whole(file, json.dumps(results.to_json(), indent=2) + "\n")
        results.page(pictures, student.parent / "metrics.jsonl").write(report)
    _print(console, results.table().terminal(), [], [student, file, report])
    return 0


def table1(options: Table1Options) -> int:
    """Evaluate several models on all tasks, as the paper's Table 1."""
    _refuse_processes("table1")
    filling = Filling(options.out / "cells")
    metadata = {
        "command": "radio eval table1",
        "options": to_mapping(options),
        "machine": machine(choose_device(options.device)),
    }
    rows = [Row(source=source) for source in options.sources]
    table = Table1(rows=rows, columns=options.columns, toy=options.toy, metadata=metadata)

    def write() -> list[Path]:
        metadata["seconds"] = filling.seconds
        return table1_output.write_table1(table, options.out)

    fill_table1(options, table, filling, write)
    console = Console()
    parts = table1_output.shown(table).terminal(console.width)
    _print(console, parts, table1_output.explanations(table), write())
    return 1 if table.failed else 0


def table3(options: AblationOptions) -> int:
    """Repeat the paper's Table 3: which teachers' spatial features are supervised."""
    return _ablation("table3", options)


def table4(options: AblationOptions) -> int:
    """Repeat the paper's Table 4: how the losses are balanced."""
    return _ablation("table4", options)


def table5(options: AblationOptions) -> int:
    """Repeat the paper's Table 5: with and without Cropped Position Embedding."""
    return _ablation("table5", options)


def table6(options: AblationOptions) -> int:
    """Repeat the paper's Table 6: class tokens or average pooling for the summary."""
    return _ablation("table6", options)


def _ablation(name: str, options: AblationOptions) -> int:
    """Fill and show a table; returns 1 if a student diverged."""
    _refuse_processes("radio paper")
    filling = Filling(options.out / "cells")
    results = AblationResults(table=ABLATIONS[name])
    results.metadata.update(
        command=f"radio paper {name}",
        options=to_mapping(options),
        machine=machine(choose_device(options.device)),
    )

    def write() -> list[Path]:
        results.metadata["seconds"] = filling.seconds
        results.metadata["cpu_seconds"] = round(time.process_time(), 1)
        return ablation_output.write_ablation(results, options.out)

    fill_ablation(results, options, filling, write)
    paths = write()
    if options.json is not None:
        content = json.dumps(ablation_output.to_json(results), indent=2)
        write_whole(options.json, content + "\n")
        paths.append(options.json)
    parts = [ablation_output.numbers(results), ablation_output.claims(results)]
    shown = [table for part in parts for table in part.terminal()]
    _print(Console(), shown, ablation_output.explanations(results), paths)
    return 1 if results.failures else 0


def _refuse_processes(what: str) -> None:
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError(f"{what} runs in one process; under torchrun use radio eval TASK")
    require_pages()  # a table of hours must not end without its page


def _print(
    console: Console, tables: Sequence[Table], texts: Sequence[str], paths: Sequence[Path]
) -> None:
    console.print(*tables)
    for text in texts:
        console.print(text, markup=False, highlight=False, style="dim")
    for path in paths:
        console.print(f"wrote {path}", markup=False, highlight=False)


@contextmanager
def _phase(console: Console, seconds: dict[str, float], name: str) -> Iterator[None]:
    console.print(f"[bold]{name} ...[/bold]")
    start = time.perf_counter()
    yield
    seconds[name] = round(time.perf_counter() - start, 2)
    console.print(f"{name}: {seconds[name]:.0f} s", highlight=False)
