"""Evaluate a model: radio eval {knn,zero-shot,linear-seg,sam-coco,vqa,mode-switch} --model M."""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from radio_core.cli import UsageError, parse
from radio_core.data.images import printable
from radio_eval.cli import mode_switch, prepare, table1, vqa
from radio_eval.cli.classification import KnnOptions, ZeroShotOptions
from radio_eval.cli.eval_options import EvalOptions
from radio_eval.cli.linear_seg import LinearSegOptions
from radio_eval.cli.sam_coco import SamCocoOptions
from radio_eval.processes import Processes, launched_processes
from radio_eval.progress import Progress, rich_progress, silent
from radio_eval.report.page import check_report_path, evaluation_page
from radio_eval.report.results import installed_versions
from radio_eval.report.sections import Section

TASKS: dict[str, type[EvalOptions]] = {
    "knn": KnnOptions,
    "zero-shot": ZeroShotOptions,
    "linear-seg": LinearSegOptions,
    "sam-coco": SamCocoOptions,
}
_LONG = 200
"""Characters of a parameter on the screen; the result file has it whole."""
PREPARE = "prepare"
"""Not a task: it checks the folder of a data set."""
VQA = "vqa"
"""The task that asks a LLaVA; `radio llava eval` is the same."""
MODE_SWITCH = "mode-switch"
"""The task that compares a head with its teacher at several resolutions."""
TABLE1 = "table1"
"""All tasks on several models, as one table."""


def main(argv: Sequence[str]) -> int:
    """Run `radio eval TASK ...`; returns the exit code."""
    usage = (
        f"radio eval {{{','.join((*TASKS, VQA, MODE_SWITCH))}}} --model M --data DIR [--json FILE]"
    )
    if not argv or argv[0] in ("-h", "--help"):
        print(f"usage: {usage}\n\n'radio eval TASK --help' lists a task's options.")
        print("'radio eval table1 --models A,B,C' runs all tasks and prints the paper's table.")
        print("'radio eval prepare [NAME] [--data DIR]' checks the folder of a data set.")
        return 0 if argv else 2
    task, *rest = argv
    if task == PREPARE:
        return prepare.main(rest)
    if task == VQA:
        return vqa.main(rest)
    if task == MODE_SWITCH:
        return mode_switch.main(rest)
    if task == TABLE1:
        return table1.main(rest)
    if task not in TASKS:
        known = ", ".join((*TASKS, VQA, MODE_SWITCH, TABLE1, PREPARE))
        raise UsageError(f"unknown task {task!r}; known: {known}")
    options = parse(TASKS[task], rest, prog=f"radio eval {task}")
    check_report_path(options.report)
    sections: list[Section] = []
    with launched_processes() as processes, _progress_of(processes) as progress:
        wanted = options.report is not None and processes.is_first
        result = options.run(progress, processes, sections.extend if wanted else None)
    if processes.is_first:
        _report(result, options.json)
        if options.report is not None:
            evaluation_page(result, sections, installed_versions()).write(options.report)
            print(f"report: {printable(options.report)}")
    return 0


@contextmanager
def _progress_of(processes: Processes) -> Iterator[Progress]:
    """A progress bar at the first process, none at the others."""
    if not processes.is_first:
        yield silent
        return
    with rich_progress(Console(stderr=True)) as progress:
        yield progress


def _report(result: Mapping[str, Any], file: Path | None) -> None:
    """Print the parameters and the metrics, and write everything."""
    for name, value in result["parameters"].items():
        text = str(value)
        print(f"{name}: {text if len(text) <= _LONG else text[:_LONG] + ' ...'}")
    for name, value in result["metrics"].items():
        print(f"{name}: {value:.2f}")
    for what, account in result.get("skipped", {}).items():
        if account["count"]:
            reasons = ", ".join(f"{count} {why}" for why, count in account["reasons"].items())
            print(f"skipped {account['count']} {what}: {reasons}", file=sys.stderr)
    if file is not None:
        content = {**result, "versions": installed_versions()}
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
