"""Measure speed: radio bench train-step.

radio bench train-step [RECIPE] [--repeats N] [--json FILE] [--field value ...]
"""

import json
from pathlib import Path

from radio_core.commands import UsageError

_BENCHES = ("train-step",)


def main(argv: list[str]) -> int:
    """Run `radio bench`."""
    if not argv or argv[0] in ("-h", "--help"):
        print(__doc__)
        return 0 if argv else 2
    if argv[0] not in _BENCHES:
        raise UsageError(f"unknown benchmark {argv[0]!r}; known: {', '.join(_BENCHES)}")
    return _train_step(argv[1:])


def _train_step(argv: list[str]) -> int:
    """Step time over the sum of its parts, for every teacher group of a recipe."""
    from radio_core.commands.recipe_options import read_recipe, teachers_from_command_line

    recipe = argv.pop(0) if argv and not argv[0].startswith("-") else "toy"
    repeats, argv = _take(argv, "--repeats", "15")
    file, argv = _take(argv, "--json", "")
    if not repeats.isdigit() or int(repeats) < 2:
        raise UsageError(f"--repeats must be a number of at least 2, not {repeats!r}")
    config = read_recipe([recipe, *argv], "radio bench train-step")

    import torch

    from radio_core.distill.benchmark import bench_train_step

    with teachers_from_command_line():
        rows = [times.as_json() for times in bench_train_step(config, int(repeats))]
    result = {
        "recipe": recipe,
        "repeats": int(repeats),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "groups": rows,
    }
    if file:
        Path(file).write_text(json.dumps(result, indent=1) + "\n")
    _print(rows)
    return 0


def _print(rows: list[dict[str, object]]) -> None:
    from rich.console import Console
    from rich.table import Table

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
    Console().print(table)


def _take(argv: list[str], flag: str, default: str) -> tuple[str, list[str]]:
    """Split `flag VALUE` off an argument list."""
    if flag not in argv:
        return default, argv
    at = argv.index(flag)
    if at + 1 == len(argv):
        raise UsageError(f"{flag} needs a value")
    return argv[at + 1], argv[:at] + argv[at + 2 :]
