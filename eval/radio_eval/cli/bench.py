"""`radio bench {throughput,sam,knn}`: models side by side, the paper's Tables 7 and 8, and kNN."""

import datetime
import json
import resource
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
import tyro
from rich.console import Console
from torch import Tensor

from radio_core.bench.cases import Case, Dtype, ModelEngine, parse_cases
from radio_core.bench.throughput import Throughput, check_baseline, compare, measure, read_medians
from radio_core.bench.timing import SPREAD, machine, time_in_turns
from radio_core.cli import UsageError, write_json
from radio_core.cli.bench import BenchOptions
from radio_core.devices import choose_device
from radio_core.progress import Progress
from radio_eval.report.figures import check_plot_path
from radio_eval.report.table import Column, Table
from radio_eval.results import Blocks, StoredRows
from radio_eval.scores.knn import TRAIN_CHUNK, FeatureRows, nearest_neighbours
from radio_eval.speed import (
    SAM_ENCODERS,
    SPEED_TABLES,
    SpeedTable,
    described,
    markdown_page,
    paper_table,
    read_quality,
    sam_table,
    throughput_table,
    write_quality_plot,
)

_PRODUCT = (
    f"product: torch.mm of the queries with one float32 matrix of {TRAIN_CHUNK} rows in memory, "
    "as often as the train rows need; nothing is read, converted or selected"
)
_ROWS_A_FILE = 2048
_PARTS = (4, 2, 1)
_TITLE = "Images a second"
_Cases = list[tuple[str, Case]]
"""(name for people, what is measured)."""


@dataclass(frozen=True, kw_only=True)
class ThroughputOptions(BenchOptions):
    """Images per second of models on random images, and the paper's tables of them.

    The models run in turns, so that a slower moment of the machine hits all alike. For example:

    radio bench throughput random:base@512 random:eradio@512 --engines eager onnxruntime

    radio bench throughput --table 7 --plot speed.svg
    """

    models: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """MODEL[@RESOLUTION][+wWINDOW[/NUM_WINDOWED]] each. MODEL is a release, file, directory or hub
    id; a teacher; a file of `radio export`; or a shape with random weights: random:base,
    random:large, random:huge, random:eradio, random:timm:NETWORK, random:sam-h (SAM's encoder),
    random:sam-with-radio-h (RADIO in its place). With a window, NUM_WINDOWED layers are windowed
    between two global ones; an E-RADIO takes it for the windows that it always has."""
    table: Literal["", "7", "8"] = ""
    """Measure the models of that table of the paper, beside its numbers; name no models then."""
    resolutions: tuple[str, ...] = ("512",)
    """SIDE or HEIGHTxWIDTH in pixels, for the models that name none; a table has its own."""
    batch_sizes: tuple[int, ...] = ()
    """Images a call; 1 by default, on a GPU those of the paper for a table."""
    window_size: int | None = None
    """Side in patches of the attention windows, for the models that name none."""
    engines: tuple[ModelEngine, ...] = ("eager",)
    """What runs them: PyTorch (eager, eager with everything channels-last, compiled), or, exported,
    onnxruntime or TensorRT."""
    dtypes: tuple[Dtype, ...] = ("float32",)
    """In which they compute."""
    device: str = "cpu"
    """Where the models run: cpu, cuda, cuda:1."""
    deploy: bool = False
    """Fuse what only training needs, such as E-RADIO's BatchNorms; exported models always are."""
    bare: bool = False
    """Also measure what ViTs with global attention cost as bare calls: the matrix products and the
    attention alone ("products"), and all of the mathematics ("bare")."""
    peak: bool = False
    """Also measure one large matrix product, and give the models' operations as a share of its."""
    baseline: str = ""
    """Name of a measured model, e.g. random:base@512: the others' times are divided by its."""
    against: Path | None = None
    """JSON file of an earlier run, to divide by its times."""
    quality: Path | None = None
    """Quality numbers for the plot: the .json of `radio eval table1`, or a .csv with the columns
    model,METRIC,...; a table has the paper's."""
    plot: Path | None = None
    """Draw quality against speed, the paper's Figure 3, into this .svg or .png file."""
    markdown: Path | None = None
    """Write the table, with date, device and versions, to this file."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if bool(self.table) == bool(self.models):
            raise UsageError("name at least one model, e.g. random:base@512, or a --table")
        if self.quality is not None and self.plot is None:
            raise UsageError("--quality is drawn by --plot FILE: name that too")
        if self.plot is not None:
            if self.quality is None and not self.table:
                raise UsageError("--plot needs --quality FILE, or a --table, which has the paper's")
            try:
                check_plot_path(self.plot)
            except ValueError as error:
                raise UsageError(f"--plot: {error}") from None


def throughput(options: ThroughputOptions) -> int:
    """Measure images per second of models, and the paper's tables of them."""
    device = choose_device(options.device)
    table = SPEED_TABLES.get(options.table)
    try:
        if table is not None:
            batches = options.batch_sizes or ((table.batch_size if device.type == "cuda" else 1),)
            cases = _table_cases(table, batches, options.engines, options.dtypes)
        else:
            found = parse_cases(
                options.models,
                options.resolutions,
                options.batch_sizes or (1,),
                options.window_size,
                options.engines,
                options.dtypes,
            )
            if options.baseline:
                check_baseline(options.baseline, found)
            cases = [(case.model, case) for case in dict.fromkeys(found)]
    except ValueError as error:
        raise UsageError(str(error)) from None
    earlier = {} if options.against is None else read_medians(options.against)
    quality = None if options.quality is None else read_quality(options.quality)
    if quality is not None and not any(name in quality for name, _ in cases):
        known = ", ".join(quality)
        raise UsageError(f"--quality {options.quality} has none of these models; it has: {known}")
    with options.running() as progress:
        measured = measure(
            [case for _, case in cases],
            repeats=options.repeats,
            device=device,
            deploy=options.deploy,
            bare=options.bare,
            peak=options.peak,
            progress=progress,
        )
    rows = compare(measured, options.baseline, earlier)
    about: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "machine": machine(device),
        "settings": {n: getattr(options, n) for n in ("repeats", "deploy", "table")},
    }
    write_json(options.json, {**about, "rows": [row.as_json() for row in rows]})
    if options.against is not None:
        _warn_of_differences(about, options.against)
    named = _named(cases, rows)
    shown = throughput_table(rows) if table is None else paper_table(table, named)
    _show(shown)
    if options.markdown is not None:
        title = _TITLE if table is None else table.title
        remarks = described(**about) + ([] if table is None else [f"Paper: {table.setting}."])
        options.markdown.parent.mkdir(parents=True, exist_ok=True)
        options.markdown.write_text(markdown_page(title, shown, remarks), encoding="utf-8")
    if options.plot is not None:
        title = "Quality against speed"
        if quality is None and table is not None:
            quality = {row.label: dict(row.quality) for row in table.rows}
            title += ", the paper's quality and the speed measured here"
        write_quality_plot(options.plot, title, named, quality or {})
        Console(stderr=True).print(f"wrote {options.plot}", markup=False, highlight=False)
    return 0


