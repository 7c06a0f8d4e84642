"""Seconds an image of SAM's encoders and of RADIO in their place (Table 8)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro
from rich import box
from rich.console import Console
from rich.table import Table

from radio_core.bench.cases import Dtype
from radio_core.bench.sam import BASELINE, PAPER_MODELS, bench_sam
from radio_core.bench.timing import machine
from radio_core.cli import parse
from radio_core.cli.bench_options import (
    SPREAD,
    check_numbers,
    milliseconds,
    progress,
    set_threads,
    write_json,
)
from radio_core.devices import choose_device


@dataclass(frozen=True, kw_only=True)
class SamOptions:
    """Seconds an image of SAM's image encoders and of RADIO in their place, as in Table 8.

    All have random weights and end behind SAM's neck; they run in turns.
    """

    encoders: Annotated[tuple[str, ...], tyro.conf.Positional] = PAPER_MODELS
    """sam-b, sam-l, sam-h, radio-b, radio-l, radio-h, e-radio-l; radio-h+w8 attends in windows."""
    resolution: int = 1024
    """Side of the square image in pixels."""
    repeats: int = 5
    """Measured turns, after one for warming up."""
    threads: int | None = None
    """CPU threads; torch's own choice if None."""
    device: str = "cpu"
    """Where the encoders run: cpu, cuda, cuda:1."""
    dtype: Dtype = "float32"
    """Of the encoders."""
    json: Path | None = None
    """Write the results to this file."""

    def __post_init__(self) -> None:
        check_numbers(self.repeats, self.threads)


def main(argv: Sequence[str]) -> int:
    """Run `radio bench sam`; returns the exit code."""
    options = parse(SamOptions, argv, prog="radio bench sam")
    device = choose_device(options.device)
    set_threads(options.threads)
    rows = bench_sam(
        options.encoders,
        resolution=options.resolution,
        repeats=options.repeats,
        device=device,
        dtype=getattr(torch, options.dtype),
        watch=progress,
    )
    settings = {f: getattr(options, f) for f in ("resolution", "repeats", "dtype")}
    result = {"machine": machine(device), "settings": settings}
    write_json(options.json, result | {"rows": [row.as_json() for row in rows]})
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 2, 0, 0), caption=SPREAD)
    for column in ("encoder", "ms an image", f"speed / {BASELINE}", "paper, on a GPU"):
        table.add_column(column, no_wrap=True)
    for row in rows:
        ratios = ("" if r is None else f"{r:.2f}" for r in (row.speedup, row.paper_speedup))
        table.add_row(row.name, milliseconds(row.timing), *ratios)
    Console().print(table)
    return 0
