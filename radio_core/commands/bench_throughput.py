"""Images per second of models, side by side."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from rich import box
from rich.console import Console
from rich.table import Table

from radio_core.bench.throughput import (
    Throughput,
    check_baseline,
    compare,
    measure,
    parse_cases,
    read_medians,
)
from radio_core.bench.timing import machine
from radio_core.commands import UsageError, parse
from radio_core.commands.bench_options import (
    SPREAD,
    Dtype,
    check_numbers,
    milliseconds,
    progress,
    read_device,
    set_threads,
    write_json,
)


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
        check_numbers(self.repeats, self.threads)


def main(argv: Sequence[str]) -> int:
    """Run `radio bench throughput`; returns the exit code."""
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
    device = read_device(options.device)
    set_threads(options.threads)
    timings = measure(
        cases,
        repeats=options.repeats,
        device=device,
        dtype=getattr(torch, options.dtype),
        deploy=options.deploy,
        bare=options.bare,
        watch=progress,
    )
    rows = compare(timings, options.baseline, earlier)
    settings = {"repeats": options.repeats, "dtype": options.dtype, "deploy": options.deploy}
    result = {"machine": machine(device), "settings": settings}
    write_json(options.json, result | {"rows": [row.as_json() for row in rows]})
    if options.against is not None:
        _warn_of_differences(result, options.against)
    Console().print(throughput_table(rows))
    return 0


def throughput_table(rows: Sequence[Throughput]) -> Table:
    """One row a case, and a column for each baseline."""
    names = list(dict.fromkeys(name for row in rows for name in row.ratios))
    headings = {name: f"time /\n{name}" for name in names}
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), caption=SPREAD)
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
            milliseconds(row.timing),
            f"{row.images_per_second:.2f}",
            *(f"{row.ratios[name]:.3f}" if name in row.ratios else "" for name in names),
        )
    return table


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
