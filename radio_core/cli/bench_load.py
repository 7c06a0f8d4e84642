"""Time of load_model against reading the file."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro
from rich.console import Console
from rich.table import Table

from radio_core.bench.loading import bench_load, write_official_vit
from radio_core.bench.timing import machine
from radio_core.cli import parse
from radio_core.cli.bench_options import check_numbers, progress, set_threads, write_json
from radio_core.models import RadioConfig, RadioModel, vit_config


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """Time of load_model, against mapping the file and summing every tensor of it."""

    file: Annotated[Path | None, tyro.conf.Positional] = None
    """A checkpoint; a temporary one of a random ViT-B (393 MB) if None."""
    repeats: int = 5
    """Measured turns, after two for warming up."""
    threads: int | None = None
    """CPU threads; torch's own choice if None."""
    json: Path | None = None
    """Write the result to this file."""

    def __post_init__(self) -> None:
        check_numbers(self.repeats, self.threads)


def main(argv: Sequence[str]) -> int:
    """Run `radio bench load`; returns the exit code."""
    options = parse(LoadOptions, argv, prog="radio bench load")
    set_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        path = options.file
        if path is None:
            path = Path(folder) / "vit_base.pth.tar"
            write_official_vit(RadioModel(RadioConfig(backbone=vit_config("base"))), path)
        times = bench_load(path, options.repeats, progress)
    row = times.as_json()
    result = {"machine": machine(torch.device("cpu")), "settings": {"repeats": options.repeats}}
    write_json(options.json, result | row)
    table = Table(title=f"{times.file_bytes / 1e6:.0f} MB, medians (spread: half the quartiles)")
    for name in ("load_model", "map and sum every tensor", "ratio"):
        table.add_column(name)
    cells = (f"{row[f'{k}_ms']} ms ±{row[f'{k}_spread_percent']}%" for k in ("load", "floor"))
    table.add_row(*cells, f"{times.ratio:.2f}")
    Console().print(table)
    return 0
