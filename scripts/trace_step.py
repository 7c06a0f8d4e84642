"""Count the functions and files of ours that a training step enters: python -m scripts.trace_step.

The step is the third one of the toy recipe: batches are loaded, teachers run or are read from the
cache, losses, gradients and optimizer follow. With `--run` a whole run of that one step counts,
from opening data and teachers to the exported student.
"""

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console

import radio_core
from radio_core.distill import trainer
from radio_core.distill.recipes import get_recipe

STEP = 3
Entered = set[tuple[str, str]]
"""(file, function)."""
_ROOT = Path(radio_core.__file__).parent.parent


@contextmanager
def traced(entered: Entered) -> Iterator[None]:
    """Note each function of this repository that is entered; comprehensions and lambdas are part
    of the function around them."""

    def note(frame: FrameType, event: str, argument: Any) -> None:
        code = frame.f_code
        name = getattr(code, "co_qualname", code.co_name)
        ours = event == "call" and code.co_filename.startswith(f"{_ROOT}/radio_core/")
        if ours and not code.co_name.startswith("<"):
            entered.add((str(Path(code.co_filename).relative_to(_ROOT)), name))

    sys.setprofile(note)
    try:
        yield
    finally:
        sys.setprofile(None)


def trace_step(cached: bool = False) -> Entered:
    """What one step of the toy recipe enters, with its teachers running or from the cache."""
    entered: Entered = set()
    work: Callable[..., Iterator[Any]] = trainer._Run._work

    def watched(run: Any, first: int) -> Iterator[Any]:
        steps = work(run, first)
        for number in range(first, run.config.last_step + 1):
            if number != STEP:
                yield next(steps)
            else:
                with traced(entered):
                    yield next(steps)

    trainer._Run._work = watched  # type: ignore[method-assign, assignment]
    try:
        _train(STEP, cached)
    finally:
        trainer._Run._work = work  # type: ignore[method-assign]
    return entered


def trace_run(cached: bool = False) -> Entered:
    """What a whole run of one step enters."""
    entered: Entered = set()
    with traced(entered):
        _train(1, cached)
    return entered


def _train(steps: int, cached: bool) -> None:
    config = get_recipe("toy")
    first, second = config.stages
    with tempfile.TemporaryDirectory() as folder:
        trainer.train(
            config.changed(
                run={"out": Path(folder) / "run", "max_steps": steps},
                data={"scenes": 60},
                stages=(replace(first, steps=1), second),
                targets={"cached_views": 60 * cached, "statistics_views": 10},
            ),
            Console(quiet=True),
        )


def main() -> None:
    """Print how many functions and files, and which."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cached", action="store_true", help="teacher outputs from the cache")
    parser.add_argument("--run", action="store_true", help="a whole run of one step")
    options = parser.parse_args()
    entered = (trace_run if options.run else trace_step)(options.cached)
    files = Counter(file for file, _ in entered)
    for file in sorted(files):
        print(f"{file}: {', '.join(sorted(name for f, name in entered if f == file))}")
    print(f"{len(entered)} functions in {len(files)} files")


if __name__ == "__main__":
    main()
