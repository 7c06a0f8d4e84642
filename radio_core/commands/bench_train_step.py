"""A training step and its parts: radio bench train-step [RECIPE] [--field value ...]."""

from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from radio_core.commands import UsageError
from radio_core.commands.bench_options import write_json
from radio_core.commands.recipe_options import read_recipe, teachers_from_command_line
from radio_core.distill.benchmark import bench_train_step


def main(argv: list[str]) -> int:
    """Run `radio bench train-step`; returns the exit code."""
    recipe = argv.pop(0) if argv and not argv[0].startswith("-") else "toy"
    repeats, argv = _take(argv, "--repeats", "15")
    file, argv = _take(argv, "--json", "")
    if not repeats.isdigit() or int(repeats) < 2:
        raise UsageError(f"--repeats must be a number of at least 2, not {repeats!r}")
    config = read_recipe([recipe, *argv], "radio bench train-step")
    with teachers_from_command_line():
        rows = [times.as_json() for times in bench_train_step(config, int(repeats))]
    result = {
        "recipe": recipe,
        "repeats": int(repeats),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "groups": rows,
    }
    write_json(Path(file) if file else None, result)
    Console().print(_step_table(rows))
    return 0


def _step_table(rows: list[dict[str, object]]) -> Table:
    table = Table(title="one training step, medians in ms (spread: half the quartile distance)")
    for column in ("group", "batch", "data", "teachers", "student", "optimizer", "step"):
        table.add_column(column)
    table.add_column("step / parts")
    table.add_column("images/s")
    for row in rows:
        parts = [f"{row[f'{part}_ms']}" for part in ("data",)]
        parts += [
            f"{row[f'{part}_ms']} ±{row[f'{part}_spread_percent']}%"
            for part in ("teachers", "student", "optimizer", "step")
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
