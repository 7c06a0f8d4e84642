"""The quickstart's table: a student, its teachers, random weights, and who does not look at all."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from radio_core.models import RadioModel
from radio_core.open import open_model, random_like
from radio_core.teachers import TOY_TEACHERS
from radio_core.teachers.radio import RadioVision
from radio_core.vision import VisionModel
from radio_core.zoo.releases import BUNDLED
from radio_eval.data.coco import CocoInstances
from radio_eval.report.figures import curves_figure, read_curves
from radio_eval.report.page import Page
from radio_eval.report.pictures import feature_section, overlay
from radio_eval.report.sections import Card, Picture, Section
from radio_eval.report.table import Cell, Column, Table, Tone
from radio_eval.results import Json
from radio_eval.runner import Task, installed_versions
from radio_eval.scores.baselines import filled_box_miou, majority_accuracy, majority_miou
from radio_eval.tables.filling import Filling
from radio_eval.tasks.knn import Knn
from radio_eval.tasks.linear_seg import LinearSeg
from radio_eval.tasks.sam_coco import SamCoco
from radio_sam.prompts import encode_images, segment_boxes
from radio_sam.vision import sam_of

if TYPE_CHECKING:
    from segment_anything.modeling import Sam

TITLE = "RADIO quickstart: one student from three toy teachers"
COLUMNS = {
    "zero_shot": "zero-shot top-1",
    "knn": "kNN top-1",
    "linear_seg": "linear seg mIoU",
    "sam_miou": "SAM box mIoU",
}
"""Names of tasks, in order, with their headings."""
CHANCE_NOTE = (
    "zero-shot: a uniform guess; kNN and segmentation: always the class that is most frequent in "
    "the training images."
)
Kind = Literal["student", "teacher", "baseline"]


@dataclass(kw_only=True)
class Row:
    """One model's scores."""

    name: str
    kind: Kind
    model: VisionModel | None = None
    scores: dict[str, float | None] = field(default_factory=lambda: dict.fromkeys(COLUMNS))
    results: list[Json] = field(default_factory=list)
    note: str = ""


@dataclass(kw_only=True)
class Results:
    """All rows of the table with what is needed to reproduce them."""

    rows: list[Row]
    metadata: dict[str, Any] = field(default_factory=dict)

    def best(self, task: str, kind: Kind | None = None) -> float | None:
        """The highest score of a column, among the rows of one kind or all."""
        values = [row.scores[task] for row in self.rows if kind in (None, row.kind)]
        return max((value for value in values if value is not None), default=None)

    def fraction(self, row: Row, task: str) -> float | None:
        """A student's score divided by the best teacher's; None where either is missing."""
        value, best = row.scores[task], self.best(task, "teacher")
        return value / best if row.kind == "student" and value is not None and best else None

    def table(self) -> Table:
        """Scores with, of students, the fraction of the best teacher's score below."""
        rows: list[list[str | Cell]] = []
        for row in self.rows:
            cells: list[str | Cell] = [row.name]
            for task, value in row.scores.items():
                fraction = self.fraction(row, task)
                note = "" if fraction is None else f"{fraction:.2f} ×"
                tone: Tone = "best" if value == self.best(task) else ""
                text = "–" if value is None else f"{value:.1f}"
                cells.append(Cell(text, note, "dim" if value is None else tone, value))
            rows.append(cells)
        kinds = [row.kind for row in self.rows]
        return Table(
            title="Scores in percent; × of the best teacher",
            columns=[Column(title) for title in ("model", *COLUMNS.values())],
            rows=rows,
            breaks=[n for n in range(1, len(kinds)) if kinds[n] != kinds[n - 1]],
        )

    def to_json(self) -> Json:
        """The results as plain JSON types; `rows` is {row: {task: percent or null}}."""
        return {
            "rows": {row.name: dict(row.scores) for row in self.rows},
            "fractions_of_best_teacher": {
                row.name: {task: self.fraction(row, task) for task in COLUMNS}
                for row in self.rows
                if row.kind == "student"
            },
            "notes": {row.name: row.note for row in self.rows if row.note},
            "evaluations": [result for row in self.rows for result in row.results],
            "metadata": {**self.metadata, "versions": installed_versions()},
        }

    def page(self, pictures: Sequence[Section], metrics: Path) -> Page:
        """The page with the table."""
        notes = [f"{row.name}: {row.note}" for row in self.rows if row.note]
        sections = [Section(title="", tables=[self.table()], notes=notes), *pictures]
        curves = read_curves(metrics) if metrics.is_file() else {}
        if curves:
            sections.append(Section(title="Losses while training", figures=[curves_figure(curves)]))
        return Page(
            title=TITLE,
            lead="Scores in percent. Bold: the best of a column. Below a student's score: its "
            "fraction of the best teacher's.",
            sections=sections,
            folded={"Protocol, seeds, versions and times": self.to_json()},
        )


