"""Measure speed: radio bench {throughput,sam,load,train-step}.

radio bench throughput MODEL[@RESOLUTION][+wWINDOW] ...   images/s of models
radio bench sam [NAME ...]                                SAM's encoders, and RADIO in their place
radio bench load [FILE]                                   load_model against reading the file
radio bench train-step [RECIPE] [--field value ...]       a training step and its parts

'radio bench NAME --help' tells the options.
"""

import json
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table

from radio_core.bench.loading import bench_load, write_official_vit
from radio_core.bench.sam import BASELINE, PAPER_MODELS, bench_sam
from radio_core.bench.throughput import (
    Throughput,
    check_baseline,
    compare,
    measure,
    parse_cases,
    read_medians,
)
from radio_core.bench.timing import Timing, machine
from radio_core.commands import UsageError, parse
from radio_core.models import RadioConfig, RadioModel, vit_config

_SPREAD = "medians; the spread is half the distance of the quartiles"

Dtype = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True, kw_only=True)
class ThroughputOptions:
    """Images per second of models on random images.

    The models run in turns, so that a slower moment of the machine hits all alike. For example:

    radio bench throughput random:base@512 random:eradio@512 --baseline random:base@512 --bare
    """

    models: Annotated[tuple[str, ...], tyro.conf.Positional]
    """MODEL[@RESOLUTION][+wWINDOW[/NUM_WINDOWED]] each. MODEL is a release, file, directory or hub
    id, or a shape with random weights: random:base, random:large, random:huge, random:eradio. With
    a window, NUM_WINDOWED layers are windowed between two global ones."""
    resolutions: tuple[str, ...] = ("512",)
    """SIDE or HEIGHTxWIDTH in pixels, for the models that name none."""
    batch_sizes: tuple[int, ...] = (1,)
    """Images a call."""
    window_size: int | None = None
    """Side in patches of the attention windows, for the models that name none."""
    repeats: int = 5
    """Measured turns, after two for warming up."""
    threads: int | None = None
    """CPU threads; torch's own choice if None."""
    device: str = "cpu"
    """Where the models run: cpu, cuda, cuda:1."""
    dtype: Dtype = "float32"
    """Of the backbones."""
    deploy: bool = False
    """Fuse what only training needs, such as E-RADIO's BatchNorms."""
    bare: bool = False
    """Also measure what ViTs with global attention cost as bare calls: the matrix products and the
    attention alone ("products"), and all of the mathematics ("bare")."""
    baseline: str = ""
    """Name of a measured model, e.g. random:base@512: the others' times are divided by its."""
    against: Path | None = None
    """JSON file of an earlier run, to divide by its times."""
    json: Path | None = None
    """Write the results to this file."""

    def __post_init__(self) -> None:
        _check_numbers(self.repeats, self.threads)


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
        _check_numbers(self.repeats, self.threads)


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
        _check_numbers(self.repeats, self.threads)


def main(argv: Sequence[str]) -> int:
    """Run `radio bench`."""
    if not argv or argv[0] in ("-h", "--help"):
        print(__doc__)
        return 0 if argv else 2
    name, *rest = argv
    if name not in _BENCHES:
        raise UsageError(f"unknown benchmark {name!r}; known: {', '.join(_BENCHES)}")
    return _BENCHES[name](rest)


def _throughput(argv: list[str]) -> int:
    options = parse(ThroughputOptions, argv, prog="radio bench throughput")
    if not options.models:
        raise UsageError("name at least one model, e.g. random:base@512")
    try:
        cases = parse_cases(
            options.models, options.resolutions, options.batch_sizes, options.window_size
        )
        if options.baseline:
            check_baseline(options.baseline, cases)
    except ValueError as error:
        raise UsageError(str(error)) from None
    earlier = {} if options.against is None else read_medians(options.against)
    device = _device(options.device)
    _set_threads(options.threads)
    timings = measure(
        cases,
        repeats=options.repeats,
        device=device,
        dtype=getattr(torch, options.dtype),
        deploy=options.deploy,
        bare=options.bare,
        watch=_progress,
    )
    rows = compare(timings, options.baseline, earlier)
    settings = {"repeats": options.repeats, "dtype": options.dtype, "deploy": options.deploy}
    result = {"machine": machine(device), "settings": settings}
    _write_json(options.json, result | {"rows": [row.as_json() for row in rows]})
    if options.against is not None:
        _warn_of_differences(result, options.against)
    Console().print(throughput_table(rows))
    return 0


def throughput_table(rows: Sequence[Throughput]) -> Table:
    """One row a case, and a column for each baseline."""
    names = list(dict.fromkeys(name for row in rows for name in row.ratios))
    headings = {name: f"time /\n{name}" for name in names}
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), caption=_SPREAD)
    table.add_column("model", overflow="fold")
    for column in ("batch", "ms", "images/s"):
        table.add_column(column, justify="right", no_wrap=True)
    for heading in headings.values():
        table.add_column(heading, justify="right", overflow="fold")
    for row in rows:
        engine = "" if row.case.engine == "eager" else f" ({row.case.engine})"
        table.add_row(
            row.case.name + engine,
            str(row.case.batch_size),
            _milliseconds(row.timing),
            f"{row.images_per_second:.2f}",
            *(f"{row.ratios[name]:.3f}" if name in row.ratios else "" for name in names),
        )
    return table


