"""Repeat the paper's ablations in the toy world: radio paper {table3,table4,table5,table6}."""

import json
import os
import time
from collections.abc import Sequence

from rich.console import Console

from radio_core.bench.timing import machine
from radio_core.cli import UsageError, parse
from radio_core.config_file import to_mapping
from radio_core.devices import choose_device
from radio_core.distill.step import NonFiniteLossError
from radio_eval.paper.options import PaperOptions
from radio_eval.paper.output import claims, explanations, numbers, write_results
from radio_eval.paper.recipe import short_recipe
from radio_eval.paper.results import PaperResults
from radio_eval.paper.students import Students
from radio_eval.paper.tables import TABLES
from radio_eval.progress import rich_progress
from radio_eval.report.page import require_pages
from radio_eval.table1.cells import write_text
from radio_eval.toyworld import prepare_toy_data


def main(argv: Sequence[str]) -> int:
    """Run `radio paper TABLE`; returns the exit code: 1 if a student diverged."""
    if not argv or argv[0] in ("-h", "--help"):
        print(_usage())
        return 0 if argv else 2
    name, *rest = argv
    if name not in TABLES:
        raise UsageError(f"unknown table {name!r}; known: {', '.join(TABLES)}")
    options = parse(PaperOptions, rest, prog=f"radio paper {name}")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError("radio paper runs in one process, not under torchrun")
    require_pages()  # what takes minutes must not end without its page
    results = PaperResults(table=TABLES[name])
    _fill(results, options)
    _print(results, options)
    return 1 if results.failures else 0


def _usage() -> str:
    lines = [f"  {name}  {table.title.partition(': ')[2]}" for name, table in TABLES.items()]
    return "\n".join(
        [
            "usage: radio paper TABLE [OPTIONS]",
            "",
            "Repeat an ablation of the AM-RADIO paper in the toy world, with several seeds.",
            "",
            "tables:",
            *lines,
            "",
            "'radio paper TABLE --help' tells the options.",
        ]
    )


def _fill(results: PaperResults, options: PaperOptions) -> None:
    """Train and measure all students; the files are written after each of them.

    Seed by seed, so that an unfinished table already compares all its rows.
    """
    device = choose_device(options.device)
    shown = Console(stderr=True)
    start = time.perf_counter()
    results.metadata.update(
        command=f"radio paper {results.table.name}",
        options=to_mapping(options),
        machine=machine(device),
    )
    with rich_progress(shown) as progress:
        data = prepare_toy_data(options.out / "data", options.sizes.toy(), progress)
    variants = list(results.table.variants.items())
    jobs = [(seed, name, variant) for seed in range(options.seeds) for name, variant in variants]
    label = ""

    def announce(what: str) -> None:
        minutes, seconds = divmod(int(time.perf_counter() - start), 60)
        line = f"[{minutes}:{seconds:02d}] {label}: {what}"
        shown.print(line, markup=False, highlight=False)

    students = Students(options.out, data, device, shown, announce)
    for number, (seed, name, variant) in enumerate(jobs, start=1):
        label = f"{number} of {len(jobs)}, {variant.title}, seed {seed}"
        common = short_recipe(
            options.out,
            steps=options.steps,
            views=options.views,
            seed=seed,
            device=str(device),
        )
        try:
            student = students.get(variant.change(common))
        except NonFiniteLossError as error:
            results.failures[name, seed] = str(error)
            continue
        for column, metric in results.table.metrics.items():
            value = students.measure(student, metric)
            if value is not None:
                results.add(name, column, seed, value)
        results.metadata["seconds"] = round(time.perf_counter() - start, 1)
        results.metadata["cpu_seconds"] = round(time.process_time(), 1)
        write_results(results, options.out)


def _print(results: PaperResults, options: PaperOptions) -> None:
    console = Console()
    console.print(*numbers(results).terminal(), *claims(results).terminal())
    for text in explanations(results):
        console.print(text, markup=False, highlight=False, style="dim")
    paths = write_results(results, options.out)
    if options.json is not None:
        write_text(options.json, json.dumps(results.to_json(), indent=2) + "\n")
        paths.append(options.json)
    for path in paths:
        console.print(f"wrote {path}", markup=False, highlight=False)
