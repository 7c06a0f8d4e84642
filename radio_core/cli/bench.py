"""`radio bench load`, and what all commands of `radio bench` share."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from rich.console import Console
from rich.table import Table

from radio_core.bench.loading import bench_load, write_official_vit
from radio_core.bench.timing import SPREAD, machine
from radio_core.cli import UsageError, write_json
from radio_core.models import RadioConfig, RadioModel, vit_config
from radio_core.progress import Progress, rich_progress


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """What every benchmark takes."""

    repeats: int = 5
    """Measured turns, after two for warming up."""
    threads: int | None = None
    """CPU threads; torch's own choice if None."""
    json: Path | None = None
    """Write the results to this file."""

    def __post_init__(self) -> None:
        if self.repeats < 2:
            raise UsageError(f"--repeats must be at least 2, not {self.repeats}")
        if self.threads is not None and self.threads < 1:
            raise UsageError(f"--threads must be at least 1, not {self.threads}")

    @contextmanager
    def running(self) -> Iterator[Progress]:
        """Have torch use the threads, and show on stderr how far the benchmark is."""
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        with rich_progress(live=False) as progress:
            yield progress

    def write(self, device: torch.device, settings: tuple[str, ...], **result: Any) -> None:
        """Write a result to the file of --json, with the machine and the named options."""
        chosen = {name: getattr(self, name) for name in settings}
        write_json(self.json, {"machine": machine(device), "settings": chosen, **result})


@dataclass(frozen=True, kw_only=True)
class LoadOptions(BenchOptions):
    """Time of load_model, against mapping the file and summing every tensor of it."""

    file: Annotated[Path | None, tyro.conf.Positional] = None
    """A checkpoint; a temporary one of a random ViT-B (393 MB) if None."""


def load(options: LoadOptions) -> int:
    """Time load_model against reading the file."""
    with tempfile.TemporaryDirectory() as folder, options.running() as progress:
        path = options.file
        if path is None:
            path = Path(folder) / "vit_base.pth.tar"
            write_official_vit(RadioModel(RadioConfig(backbone=vit_config("base"))), path)
        times = bench_load(path, options.repeats, progress)
    options.write(torch.device("cpu"), ("repeats",), **times.as_json())
    table = Table(title=f"{times.file_bytes / 1e6:.0f} MB, {SPREAD}")
    for name in ("load_model", "map and sum every tensor", "ratio"):
        table.add_column(name)
    loads = (f"{timing} ms" for timing in (times.load, times.floor))
    table.add_row(*loads, f"{times.ratio:.2f}")
    Console().print(table)
    return 0