def _milliseconds(timing: Timing) -> str:
    return f"{1000 * timing.median:.1f} ±{100 * timing.spread:.1f}%"


def _sam(argv: list[str]) -> int:
    options = parse(SamOptions, argv, prog="radio bench sam")
    device = _device(options.device)
    _set_threads(options.threads)
    rows = bench_sam(
        options.encoders,
        resolution=options.resolution,
        repeats=options.repeats,
        device=device,
        dtype=getattr(torch, options.dtype),
        watch=_progress,
    )
    settings = {f: getattr(options, f) for f in ("resolution", "repeats", "dtype")}
    result = {"machine": machine(device), "settings": settings}
    _write_json(options.json, result | {"rows": [row.as_json() for row in rows]})
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 2, 0, 0), caption=_SPREAD)
    for column in ("encoder", "ms an image", f"speed / {BASELINE}", "paper, on a GPU"):
        table.add_column(column, no_wrap=True)
    for row in rows:
        ratios = ("" if r is None else f"{r:.2f}" for r in (row.speedup, row.paper_speedup))
        table.add_row(row.name, _milliseconds(row.timing), *ratios)
    Console().print(table)
    return 0


def _warn_of_differences(result: dict[str, Any], path: Path) -> None:
    """Say what else differs from the earlier run, since that moves the ratios too."""
    earlier = json.loads(path.read_text(encoding="utf-8"))
    console = Console(stderr=True)
    for part in ("machine", "settings"):
        then, now = earlier.get(part, {}), result[part]
        for name in now:
            if then.get(name) != now[name]:
                text = f"{name} was {then.get(name)} in {path}, now {now[name]}"
                console.print(text, markup=False, highlight=False)


def _load(argv: list[str]) -> int:
    options = parse(LoadOptions, argv, prog="radio bench load")
    _set_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        path = options.file
        if path is None:
            path = Path(folder) / "vit_base.pth.tar"
            write_official_vit(RadioModel(RadioConfig(backbone=vit_config("base"))), path)
        times = bench_load(path, options.repeats, _progress)
    row = times.as_json()
    result = {"machine": machine(torch.device("cpu")), "settings": {"repeats": options.repeats}}
    _write_json(options.json, result | row)
    table = Table(title=f"{times.file_bytes / 1e6:.0f} MB, medians (spread: half the quartiles)")
    for name in ("load_model", "map and sum every tensor", "ratio"):
        table.add_column(name)
    cells = (f"{row[f'{k}_ms']} ms ±{row[f'{k}_spread_percent']}%" for k in ("load", "floor"))
    table.add_row(*cells, f"{times.ratio:.2f}")
    Console().print(table)
    return 0


def _train_step(argv: list[str]) -> int:
    """Step time over the sum of its parts, for every teacher group of a recipe."""
    from radio_core.commands.recipe_options import read_recipe, teachers_from_command_line
    from radio_core.distill.benchmark import bench_train_step

    recipe = argv.pop(0) if argv and not argv[0].startswith("-") else "toy"
    repeats, argv = _take(argv, "--repeats", "15")
    file, argv = _take(argv, "--json", "")
    if not repeats.isdigit() or int(repeats) < 2:
        raise UsageError(f"--repeats must be a number of at least 2, not {repeats!r}")
    config = read_recipe([recipe, *argv], "radio bench train-step")
    with teachers_from_command_line():
        rows = [times.as_json() for times in bench_train_step(config, int(repeats))]
    result = {
        "recipe": recipe,
        "repeats": int(repeats),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "groups": rows,
    }
    _write_json(Path(file) if file else None, result)
    Console().print(_step_table(rows))
    return 0


def _step_table(rows: list[dict[str, object]]) -> Table:
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
    return table


def _take(argv: list[str], flag: str, default: str) -> tuple[str, list[str]]:
    """Split `flag VALUE` off an argument list."""
    if flag not in argv:
        return default, argv
    at = argv.index(flag)
    if at + 1 == len(argv):
        raise UsageError(f"{flag} needs a value")
    return argv[at + 1], argv[:at] + argv[at + 2 :]


def _check_numbers(repeats: int, threads: int | None) -> None:
    if repeats < 2:
        raise UsageError(f"--repeats must be at least 2, not {repeats}")
    if threads is not None and threads < 1:
        raise UsageError(f"--threads must be at least 1, not {threads}")


def _set_threads(threads: int | None) -> None:
    if threads is not None:
        torch.set_num_threads(threads)


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"unknown device {name!r}; for example: cpu, cuda, cuda:1") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"--device {name}: torch finds no GPU on this machine")
    return device


def _progress(turns: Iterable[int]) -> Iterable[int]:
    # Drawn between the turns only: a thread that draws would take time from what is measured.
    console = Console(stderr=True)
    return track(list(turns), "measuring", console=console, transient=True, auto_refresh=False)


def _write_json(path: Path | None, result: dict[str, Any]) -> None:
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


_BENCHES: dict[str, Callable[[list[str]], int]] = {
    "throughput": _throughput,
    "sam": _sam,
    "load": _load,
    "train-step": _train_step,
}
