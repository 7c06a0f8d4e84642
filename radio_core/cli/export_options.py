"""What the actions of `radio export` share: which model, of what size, for what."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from radio_core.cli import UsageError
from radio_core.cli.bench_options import write_json
from radio_core.export.card import ExportCard
from radio_core.export.destination import Exported
from radio_core.export.subject import Subject, Watch, model_subject
from radio_core.models.radio import FeatureFormat, RadioModel
from radio_core.registry import Registry
from radio_core.zoo.load import load_model

PURPOSES = "radio.export.for"
"""Entry point group: what the parts of a model are for -> `Purpose`."""

Purpose = Callable[[RadioModel, str, str, tuple[int, int] | None], Subject]
"""Called as purpose(model, its name, SOURCE of `--for PURPOSE=SOURCE`, size or None)."""

_SIZE = re.compile(r"(\d{1,5})(?:x(\d{1,5}))?")


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """What every export takes."""

    model: Annotated[str, tyro.conf.Positional]
    """A release ("radio_h"), a file or folder with a RADIO model, or a hub id."""
    out: Annotated[Path, tyro.conf.Positional]
    """The file to write."""
    adaptors: str = ""
    """Adaptors that the file shall have besides the backbone, for example clip,sam."""
    window_size: int | None = None
    """Side in patches of the attention windows; none for global attention."""
    num_windowed: int | None = None
    """Windowed layers between two global ones, instead of the model's own schedule."""
    size: str = ""
    """SIDE or HEIGHTxWIDTH in pixels of the only images that the file shall take; any if empty."""
    feature_fmt: FeatureFormat = "NCHW"
    """Features as maps [B, C, h, w] or as tokens [B, N, C]."""
    purpose: Annotated[str, tyro.conf.arg(name="for")] = ""
    """A part of the model for one purpose: "sam=SAM" is the image encoder of that Segment
    Anything, RADIO with SAM's neck; SAM is toy-sam or vit_h:CHECKPOINT, for example."""
    tolerance: float | None = None
    """Largest error that is accepted, as a share of an output's largest value."""
    json: Path | None = None
    """Also write what was done to this file."""

    def subject(self) -> Subject:
        """Load the model and put together what is exported.

        Raises:
            UsageError: a malformed size, or an unknown purpose.
            ValueError: whatever the model does not have or take.
        """
        size = _read_size(self.size)
        purpose, _, source = self.purpose.partition("=")
        known = Registry(PURPOSES, "purpose").entries
        if purpose and purpose not in known:
            raise UsageError(f"unknown --for {purpose!r}; known: {', '.join(known) or 'none'}")
        names = [name.strip() for name in self.adaptors.split(",") if name.strip()]
        if purpose and (names or self.feature_fmt != "NCHW"):
            raise UsageError(
                f"--for {purpose} decides about outputs: leave out --adaptors and --feature-fmt"
            )
        model = _load(self.model, self.window_size, self.num_windowed)
        name = model.config.name or Path(self.model).name
        if purpose:
            part: Subject = known[purpose].load()(model, name, source, size)
            return part
        return model_subject(
            model, name=name, adaptors=names, size=size, feature_fmt=self.feature_fmt
        )


def _load(name: str, window_size: int | None, num_windowed: int | None) -> RadioModel:
    import torch

    return load_model(name, window_size=window_size, num_windowed=num_windowed, dtype=torch.float32)


def _read_size(text: str) -> tuple[int, int] | None:
    if not text:
        return None
    match = _SIZE.fullmatch(text)
    if match is None:
        raise UsageError(f"--size is SIDE or HEIGHTxWIDTH in pixels, not {text!r}")
    return int(match[1]), int(match[2] or match[1])


@contextmanager
def watching() -> Iterator[Watch]:
    """Shows on stderr what is going on."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task("loading", total=None)
        shown = ["loading"]

        def watch(what: str, done: int, total: int) -> None:
            if shown != [what]:
                bars.reset(task)
                shown[:] = [what]
            bars.update(task, description=what, completed=done, total=total or None)

        yield watch


def report(done: Exported, card: ExportCard, json: Path | None) -> None:
    """Say what was written, and how far it is from the model."""
    side = f" and {done.side_file.name}, which must stay beside it" if done.side_file else ""
    size = "any size" if card.fixed_size is None else "x".join(map(str, card.fixed_size))
    print(f"wrote {done.path}{side} ({done.bytes / 1e6:.1f} MB)")
    print(f"takes images of {size}, sides multiples of {card.resolution_step} pixels")
    print(f"outputs: {', '.join(card.outputs)}")
    for difference in done.differences:
        print(
            f"largest difference from the model at {difference.case}: {difference.error:.1e} "
            f"of the largest value, in {difference.output}"
        )
    write_json(json, {"card": asdict(card), **_plain(done)})


def _plain(done: Exported) -> dict[str, object]:
    values = {name: str(v) if isinstance(v, Path) else v for name, v in asdict(done).items()}
    return values | {"bytes": done.bytes}