@dataclass(frozen=True, kw_only=True)
class SamOptions(BenchOptions):
    """Images a second of SAM's image encoders and of RADIO in their place, as in Table 8.

    All have random weights and end behind SAM's neck; they run in turns, one image a call.
    `radio bench throughput --table 8` has more ways to run them.
    """

    encoders: Annotated[tuple[str, ...], tyro.conf.Positional] = SAM_ENCODERS
    """sam-b, sam-l, sam-h, radio-b, radio-l, radio-h, e-radio-l; radio-h+w8 attends in windows."""
    resolution: int = 1024
    """Side of the square image in pixels."""
    device: str = "cpu"
    """Where the encoders run: cpu, cuda, cuda:1."""
    dtype: Dtype = "float32"
    """Of the encoders."""


def sam(options: SamOptions) -> int:
    """Measure SAM's image encoders, and RADIO in their place (Table 8)."""
    device = choose_device(options.device)
    table = sam_table(options.encoders, options.resolution)
    cases = _table_cases(table, (1,), ("eager",), (options.dtype,))
    with options.running() as progress:
        measured = measure(
            [case for _, case in cases], repeats=options.repeats, device=device, progress=progress
        )
    reference = {label: case.name for label, case in cases}.get(table.reference, "")
    rows = compare(measured, reference)
    results = [row.as_json() for row in rows]
    options.write(device, ("resolution", "repeats", "dtype"), rows=results)
    _show(paper_table(table, _named(cases, rows)))
    return 0


def _table_cases(
    table: SpeedTable,
    batch_sizes: Sequence[int],
    engines: Sequence[ModelEngine],
    dtypes: Sequence[Dtype],
) -> _Cases:
    """Each row of a table, run in each way."""
    return [
        (row.label, table.case(row, batch, engine, dtype))
        for row in table.rows
        for batch in batch_sizes
        for dtype in dtypes
        for engine in engines
    ]


