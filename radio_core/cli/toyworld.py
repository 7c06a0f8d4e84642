"""Write the toy world's scenes in the field's standard formats."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from radio_core.cli import UsageError, parse

_USAGE = """usage: radio toyworld export --out DIR [OPTIONS]

Writes procedural scenes with their ground truth as ImageFolder, ADE20K, COCO and VQA files.
'radio toyworld export --help' tells the options."""


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Write toy-world scenes as ImageFolder, ADE20K, COCO and VQA files.

    The same options give the same bytes. Validation scenes are held out from all training.
    """

    out: Path
    """New or empty folder; each part becomes a folder in it."""
    train: int = 2000
    """Number of training scenes."""
    val: int = 500
    """Number of validation scenes."""
    seed: int = 0
    """Number of the world, not negative."""
    parts: tuple[Literal["classification", "segmentation", "coco", "vqa"], ...] = (
        "classification",
        "segmentation",
        "coco",
        "vqa",
    )
    """Which formats to write."""
    overwrite: bool = False
    """Replace the same parts of an earlier export in the folder."""


def main(argv: list[str]) -> int:
    """Run ``radio toyworld ARGUMENTS``.

    Args:
        argv: the arguments after ``radio toyworld``; the first must be ``export``.

    Returns:
        0. What goes wrong is raised: UsageError for an unknown action or option, ValueError for
        values or a folder that cannot be used, OSError if files cannot be written.
    """
    action, rest = (argv[0], argv[1:]) if argv else ("", [])
    if action in ("-h", "--help"):
        print(_USAGE)
        return 0
    if action != "export":
        raise UsageError(
            f"unknown action {action!r}; known: export, as in {_USAGE.splitlines()[0]}"
        )
    export_with_progress(parse(ExportConfig, rest, prog="radio toyworld export"))
    return 0


def export_with_progress(config: ExportConfig) -> None:
    """Run the export with a progress bar on stderr, and print what was written where."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    from radio_core.data.toyworld.export import export

    bar = Progress(
        TextColumn("scenes"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        console=Console(file=sys.stderr),
    )
    task = bar.add_task("scenes", total=config.train + config.val, rate="")

    def advance(done: int, total: int) -> None:
        bar.start()  # only now: a request that is refused shows no bar
        speed = bar.tasks[0].speed
        bar.update(task, completed=done, rate=f"{speed:.0f}/s" if speed else "")

    try:
        export(
            config.out,
            config.train,
            config.val,
            seed=config.seed,
            parts=config.parts,
            overwrite=config.overwrite,
            progress=advance,
        )
    finally:
        bar.stop()
    print(f"{config.train} + {config.val} scenes in {config.out}: {', '.join(config.parts)}")
