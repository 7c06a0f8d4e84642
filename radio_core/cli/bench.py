"""`radio bench load`, and what all commands of `radio bench` share."""

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file

from radio_core.bench.timing import SPREAD, machine, time_in_turns
from radio_core.cli import UsageError, write_json
from radio_core.models.config import WEIGHTS_FILE
from radio_core.open import random_model
from radio_core.progress import Progress, rich_progress
from radio_core.zoo.load import load_model


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
    """A checkpoint; a temporary one of a random ViT-B (343 MB) if None."""


def load(options: LoadOptions) -> int:
    """Time load_model against reading the file."""
    with tempfile.TemporaryDirectory() as folder, options.running() as progress:
        path = options.file
        if path is None:
            path = Path(folder) / WEIGHTS_FILE
            random_model("base").save_pretrained(folder)
        size = path.stat().st_size
        load_model(path)  # refuses a wrong file before the floor reads it, and fills the page cache
        both: dict[str, Any] = {
            "load": partial(load_model, path),
            "floor": partial(read_and_touch, path),
        }
        times = time_in_turns(both, options.repeats, progress=progress)
    result: dict[str, Any] = {"file_bytes": size}
    for name, timing in times.items():
        result[f"{name}_ms"] = round(1000 * timing.median, 2)
        result[f"{name}_spread_percent"] = round(100 * timing.spread, 1)
    ratio = times["load"].median / times["floor"].median
    options.write(torch.device("cpu"), ("repeats",), **result, ratio=round(ratio, 3))
    table = Table(title=f"{size / 1e6:.0f} MB, {SPREAD}")
    for heading in ("load_model", "map and sum every tensor", "ratio"):
        table.add_column(heading)
    table.add_row(f"{times['load']} ms", f"{times['floor']} ms", f"{ratio:.2f}")
    Console().print(table)
    return 0


def read_and_touch(path: Path) -> float:
    """Map the tensors of a file, read every byte of them, and return the sum of their values."""
    if path.suffix == ".safetensors":
        tensors = load_file(path)
    else:
        with torch.serialization.safe_globals([argparse.Namespace]):
            file = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        tensors = file["state_dict"]
    return sum(float(tensor.sum()) for tensor in tensors.values())
