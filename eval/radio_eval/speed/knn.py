"""The nearest-neighbour search of `radio eval knn` at any size, against a bare matrix product."""

import resource
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from radio_core.bench.timing import time_in_turns
from radio_core.progress import Progress
from radio_eval.results import Blocks, StoredRows
from radio_eval.scores.knn import TRAIN_CHUNK, FeatureRows, nearest_neighbours

PRODUCT = (
    f"product: torch.mm of the queries with one float32 matrix of {TRAIN_CHUNK} rows in memory, "
    "as often as the train rows need; nothing is read, converted or selected"
)
_ROWS_A_FILE = 2048
_PARTS = (4, 2, 1)


class KnnSizes(NamedTuple):
    """How many train features of how many numbers, how many queries, and neighbours of each."""

    train: int
    dim: int
    queries: int
    k: int


class FirstRows:
    """The first `count` rows of a larger set."""

    def __init__(self, whole: FeatureRows, count: int) -> None:
        self._whole = whole
        self._count = count

    def __len__(self) -> int:
        return self._count

    def read_rows(self, start: int, out: Tensor) -> None:
        """Fill [n, D] float32 with the rows from `start` on."""
        self._whole.read_rows(start, out)


def measure_knn(
    folder: Path, sizes: KnnSizes, repeats: int, device: torch.device, progress: Progress
) -> dict[str, Any]:
    """Time the search in a quarter, a half and all of the rows, and the product, in turns.

    Returns JSON values: "search" (a row for each number of train rows), the product's seconds, the
    "ratio" of the whole search to it, and bytes on disk and in memory.
    """
    train, dim, queries_count, k = sizes
    stored = simulated(folder, train, dim, progress)
    generator = torch.Generator().manual_seed(2**31)
    queries = F.normalize(torch.randn(queries_count, dim, generator=generator), dim=1).to(device)
    columns = stored.rows(0, min(TRAIN_CHUNK, len(stored))).to(device).T  # [D, n]
    counts = sorted({max(1, train // part) for part in _PARTS})
    activities: dict[str, Callable[[], object]] = {
        str(count): partial(nearest_neighbours, FirstRows(stored, count), queries, k)
        for count in counts
    }
    activities["product"] = partial(_product, queries, columns, train)
    timings = time_in_turns(activities, repeats, warmup=0, device=device, progress=progress)
    product = timings["product"]
    rows = []
    for count in counts:
        seconds = timings[str(count)].median
        rows.append(
            {
                "train": count,
                "seconds": round(seconds, 4),
                "spread_percent": round(100 * timings[str(count)].spread, 1),
                "ms_per_query": round(1000 * seconds / queries_count, 4),
                "us_per_query_per_1000_rows": round(1e9 * seconds / queries_count / count, 4),
            }
        )
    unit = 1 if sys.platform == "darwin" else 1024
    memory = unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "search": rows,
        "product_seconds": round(product.median, 4),
        "product_spread_percent": round(100 * product.spread, 1),
        "ratio": round(timings[str(train)].median / product.median, 3),
        "features_gb": round(2 * train * dim / 1e9, 3),
        "peak_memory_gb": round(memory / 1e9, 3),
    }


def simulated(folder: Path, train: int, dim: int, progress: Progress) -> StoredRows:
    """Random unit-length features in a sub-folder, float16, as the evaluation's cache has them;
    what is there is used again."""
    starts = range(0, train, _ROWS_A_FILE)
    identity = {"simulated": [train, dim]}
    store = Blocks(folder / f"random-{train}x{dim}", identity, len(starts), torch.float16)
    for block in store.missing():
        count = min(_ROWS_A_FILE, train - starts[block])
        generator = torch.Generator().manual_seed(block)
        features = F.normalize(torch.randn(count, dim, generator=generator), dim=1)
        labels = torch.zeros(count, dtype=torch.long)
        store.write(block, features, labels)
        progress("simulated features", block + 1, len(starts))
    return store.read()


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
