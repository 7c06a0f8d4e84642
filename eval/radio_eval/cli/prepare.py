"""Check a data folder: what is there, what is missing, and where it comes from."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table

from radio_core.cli import UsageError, parse
from radio_eval.data_sets import DATA_SETS, DataSet, Finding, check_data_set


@dataclass(frozen=True, kw_only=True)
class PrepareOptions:
    """Check the folder of a data set. Nothing is downloaded.

    Without a name, all known data sets are listed; without a folder, the parts of one.
    """

    name: Annotated[str, tyro.conf.Positional] = ""
    """Which data set."""
    data: Path | None = None
    """Its folder."""


def main(argv: Sequence[str]) -> int:
    """Run `radio eval prepare`; returns 0, or 1 if something that is needed is missing."""
    options = parse(PrepareOptions, argv, prog="radio eval prepare")
    if not options.name:
        _list()
        return 0
    if options.name not in DATA_SETS:
        raise UsageError(f"unknown data set {options.name!r}; known: {', '.join(DATA_SETS)}")
    data_set = DATA_SETS[options.name]
    if options.data is None:
        _describe(data_set)
        return 0
    findings = check_data_set(data_set, options.data)
    for finding in findings:
        _tell(finding)
    missing = [finding for finding in findings if finding.is_missing]
    partial = [f for f in findings if f.found and not f.is_complete]
    if missing:
        print(f"{data_set.name}: {len(missing)} of {len(findings)} parts are missing")
        print(f"official page: {data_set.page}")
        _note(data_set)
        return 1
    state = "usable, but not the whole data set" if partial else "complete"
    print(f"{data_set.name}: {state}; read by {data_set.task}")
    return 0


def _tell(finding: Finding) -> None:
    part = finding.part
    expected = "" if part.count is None else f" of {part.count}"
    if finding.is_complete:
        print(f"found    {part.what}: {part.patterns[0]} ({finding.found}{expected})")
        return
    state = "partial" if finding.found else "missing" if part.needed else "absent "
    print(f"{state}  {part.what}: {part.patterns[0]} ({finding.found}{expected})")
    print(f"         from {part.source}")


def _describe(data_set: DataSet) -> None:
    print(f"{data_set.name}: read by {data_set.task}")
    print(f"official page: {data_set.page}")
    _note(data_set)
    for parts in (data_set.parts, *data_set.alternatives):
        if parts is not data_set.parts:
            print("or instead:")
        for part in parts:
            count = "" if part.count is None else f" ({part.count})"
            print(f"  {part.what}{count}: {part.patterns[0]}; from {part.source}")


def _note(data_set: DataSet) -> None:
    if data_set.note:
        print(f"note: {data_set.note}")


def _list() -> None:
    table = Table("name", "read by", "official page", box=None)
    for data_set in DATA_SETS.values():
        table.add_row(data_set.name, data_set.task, data_set.page)
    Console().print(table)
