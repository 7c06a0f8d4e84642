"""How long work tells how far it is, without knowing who listens."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars

Progress = Callable[[str, int, int | None], None]
"""Called as progress(what, done, total); total is None where it is not known.

A part of `what` behind a tab, "training\\tloss 0.7", is shown behind the bar.
"""


def silent(what: str, done: int, total: int | None) -> None:
    """A listener that ignores everything."""


@contextmanager
def rich_progress(console: Console | None = None, *, live: bool = True) -> Iterator[Progress]:
    """Progress bars on a terminal, with counts, times and ETA; each goes when the next begins.

    Args:
        console: where; standard error by default. Nothing is shown on a quiet one.
        live: also draw between the calls, in a thread, which takes time from what is measured.
    """
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[info]}", markup=False),
    )
    console = console or Console(stderr=True)
    with Bars(*columns, console=console, transient=True, auto_refresh=live) as bars:
        tasks: dict[str, TaskID] = {}

        def listen(what: str, done: int, total: int | None) -> None:
            name, _, info = what.partition("\t")
            if name not in tasks:
                for finished in tasks.values():
                    bars.update(finished, visible=False)
                tasks[name] = bars.add_task(name, total=total, completed=done, info=info)
            bars.update(tasks[name], completed=done, total=total, visible=True, info=info)
            if not live:
                bars.refresh()

        yield listen
