"""Distil and evaluate a student in the toy world, end to end, in minutes."""

import dataclasses
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from rich.console import Console

from radio_core.cli import parse
from radio_core.distill.recipes import get_recipe
from radio_core.distill.trainer import train
from radio_core.models import RadioModel
from radio_core.teachers import TOY_TEACHERS, load_teacher
from radio_core.teachers.segment_anything import SamTeacher
from radio_core.zoo.load import load_model
from radio_core.zoo.releases import BUNDLED
from radio_eval.contract import can_run, run_evaluator
from radio_eval.eval_model import EvalModel
from radio_eval.models import from_radio, from_teacher, random_like
from radio_eval.progress import Progress, rich_progress
from radio_eval.report.figures import curves_figure, read_curves
from radio_eval.report.page import Page
from radio_eval.report.pictures import feature_section, mask_section
from radio_eval.report.results import Kind, Results, Row
from radio_eval.report.sections import Section
from radio_eval.scores.baselines import (
    chance_accuracy,
    filled_box_miou,
    majority_accuracy,
    majority_miou,
)
from radio_eval.toyworld import ToyData, ToySizes, prepare_toy_data

if TYPE_CHECKING:
    from segment_anything.modeling import Sam

TITLE = "RADIO quickstart: one student from three toy teachers"
RUN_FOLDER = "train"


@dataclass(frozen=True, kw_only=True)
class QuickstartOptions:
    """Train the toy student from the three toy teachers, then compare all of them.

    Writes OUT/results.json, OUT/report.html and the student's checkpoint. A run that was
    interrupted goes on where it stopped when it is started again.
    """

    out: Path = Path("runs/quickstart")
    """Folder for everything that is written."""
    recipe: str = "toy"
    """Recipe of the training."""
    student: Path | None = None
    """Evaluate this model folder instead of training one."""
    max_steps: int | None = None
    """Stop the training early."""
    seed: int = 0
    """Of the training."""
    sizes: ToySizes = field(default_factory=ToySizes)
    """How much of the toy world the evaluation sees."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A model and its row in the table."""

    kind: Kind
    model: EvalModel


def main(argv: Sequence[str]) -> int:
    """Run `radio quickstart`; returns the exit code."""
    options = parse(QuickstartOptions, argv, prog="radio quickstart")
    console = Console()
    seconds: dict[str, float] = {}
    with _phase(console, seconds, "training"):
        folder = options.student or _train(options)
    if folder is None:
        console.print("interrupted; the same command continues this run")
        return 1
    with _phase(console, seconds, "evaluation"), rich_progress(console) as progress:
        data = prepare_toy_data(options.out / "data", options.sizes, progress)
        entries, notes = load_entries(folder)
        results = evaluate(entries, data, progress)
        results.rows[1:1] = notes
        results.rows.extend(baseline_rows(data))
    with _phase(console, seconds, "report"):
        sections = _pictures(entries, data)
        results.metadata.update(
            command="radio quickstart",
            recipe=options.recipe,
            training_seed=options.seed,
            sizes=dataclasses.asdict(options.sizes),
            threads=torch.get_num_threads(),
            seconds=seconds,
        )
        _write(options.out, folder, results, sections)
    console.print(*results.table().terminal())
    for path in (folder, options.out / "results.json", options.out / "report.html"):
        console.print(f"wrote {path}", markup=False, highlight=False)
    return 0


@contextmanager
def _phase(console: Console, seconds: dict[str, float], name: str) -> Iterator[None]:
    console.print(f"[bold]{name} ...[/bold]")
    start = time.perf_counter()
    yield
    seconds[name] = round(time.perf_counter() - start, 2)
    console.print(f"{name}: {seconds[name]:.0f} s", highlight=False)