def _named(cases: _Cases, rows: Sequence[Throughput]) -> list[tuple[str, Throughput]]:
    by_case = {row.case: row for row in rows}
    return [(name, by_case[case]) for name, case in cases]


def _show(table: Table) -> None:
    console = Console()
    console.print(*table.terminal(console.width), SPREAD, highlight=False)


def _warn_of_differences(now: dict[str, Any], path: Path) -> None:
    """Say what else differs from the earlier run, since that moves the ratios too."""
    earlier = json.loads(path.read_text(encoding="utf-8"))
    console = Console(stderr=True)
    for part in ("machine", "settings"):
        then = earlier.get(part, {})
        for name, value in now[part].items():
            if then.get(name) != value:
                text = f"{name} was {then.get(name)} in {path}, now {value}"
                console.print(text, markup=False, highlight=False)


@dataclass(frozen=True, kw_only=True)
class KnnOptions(BenchOptions):
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
    device: str = "cpu"
    """Where similarities are computed: cpu, cuda, cuda:1."""
    work: Path | None = None
    """Folder for the features (2 bytes a number), used again if they are there; a temporary one if
    None."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("train", "dim", "queries", "k"):
            if getattr(self, name) < 1:
                raise UsageError(f"--{name} must be at least 1, not {getattr(self, name)}")


def knn(options: KnnOptions) -> int:
    """Measure the nearest-neighbour search against a matrix product of its size."""
    device = choose_device(options.device)
    with (
        options.running() as progress,
        tempfile.TemporaryDirectory(prefix="radio-bench-knn-") as folder,
    ):
        work = options.work or Path(folder)
        result = _measure_knn(options, work, device, progress)
    options.write(device, ("train", "dim", "queries", "k", "repeats"), **result)
    rows = [
        (
            str(row["train"]),
            f"{row['seconds']:.2f} ±{row['spread_percent']}%",
            f"{row['ms_per_query']:.3f}",
            f"{row['us_per_query_per_1000_rows']:.3f}",
        )
        for row in result["search"]
    ]
    seconds = f"{result['product_seconds']:.2f} ±{result['product_spread_percent']}%"
    titles = ("train rows", "seconds", "ms a query", "µs a query and 1000 rows")
    _show(Table(columns=[Column(t) for t in titles], rows=[*rows, ("product", seconds, "", "")]))
    console = Console()
    console.print(f"{_PRODUCT}.", highlight=False)
    console.print(
        f"search / product: {result['ratio']:.3f} ({options.queries} queries of {options.dim} "
        f"numbers, k {options.k}); most resident memory {result['peak_memory_gb']:.2f} GB, "
        f"features on disk {result['features_gb']:.2f} GB",
        highlight=False,
    )
    return 0


class _FirstRows:
    """The first `count` rows of a larger set."""

    def __init__(self, whole: FeatureRows, count: int) -> None:
        self._whole = whole
        self._count = count

    def __len__(self) -> int:
        return self._count

    def read_rows(self, start: int, out: Tensor) -> None:
        """Fill [n, D] float32 with the rows from `start` on."""
        self._whole.read_rows(start, out)


def _measure_knn(
    options: KnnOptions, folder: Path, device: torch.device, progress: Progress
) -> dict[str, Any]:
    """Time the search in a quarter, a half and all of the rows, and the product, in turns.

    Returns JSON values: "search" (a row for each number of train rows), the product's seconds, the
    "ratio" of the whole search to it, and bytes on disk and in memory.
    """
    train, dim, queries_count = options.train, options.dim, options.queries
    stored = _simulated(folder, train, dim, progress)
    generator = torch.Generator().manual_seed(2**31)
    queries = F.normalize(torch.randn(queries_count, dim, generator=generator), dim=1).to(device)
    columns = stored.rows(0, min(TRAIN_CHUNK, len(stored))).to(device).T  # [D, n]
    counts = sorted({max(1, train // part) for part in _PARTS})
    activities: dict[str, Callable[[], object]] = {
        str(count): partial(nearest_neighbours, _FirstRows(stored, count), queries, options.k)
        for count in counts
    }
    activities["product"] = partial(_product, queries, columns, train)
    timings = time_in_turns(activities, options.repeats, warmup=0, device=device, progress=progress)
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


def _simulated(folder: Path, train: int, dim: int, progress: Progress) -> StoredRows:
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