def quickstart_rows(student: Path) -> list[Row]:
    """The rows with models, not scored yet: students, teachers, and random weights."""
    radio = RadioModel.from_pretrained(student)
    rows = [Row(name="student", kind="student", model=RadioVision("student", radio))]
    if BUNDLED["toy"].is_dir():
        rows.append(Row(name="bundled", kind="student", model=open_model("toy")))
    else:
        note = "the bundled student's weights are not part of this installation"
        rows.append(Row(name="bundled", kind="student", note=note))
    rows += [Row(name=name, kind="teacher", model=open_model(name)) for name in TOY_TEACHERS]
    random = RadioVision("random", random_like(radio.config))
    return [*rows, Row(name="random", kind="baseline", model=random)]


def score_rows(rows: Sequence[Row], tasks: dict[str, Task], filling: Filling) -> None:
    """Run every task on every model that can do it."""
    for row in rows:
        for name, task in tasks.items():
            model = row.model
            if model is None or task.lacks(model):
                continue
            identity = {"weights": model.fingerprint(), **task.identity()}
            make = partial(filling.run, task, model, row.name)
            found = filling.cell(row.name, name, identity, make)
            row.scores[name] = found.value
            row.results.append(found.result)


def baseline_rows(tasks: dict[str, Task]) -> list[Row]:
    """The rows of what can be scored without looking at an image."""
    knn, probe, sam = tasks["knn"], tasks["linear_seg"], tasks["sam_miou"]
    assert isinstance(knn, Knn)
    assert isinstance(probe, LinearSeg)
    assert isinstance(sam, SamCoco)
    chance = Row(name="chance", kind="baseline", note=CHANCE_NOTE)
    train, val = knn.splits["train"], knn.splits["val"]
    chance.scores["zero_shot"] = 100.0 / len(val.class_names)
    chance.scores["knn"] = majority_accuracy(train, val)
    chance.scores["linear_seg"] = majority_miou(*probe.splits)
    boxes = Row(name="filled boxes", kind="baseline")
    boxes.scores["sam_miou"] = filled_box_miou(sam.coco)
    return [chance, boxes]


def picture_sections(rows: Sequence[Row], tasks: dict[str, Task]) -> list[Section]:
    """The features of all models on the same images, and masks of those with a SAM."""
    probe, coco = tasks["linear_seg"], tasks["sam_miou"]
    assert isinstance(probe, LinearSeg)
    assert isinstance(coco, SamCoco)
    models = {row.name: row.model for row in rows if row.model and row.kind != "baseline"}
    sams = {name: sam_of(model) for name, model in models.items() if model.spec.sam}
    _, val = probe.splits
    images = [val.read(index)[0] for index in range(min(6, len(val)))]
    return [feature_section(models, images), mask_section(sams, coco.coco)]


@torch.no_grad()
def mask_section(sams: "dict[str, Sam]", coco: CocoInstances, count: int = 6) -> Section:
    """Masks that Segment Anything finds from ground-truth boxes, beside the true ones."""
    [images] = coco.decoded([coco.image_ids[:count]])
    pairs = [(i, image) for i, image in images.items() if isinstance(image, np.ndarray)]
    truth = [overlay(image, [each.mask for each in coco.instances(i)]) for i, image in pairs]
    cards = [Card(title="truth", pictures=[Picture(pixels) for pixels in truth])]
    for label, sam in sams.items():
        encoded = encode_images(sam, [image for _, image in pairs])
        pictures = []
        for (i, image), one in zip(pairs, encoded, strict=True):
            boxes = [instance.box for instance in coco.instances(i)]
            masks = [mask for mask, _ in segment_boxes(sam, one, boxes, 32)]
            pictures.append(Picture(overlay(image, masks)))
        cards.append(Card(title=label, pictures=pictures))
    return Section(
        title="Segment Anything with the student inside",
        text="Masks from ground-truth boxes: SAM's own encoder, and the student's features in "
        "front of the same neck and decoder.",
        cards=cards,
    )
