"""Compute the teacher outputs of a recipe once and keep them on disk.

radio cache-teachers RECIPE [--yes] [--part R/N] [--field value ...]

The fields are those of radio train. --part fills every N-th shard from shard R (0 … N - 1) on, so
that N processes or machines fill one cache together; under torchrun that is the default. What is
on disk stays: the same command goes on where an earlier one stopped.
"""

import os

from radio_core.cli import UsageError


def main(argv: list[str]) -> int:
    """Run `radio cache-teachers`: print the size, ask for --yes over 10 GB, fill the cache."""
    from radio_core.cli.recipe_options import (
        read_recipe,
        recipe_list,
        teachers_from_command_line,
    )

    confirmed = "--yes" in argv
    argv = [argument for argument in argv if argument != "--yes"]
    part, argv = _part(argv)
    if not argv or argv[0] in ("-h", "--help"):
        print(f"{__doc__}\n{recipe_list()}")
        return 0 if argv else 2
    config = read_recipe(argv, "radio cache-teachers")
    if config.cached_views == 0:
        raise UsageError("nothing to cache: set --cached-views to the number of crops to keep")
    from rich.console import Console

    from radio_core.distill.inputs import fill_cache, open_run

    console = Console(stderr=True)
    with teachers_from_command_line():
        run = open_run(config, console, confirmed)
    assert run.cache is not None
    skipped = fill_cache(run.cache, console, part, config.workers)
    for path, reason in sorted(set(skipped)):
        console.print(f"skipped {path}: {reason}", markup=False)
    print(f"{run.cache.done} of {run.cache.count} views in {run.cache.folder}")
    return 0


def _part(argv: list[str]) -> tuple[tuple[int, int], list[str]]:
    """Split `--part R/N` off; without it, this process's place among those of torchrun."""
    if "--part" not in argv:
        return (int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))), argv
    at = argv.index("--part")
    value = argv[at + 1] if at + 1 < len(argv) else ""
    number, _, count = value.partition("/")
    if not (number.isdigit() and count.isdigit() and int(number) < int(count)):
        raise UsageError(f"--part must be R/N with R from 0 to N - 1, e.g. 0/4, not {value!r}")
    return (int(number), int(count)), argv[:at] + argv[at + 2 :]
