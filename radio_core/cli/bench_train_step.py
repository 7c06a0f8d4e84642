"""A training step and its parts: radio bench train-step [RECIPE] [--cached] [--field value ...].

--cached compares steps from the teacher cache with steps whose teachers run, both with their data
loading; without a RECIPE for a ViT-S with random teachers of the size of a ViT-B/14 and a ViT-L/14.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from radio_core.cli import UsageError, parse, write_json
from radio_core.cli.recipe_options import read_recipe, teachers_from_command_line
from radio_core.distill.benchmark import (
    CachedTimes,
    StepTimes,
    bench_cached,
    bench_train_step,
    cached_setting,
)
from radio_core.distill.config import TrainConfig


def main(argv: list[str]) -> int:
    """Run `radio bench train-step`; returns the exit code."""
    named = argv.pop(0) if argv and not argv[0].startswith("-") else None
    cached = "--cached" in argv
    argv = [argument for argument in argv if argument != "--cached"]
    repeats, argv = _take(argv, "--repeats", "15")
    file, argv = _take(argv, "--json", "")
    if not repeats.isdigit() or int(repeats) < 2:
        raise UsageError(f"--repeats must be a number of at least 2, not {repeats!r}")
    recipe, rows = _measure(named, cached, argv, int(repeats))
    result = {
        "recipe": recipe,
        "repeats": int(repeats),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "groups": rows,
    }
    write_json(Path(file) if file else None, result)
    Console().print(_cached_table(rows) if cached else _step_table(rows))
    return 0


def _measure(
    named: str | None, cached: bool, argv: list[str], repeats: int
) -> tuple[str, list[dict[str, Any]]]:
    """(what was measured, a row for each group)."""
    prog = "radio bench train-step"
    times: Sequence[StepTimes | CachedTimes]
    with teachers_from_command_line():
        if cached and named is None:
            default, teachers = cached_setting()
            config = parse(TrainConfig, argv, prog=f"{prog} --cached", default=default)
            times = bench_cached(config, repeats, teachers)
        else:
            config = read_recipe([named or "toy", *argv], prog)
            times = bench_cached(config, repeats) if cached else bench_train_step(config, repeats)
    return config.recipe, [row.as_json() for row in times]


def _cached_table(rows: list[dict[str, Any]]) -> Table:
    table = Table(title="images a second with data loading (spread: half the quartile distance)")
    for column in ("group", "batch", "teachers online", "from the cache", "ratio"):
        table.add_column(column)
    for row in rows:
        speeds = [
            f"{row[f'{name}_images_per_second']} ±{row[f'{name}_spread_percent']}%"
            for name in ("online", "cached")
        ]
        table.add_row(row["group"], str(row["batch_size"]), *speeds, str(row["speedup"]))
    return table


def _step_table(rows: list[dict[str, Any]]) -> Table:
    table = Table(title="one training step, medians in ms (spread: half the quartile distance)")
    for column in ("group", "batch", "data", "teachers", "student", "optimizer", "step"):
        table.add_column(column)
    table.add_column("step / parts")
    table.add_column("images/s")
    for row in rows:
        parts = [
            f"{row[f'{part}_ms']} ±{row[f'{part}_spread_percent']}%"
            for part in ("data", "teachers", "student", "optimizer", "step")
        ]
        table.add_row(
            str(row["group"]),
            str(row["batch_size"]),
            *parts,
            str(row["ratio"]),
            str(row["images_per_second"]),
        )
    return table


def _take(argv: list[str], flag: str, default: str) -> tuple[str, list[str]]:
    """Split `flag VALUE` off an argument list."""
    if flag not in argv:
        return default, argv
    at = argv.index(flag)
    if at + 1 == len(argv):
        raise UsageError(f"{flag} needs a value")
    return argv[at + 1], argv[:at] + argv[at + 2 :]
