"""Compare a RADIO head at several resolutions with its teacher (the paper's Figure 4)."""

import dataclasses
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from radio_core.cli import UsageError, parse
from radio_core.data.folder import ImageFiles
from radio_core.data.sources import ImageSource
from radio_core.data.toyworld import ToyWorldImages
from radio_core.data.toyworld.export import HELD_OUT_START
from radio_core.devices import choose_device
from radio_core.models import RadioModel
from radio_core.registry import UnknownName
from radio_core.teachers import load_teacher
from radio_core.teachers.load import is_teacher
from radio_eval.eval_model import EvalModel
from radio_eval.mode_switch import TASK, ModeSwitch, default_resolutions, measure_mode_switch
from radio_eval.models import load_eval_model
from radio_eval.progress import rich_progress
from radio_eval.report.figures import Panel, check_plot_path, line_figure, write_figure
from radio_eval.runner import installed_versions

TOYWORLD = "toyworld"
_SHOWN = 10
"""Unreadable files that are named on the screen; the result file names all."""


@dataclass(frozen=True, kw_only=True)
class ModeSwitchOptions:
    """Compare the features of a RADIO head at several resolutions with those of its teacher.

    For each resolution: the mean squared error between the head's features, brought to the
    teacher's grid bilinearly, and what the teacher gives at its own resolution; and their mean
    cosine. A jump between two resolutions is a mode switch (the paper's Figure 4). Of each image
    the central square is used.
    """

    model: str
    """A RADIO model: the bundled "toy", a release, a file or a folder."""
    adaptor: str = "dino_v2"
    """The head that is compared."""
    teacher: str = ""
    """What the head learned from ("dinov2:facebook/dinov2-large", "toy-dino"); by default what the
    model says of itself."""
    data: str = TOYWORLD
    """Folder of images, searched recursively; or "toyworld" for scenes that no training sees."""
    images: int = 64
    """How many images, chosen at random by --seed; a smaller folder gives all it has."""
    resolutions: tuple[int, ...] = ()
    """Sides in pixels of the model's input; by default seven from half to twice its own."""
    batch_size: int = 8
    """Images a forward pass."""
    seed: int = 0
    """Of the choice of images."""
    device: str = "auto"
    """Where the models run, such as "cuda:1"; "auto" takes a GPU where there is one."""
    json: Path | None = None
    """File for the result: scores, settings, versions."""
    plot: Path | None = None
    """File for the two curves, .svg or .png."""

    def __post_init__(self) -> None:
        if self.images < 1 or self.batch_size < 1 or self.seed < 0:
            raise UsageError("--images and --batch-size must be at least 1, --seed at least 0")
        if self.plot is not None:
            try:
                check_plot_path(self.plot)
            except ValueError as error:
                raise UsageError(f"--plot: {error}") from error


def main(argv: Sequence[str]) -> int:
    """Run `radio eval mode-switch`; returns the exit code."""
    options = parse(ModeSwitchOptions, argv, prog=f"radio eval {TASK}")
    device = choose_device(options.device)
    model = load_eval_model(options.model, device=device, adaptor=options.adaptor)
    source = options.teacher or _known_teacher(model, options.adaptor)
    try:
        teacher = load_teacher(source).to(device)
    except UnknownName as error:
        raise UsageError(f"--teacher: {error}") from error
    images, indices = _chosen(options)
    resolutions = options.resolutions or default_resolutions(model)
    with rich_progress(Console(stderr=True)) as progress:
        measured = measure_mode_switch(
            model,
            teacher,
            images,
            indices,
            resolutions,
            batch_size=options.batch_size,
            progress=progress,
        )
    title = f"{model.name}: {options.adaptor} against {teacher.spec.name}"
    _print(measured, title)
    side = teacher.spec.input_size
    if options.json is not None:
        _write(options.json, _as_json(options, measured, model.name, source, side))
    if options.plot is not None:
        _plot(options.plot, measured, title, side)
    return 0


def _known_teacher(model: EvalModel, adaptor: str) -> str:
    """The source of the teacher of an adaptor, as the model's config has it."""
    radio = model.module
    if isinstance(radio, RadioModel):
        names = [spec.name for spec in radio.config.adaptors]
        sources = dict(zip(names, radio.config.teachers, strict=False))
        if len(names) == len(radio.config.teachers) and is_teacher(sources[adaptor]):
            return sources[adaptor]
    raise UsageError(
        f"{model.name} does not say what {adaptor!r} learned from: name it with --teacher, "
        "e.g. dinov2:HUB_ID_OR_DIRECTORY"
    )


def _chosen(options: ModeSwitchOptions) -> tuple[ImageSource, list[int]]:
    """Where the images come from, and which of them are used."""
    if options.data == TOYWORLD:
        scenes = ToyWorldImages(options.images, first=HELD_OUT_START)
        return scenes, list(range(options.images))
    files = ImageFiles(options.data)
    order = np.random.default_rng(options.seed).permutation(len(files))
    return files, sorted(order[: options.images].tolist())


def _print(measured: ModeSwitch, title: str) -> None:
    table = Table(box=box.SIMPLE_HEAD, title=title, caption="± is the spread between images")
    for column in ("resolution", "MSE", "cosine"):
        table.add_column(column, justify="right")
    for score in measured.scores:
        error = f"{score.mse:.4f} ±{score.mse_std:.4f}"
        table.add_row(f"{score.resolution}", error, f"{score.cosine:.4f}")
    console = Console()
    console.print(table)
    rise = measured.largest_rise
    text = "the error rises nowhere"
    if rise is not None:
        text = f"largest rise of the error: x {rise[2]:.2f} from {rise[0]} to {rise[1]} pixels"
    console.print(f"{measured.images} images; {text}", highlight=False)
    if measured.skipped:
        print(f"skipped {len(measured.skipped)} unreadable images", file=sys.stderr)
    for path, reason in list(measured.skipped.items())[:_SHOWN]:
        print(f"skipped {path}: {reason}", file=sys.stderr)


def _as_json(
    options: ModeSwitchOptions, measured: ModeSwitch, model: str, teacher: str, side: int
) -> dict[str, Any]:
    rise = measured.largest_rise
    names = ("adaptor", "data", "seed", "batch_size")
    return {
        "task": TASK,
        "model": model,
        "teacher": teacher,
        "teacher_resolution": side,
        "images": measured.images,
        "scores": [dataclasses.asdict(score) for score in measured.scores],
        "largest_rise": None
        if rise is None
        else dict(zip(("from", "to", "factor"), rise, strict=True)),
        "settings": {name: getattr(options, name) for name in names},
        "skipped": dict(measured.skipped),
        "versions": installed_versions(),
    }


def _write(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _plot(path: Path, measured: ModeSwitch, title: str, side: int) -> None:
    scores = measured.scores
    panels = (
        Panel(
            title="mean squared error",
            points=[(score.resolution, score.mse) for score in scores],
            from_zero=True,
            mark=side,
            mark_label=f"teacher's {side} px",
        ),
        Panel(
            title="cosine", points=[(score.resolution, score.cosine) for score in scores], mark=side
        ),
    )
    x_label = "resolution of the student's input in pixels"
    write_figure(path, line_figure(title, x_label, panels))
