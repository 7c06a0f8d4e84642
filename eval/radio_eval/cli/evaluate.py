"""`radio eval TASK`: run any task of `radio.evaluators` on any model; `radio eval prepare`."""

import dataclasses
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, cast

import tyro
from rich.console import Console
from rich.table import Table

from radio_core.cli import UsageError, first_line, parse
from radio_core.data.images import printable
from radio_core.processes import join_processes
from radio_core.progress import rich_progress
from radio_eval.data.data_sets import DATA_SETS, DataSet, Finding, check_data_set
from radio_eval.report.page import check_report_path, evaluation_page
from radio_eval.results import write_whole
from radio_eval.runner import TASKS, Context, Task, TaskResult, installed_versions, run_task

_NAMED = 10
"""Things that could not be used and are named on the screen; the result file names all."""


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What every task takes besides its own parameters."""

    model: str
    """A release ("radio_h"), a file or folder with a RADIO model, the bundled "toy", a teacher
    ("toy-clip"), timm:NAME, open_clip:NAME/PRETRAINED, hf:ID, random:tiny, a file that `radio
    export` wrote (.onnx; .engine and .pt2 are programs: only those that you trust), or
    MODULE:ATTRIBUTE of your own. Folders are taken by timm:DIR, open_clip:local-dir:DIR and hf:DIR
    too."""
    device: str = "auto"
    """Where the model runs, such as "cuda:1"; "auto" takes a GPU where there is one, and under
    torchrun one for each process."""
    json: Path | None = None
    """File for the result: metrics, every parameter of the protocol, versions, seconds."""
    report: Path | None = None
    """HTML file for the result with pictures, whole in itself."""


def evaluate(argv: Sequence[str]) -> int:
    """Evaluate a model: kNN, zero-shot, segmentation, Segment Anything, visual questions."""
    if not argv or argv[0] in ("-h", "--help"):
        print(_help(), file=sys.stdout if argv else sys.stderr)
        return 0 if argv else 2
    name, *rest = argv
    kind = TASKS.load(name)
    if not (isinstance(kind, type) and issubclass(kind, Task)):
        raise UsageError(f"{name} is no task: it must derive from radio_eval.runner.Task")
    options: Any = parse(_options(kind), rest, prog=f"radio eval {name}")
    task = kind(**{f.name: getattr(options, f.name) for f in dataclasses.fields(kind) if f.init})
    result = run(task, options)
    return 0 if result is None or not result.unscored else 1


def run(task: Task, options: RunOptions) -> TaskResult | None:
    """Run a task on the model that the options name, and give out what they ask for.

    Returns:
        The result, at the first process; None at the others.
    """
    check_report_path(options.report)
    with join_processes() as processes:
        context = Context(processes=processes)
        if processes.first and options.report is not None:
            context.sections = []
        model = task.open_model(options.model, processes.device(options.device, options.model))
        with rich_progress(Console(stderr=True, quiet=not processes.first)) as context.progress:
            result = run_task(task, model, context)
    if not processes.first:
        return None
    task.tell(result)
    for note in context.notes:
        print(note, file=sys.stderr)
    for what, skipped in context.skipped.items():
        for thing, reason in list(skipped.reasons.items())[:_NAMED]:
            print(f"skipped {thing}: {reason}", file=sys.stderr)
        if skipped:
            reasons = ", ".join(f"{n} {why}" for why, n in skipped.to_json()["reasons"].items())
            print(f"skipped {len(skipped)} {what}: {reasons}", file=sys.stderr)
    if result.unscored:
        print(f"not scored: {result.unscored}", file=sys.stderr)
    content = {**result.to_json(), "versions": installed_versions()}
    if options.json is not None:
        write_whole(options.json, json.dumps(content, indent=2) + "\n")
    if options.report is not None:
        evaluation_page(content, context.sections or (), task.title).write(options.report)
        print(f"report: {printable(options.report)}")
    return result


def _options(kind: type[Task]) -> type[Task]:
    """A task with the options of every run, as one dataclass for the parser."""
    both = dataclasses.make_dataclass(
        kind.__name__, [], bases=(kind, RunOptions), frozen=True, kw_only=True
    )
    both.__doc__ = kind.__doc__
    return cast(type[Task], both)


def _help() -> str:
    lines = {name: first_line(entry) for name, entry in TASKS.entries.items()}
    width = max(map(len, lines))
    return (
        "usage: radio eval TASK --model M [OPTIONS] [--json FILE] [--report FILE.html]\n\ntasks:\n"
        + "\n".join(f"  {name:<{width}}  {line}" for name, line in lines.items())
        + "\n  MODULE:CLASS  your own; see radio_eval.runner.Task\n\n"
        "'radio eval TASK --help' tells a task's options.\n"
        "'radio eval table1 --models A,B,C' runs all tasks and prints the paper's table.\n"
        "'radio eval prepare [NAME] [--data DIR]' checks the folder of a data set."
    )


@dataclass(frozen=True, kw_only=True)
class PrepareOptions:
    """Check the folder of a data set. Nothing is downloaded.

    Without a name, all known data sets are listed; without a folder, the parts of one.
    """

    name: Annotated[str, tyro.conf.Positional] = ""
    """Which data set."""
    data: Path | None = None
    """Its folder."""


def prepare(options: PrepareOptions) -> int:
    """Check the folder of a data set: what is there, what is missing, and where it comes from.

    Returns 0, or 1 if something that is needed is missing.
    """
    if not options.name:
        table = Table("name", "read by", "official page", box=None)
        for name, data_set in DATA_SETS.items():
            table.add_row(name, data_set.task, data_set.page)
        Console().print(table)
        return 0
    if options.name not in DATA_SETS:
        raise UsageError(f"unknown data set {options.name!r}; known: {', '.join(DATA_SETS)}")
    data_set = DATA_SETS[options.name]
    if options.data is None:
        _describe(options.name, data_set)
        return 0
    findings = check_data_set(data_set, options.data)
    for finding in findings:
        _tell(finding)
    missing = [finding for finding in findings if finding.is_missing]
    if missing:
        print(f"{options.name}: {len(missing)} of {len(findings)} parts are missing")
        print(f"official page: {data_set.page}")
        if data_set.note:
            print(f"note: {data_set.note}")
        return 1
    partial = any(f.found and not f.is_complete for f in findings)
    state = "usable, but not the whole data set" if partial else "complete"
    print(f"{options.name}: {state}; read by {data_set.task}")
    return 0


def _tell(finding: Finding) -> None:
    part = finding.part
    expected = "" if part.count is None else f" of {part.count}"
    state = "partial" if finding.found else "missing" if part.needed else "absent"
    if finding.is_complete:
        state = "found"
    print(f"{state:<8} {part.what}: {part.patterns[0]} ({finding.found}{expected})")
    if not finding.is_complete:
        print(f"         from {part.source}")


def _describe(name: str, data_set: DataSet) -> None:
    print(f"{name}: read by {data_set.task}")
    print(f"official page: {data_set.page}")
    if data_set.note:
        print(f"note: {data_set.note}")
    for parts in (data_set.parts, *data_set.alternatives):
        if parts is not data_set.parts:
            print("or instead:")
        for part in parts:
            count = "" if part.count is None else f" ({part.count})"
            print(f"  {part.what}{count}: {part.patterns[0]}; from {part.source}")
