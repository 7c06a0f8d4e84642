"""kNN at any size against a bare matrix product of the same size."""

import resource
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor

from radio_core.bench.timing import Timing, machine, time_in_turns
from radio_core.cli import parse
from radio_core.cli.bench_options import (
    SPREAD,
    check_numbers,
    progress,
    set_threads,
    write_json,
)
from radio_core.devices import choose_device
from radio_eval.knn_search import TRAIN_CHUNK, FeatureRows, nearest_neighbours
from radio_eval.progress import Progress, rich_progress
from radio_eval.summaries.store import Shard, StoredSummaries, SummaryStore

_ROWS_A_FILE = 2048
_PARTS = (4, 2, 1)
_NOTE = (
    f"product: torch.mm of the queries with one float32 matrix of {TRAIN_CHUNK} rows in memory, "
    "as often as the train rows need; nothing is read, converted or selected"
)


@dataclass(frozen=True, kw_only=True)
class BenchKnnOptions:
    """Time and memory of the nearest-neighbour search of `radio eval knn`.

    Random features of the wanted size are written to disk as the evaluation's cache has them
    (float16), and searched from there: a quarter, a half and all of them. The product is computed
    in turns with the search.
    """

    train: int = 1_280_000
    """Train features."""
    dim: int = 1280
    """Numbers a feature."""
    queries: int = 1000
    """Validation features; the evaluation takes 4096 at once."""
    k: int = 20
    """Neighbours that are kept."""
    repeats: int = 3
    """Measured turns."""
    threads: int | None = None
    """CPU threads; torch's own choice if None."""
    device: str = "cpu"
    """Where similarities are computed: cpu, cuda, cuda:1."""
    work: Path | None = None
    """Folder for the features (2 bytes a number), used again if they are there; a temporary one if
    None."""
    json: Path | None = None
    """Write the result to this file."""

    def __post_init__(self) -> None:
        check_numbers(self.repeats, self.threads)
        for name in ("train", "dim", "queries", "k"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} must be at least 1, not {getattr(self, name)}")


class FirstRows:
    """The first rows of a larger set.

    Args:
        whole: the set.
        count: how many.
    """

    def __init__(self, whole: FeatureRows, count: int) -> None:
        self._whole = whole
        self._count = count

    def __len__(self) -> int:
        return self._count

    def read_rows(self, start: int, out: Tensor) -> None:
        """Fill [n, D] float32 with the rows from `start` on."""
        self._whole.read_rows(start, out)


def main(argv: Sequence[str]) -> int:
    """Run `radio bench knn`; returns the exit code."""
    options = parse(BenchKnnOptions, argv, prog="radio bench knn")
    device = choose_device(options.device)
    set_threads(options.threads)
    with _folder(options.work) as folder:
        with rich_progress(Console(stderr=True)) as listener:
            stored = simulated(folder, options.train, options.dim, listener)
        timings = _measure(stored, options, device)
    result = _result(timings, options, device)
    write_json(options.json, result)
    _print(result)
    return 0


@contextmanager
def _folder(work: Path | None) -> Iterator[Path]:
    if work is not None:
        yield work
        return
    with tempfile.TemporaryDirectory(prefix="radio-bench-knn-") as folder:
        yield Path(folder)


def simulated(folder: Path, train: int, dim: int, progress: Progress) -> StoredSummaries:
    """Random unit-length features on disk, float16, as the evaluation's cache has them.

    Args:
        folder: where they go, in a sub-folder of their own; what is there is used again.
        train: how many.
        dim: numbers a feature.
        progress: listener.
    """
    starts = range(0, train, _ROWS_A_FILE)
    identity = {"simulated": [train, dim]}
    store = SummaryStore(folder / f"random-{train}x{dim}", identity, len(starts), torch.float16)
    for block in store.missing():
        count = min(_ROWS_A_FILE, train - starts[block])
        generator = torch.Generator().manual_seed(block)
        features = F.normalize(torch.randn(count, dim, generator=generator), dim=1)
        labels = torch.zeros(count, dtype=torch.long)
        store.write(block, Shard(features=features, labels=labels, names=(), skipped={}))
        progress("simulated features", block + 1, len(starts))
    return store.read()


