"""What the benchmarks of `radio bench` share: checks of options, progress, results."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track

from radio_core.bench.timing import Timing
from radio_core.cli import UsageError

SPREAD = "medians; the spread is half the distance of the quartiles"


def milliseconds(timing: Timing) -> str:
    """Median and spread of a timing, for people."""
    return f"{1000 * timing.median:.1f} ±{100 * timing.spread:.1f}%"


def check_numbers(repeats: int, threads: int | None) -> None:
    """Raise UsageError for fewer than two repeats or no thread."""
    if repeats < 2:
        raise UsageError(f"--repeats must be at least 2, not {repeats}")
    if threads is not None and threads < 1:
        raise UsageError(f"--threads must be at least 1, not {threads}")


def set_threads(threads: int | None) -> None:
    """Have torch use so many CPU threads; its own choice if None."""
    if threads is not None:
        torch.set_num_threads(threads)


def progress(turns: Iterable[int], what: str = "measuring") -> Iterable[int]:
    """The turns, with a progress bar on stderr."""
    # Drawn between the turns only: a thread that draws would take time from what is measured.
    console = Console(stderr=True)
    return track(list(turns), what, console=console, transient=True, auto_refresh=False)


def write_json(path: Path | None, result: dict[str, Any]) -> None:
    """Write a result to a file, if there is one to be written."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