def _train(options: QuickstartOptions) -> Path | None:
    """Folder of the trained student; None if the user interrupted the training."""
    run = options.out / RUN_FOLDER
    config = dataclasses.replace(
        get_recipe(options.recipe),
        out=run,
        seed=options.seed,
        max_steps=options.max_steps,
        resume=run.exists(),
    )
    return train(config).student


def load_entries(student_folder: Path) -> tuple[list[Entry], list[Row]]:
    """The models of the table: students, teachers, and random weights.

    Returns:
        The models, and an empty row with a note for the bundled student if it is not installed.
    """
    teachers = [load_teacher(name) for name in TOY_TEACHERS]
    sam = next(teacher.sam for teacher in teachers if isinstance(teacher, SamTeacher))

    def base_sam() -> "Sam":
        return sam

    radio = RadioModel.from_pretrained(student_folder)
    entries = [Entry(kind="student", model=from_radio(radio, "student", base_sam))]
    notes: list[Row] = []
    if BUNDLED["toy"].is_dir():
        bundled = from_radio(load_model("toy"), "bundled", base_sam)
        entries.append(Entry(kind="student", model=bundled))
    else:
        note = "the bundled student's weights are not part of this installation"
        notes.append(Row(name="bundled", kind="student", note=note))
    entries.extend(Entry(kind="teacher", model=from_teacher(t)) for t in teachers)
    entries.append(Entry(kind="baseline", model=from_radio(random_like(radio), "random", base_sam)))
    return entries, notes


def evaluate(entries: Sequence[Entry], data: ToyData, progress: Progress) -> Results:
    """Every model on every task that it can do."""
    evaluators = data.evaluators()
    rows = []
    for entry in entries:
        row = Row(name=entry.model.name, kind=entry.kind)
        for evaluator in evaluators:
            if can_run(evaluator, entry.model):
                named = _named(progress, entry.model.name)
                row.add(run_evaluator(evaluator, entry.model, named))
        rows.append(row)
    return Results(rows=rows)


def _named(progress: Progress, name: str) -> Progress:
    def listen(what: str, done: int, total: int | None) -> None:
        progress(f"{name}: {what}", done, total)

    return listen


def baseline_rows(data: ToyData) -> list[Row]:
    """What can be scored without looking at an image."""
    train, val = data.classification_train, data.classification_val
    chance = Row(name="chance", kind="baseline", note=CHANCE_NOTE)
    chance.scores["zero_shot"] = chance_accuracy(val)
    chance.scores["knn"] = majority_accuracy(train, val)
    chance.scores["linear_seg"] = majority_miou(data.dense_train, data.dense_val)
    boxes = Row(name="filled boxes", kind="baseline")
    boxes.scores["sam_miou"] = filled_box_miou(data.coco)
    return [chance, boxes]


CHANCE_NOTE = (
    "zero-shot: a uniform guess; kNN and segmentation: always the class that is most frequent in "
    "the training images."
)


def _pictures(entries: Sequence[Entry], data: ToyData) -> list[Section]:
    models = [entry.model for entry in entries if entry.kind != "baseline"]
    sams = [(model.name, model.sam()) for model in models if model.sam is not None]
    return [feature_section(models, data.dense_val.images), mask_section(sams, data.coco)]


def _write(out: Path, student: Path, results: Results, pictures: Sequence[Section]) -> None:
    results.write(out / "results.json")
    notes = [f"{row.name}: {row.note}" for row in results.rows if row.note]
    sections = [Section(title="", tables=[results.table()], notes=notes), *pictures]
    metrics = student.parent / "metrics.jsonl"
    curves = read_curves(metrics) if metrics.is_file() else {}
    if curves:
        sections.append(Section(title="Losses while training", figures=[curves_figure(curves)]))
    page = Page(
        title=TITLE,
        lead="Scores in percent. Bold: the best of a column. Below a student's score: its fraction "
        "of the best teacher's.",
        sections=sections,
        folded={"Protocol, seeds, versions and times": results.to_json()},
    )
    page.write(out / "report.html")