def _measure(
    stored: StoredSummaries, options: BenchKnnOptions, device: torch.device
) -> dict[str, Timing]:
    """Seconds of the searches by number of rows, and of the product."""
    generator = torch.Generator().manual_seed(2**31)
    queries = F.normalize(torch.randn(options.queries, options.dim, generator=generator), dim=1)
    queries = queries.to(device)
    columns = stored.rows(0, min(TRAIN_CHUNK, len(stored))).to(device).T  # [D, n]

    def search(count: int) -> Callable[[], object]:
        return lambda: nearest_neighbours(FirstRows(stored, count), queries, options.k)

    activities = {str(count): search(count) for count in _row_counts(options.train)}
    activities["product"] = lambda: _product(queries, columns, options.train)
    return time_in_turns(activities, options.repeats, warmup=0, device=device, watch=progress)


def _row_counts(train: int) -> list[int]:
    return sorted({max(1, train // part) for part in _PARTS})


def _product(queries: Tensor, columns: Tensor, train: int) -> Tensor:
    """Scores of all train rows, each block in the place of the one before."""
    width = columns.shape[1]
    scores = queries.new_empty(len(queries), width)
    for _ in range(train // width):
        torch.mm(queries, columns, out=scores)
    rest = train % width
    if rest:
        scores = torch.mm(queries, columns[:, :rest])
    return scores


def _result(
    timings: dict[str, Timing], options: BenchKnnOptions, device: torch.device
) -> dict[str, Any]:
    product = timings["product"].median
    rows = [
        {
            "train": count,
            "seconds": round(timings[str(count)].median, 4),
            "spread_percent": round(100 * timings[str(count)].spread, 1),
            "ms_per_query": round(1000 * timings[str(count)].median / options.queries, 4),
            "us_per_query_per_1000_rows": round(
                1e9 * timings[str(count)].median / options.queries / count, 4
            ),
        }
        for count in _row_counts(options.train)
    ]
    return {
        "machine": machine(device),
        "settings": {n: getattr(options, n) for n in ("train", "dim", "queries", "k", "repeats")},
        "search": rows,
        "product_seconds": round(product, 4),
        "product_spread_percent": round(100 * timings["product"].spread, 1),
        "ratio": round(timings[str(options.train)].median / product, 3),
        "features_gb": round(2 * options.train * options.dim / 1e9, 3),
        "peak_memory_gb": round(_peak_memory() / 1e9, 3),
    }


def _peak_memory() -> int:
    """The most resident memory of this process so far, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _print(result: dict[str, Any]) -> None:
    settings = result["settings"]
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 2, 0, 0), caption=f"{SPREAD}. {_NOTE}.")
    for column in ("train rows", "seconds", "ms a query", "µs a query and 1000 rows"):
        table.add_column(column, justify="right")
    for row in result["search"]:
        seconds = f"{row['seconds']:.2f} ±{row['spread_percent']}%"
        per_row = f"{row['us_per_query_per_1000_rows']:.3f}"
        table.add_row(f"{row['train']}", seconds, f"{row['ms_per_query']:.3f}", per_row)
    seconds = f"{result['product_seconds']:.2f} ±{result['product_spread_percent']}%"
    table.add_row("product", seconds)
    console = Console()
    console.print(table)
    console.print(
        f"search / product: {result['ratio']:.3f} ({settings['queries']} queries of "
        f"{settings['dim']} numbers, k {settings['k']}); most resident memory "
        f"{result['peak_memory_gb']:.2f} GB, features on disk {result['features_gb']:.2f} GB",
        highlight=False,
    )
