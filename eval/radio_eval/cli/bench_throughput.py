"""Images per second of models, side by side, and the paper's Tables 7 and 8."""

import datetime
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console

from radio_core.bench.cases import Case, Dtype, ModelEngine, parse_cases
from radio_core.bench.throughput import (
    Throughput,
    check_baseline,
    compare,
    measure,
    read_medians,
)
from radio_core.bench.timing import machine
from radio_core.cli import UsageError, parse
from radio_core.cli.bench_options import check_numbers, progress, set_threads, write_json
from radio_core.devices import choose_device
from radio_eval.report.drawing import check_plot_path
from radio_eval.speed.output import (
    Sheet,
    Speed,
    described,
    markdown_page,
    paper_sheet,
    terminal_table,
    throughput_sheet,
    write_quality_plot,
)
from radio_eval.speed.paper_tables import SPEED_TABLES, SpeedTable
from radio_eval.speed.quality import Quality, read_quality

_TITLE = "Images a second"


@dataclass(frozen=True, kw_only=True)
class ThroughputOptions:
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
    repeats: int = 5
    """Measured turns, after two for warming up."""
    threads: int | None = None
    """CPU threads; torch's own choice if None."""
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
    json: Path | None = None
    """Write the results to this file."""
    markdown: Path | None = None
    """Write the table, with date, device and versions, to this file."""

    def __post_init__(self) -> None:
        check_numbers(self.repeats, self.threads)
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


def main(argv: Sequence[str]) -> int:
    """Run `radio bench throughput`; returns the exit code."""
    options = parse(ThroughputOptions, argv, prog="radio bench throughput")
    device = choose_device(options.device)
    cases = _cases(options, gpu=device.type == "cuda")
    earlier = {} if options.against is None else read_medians(options.against)
    quality = None if options.quality is None else read_quality(options.quality)
    if quality is not None and not any(name in quality for name, _ in cases):
        known = ", ".join(quality)
        raise UsageError(f"--quality {options.quality} has none of these models; it has: {known}")
    set_threads(options.threads)
    measured = measure(
        list(cases.values()),
        repeats=options.repeats,
        device=device,
        deploy=options.deploy,
        bare=options.bare,
        peak=options.peak,
        watch=progress,
        prepare=lambda turns: progress(turns, "loading"),
    )
    rows = compare(measured, options.baseline, earlier)
    settings = {"repeats": options.repeats, "deploy": options.deploy, "table": options.table}
    today = datetime.date.today().isoformat()
    result: dict[str, Any] = {"date": today, "machine": machine(device), "settings": settings}
    write_json(options.json, result | {"rows": [row.as_json() for row in rows]})
    if options.against is not None:
        _warn_of_differences(result, options.against)
    table = SPEED_TABLES.get(options.table)
    sheet = throughput_sheet(rows) if table is None else _paper(table, cases, rows)
    Console().print(terminal_table(sheet))
    remarks = described(**result) + ([] if table is None else [f"Paper: {table.setting}."])
    if options.markdown is not None:
        title = _TITLE if table is None else table.title
        options.markdown.parent.mkdir(parents=True, exist_ok=True)
        options.markdown.write_text(markdown_page(title, sheet, remarks), encoding="utf-8")
    if options.plot is not None:
        _plot(options.plot, table, cases, rows, quality)
    return 0


_Cases = dict[tuple[str, int], Case]
"""(name for people, number of the way it is run) -> case."""


def _cases(options: ThroughputOptions, gpu: bool) -> _Cases:
    """All that is to be measured; UsageError where that is nonsense."""
    table = SPEED_TABLES.get(options.table)
    try:
        if table is not None:
            batches = options.batch_sizes or ((table.batch_size if gpu else 1),)
            ways = [(b, e, d) for b in batches for d in options.dtypes for e in options.engines]
            return {
                (row.label, number): table.case(row, *way)
                for row in table.rows
                for number, way in enumerate(ways)
            }
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
    except ValueError as error:
        raise UsageError(str(error)) from None
    return {(case.model, number): case for number, case in enumerate(dict.fromkeys(found))}


def _paper(table: SpeedTable, cases: _Cases, rows: Sequence[Throughput]) -> Sheet:
    by_case = {row.case: row for row in rows}
    measured: dict[str, list[Throughput]] = {row.label: [] for row in table.rows}
    for (label, _), case in cases.items():
        measured[label].append(by_case[case])
    return paper_sheet(table, measured)


def _plot(
    path: Path,
    table: SpeedTable | None,
    cases: _Cases,
    rows: Sequence[Throughput],
    quality: Quality | None,
) -> None:
    by_case = {row.case: row for row in rows}
    speeds = [
        Speed(name, case.how, by_case[case].images_per_second) for (name, _), case in cases.items()
    ]
    title = "Quality against speed"
    if quality is None:
        assert table is not None  # the options were checked
        quality = {row.label: dict(row.quality) for row in table.rows if row.quality}
        title += ", the paper's quality and the speed measured here"
    write_quality_plot(path, title, speeds, quality)
    Console(stderr=True).print(f"wrote {path}", markup=False, highlight=False)


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
