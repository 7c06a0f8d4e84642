"""kNN classification with frozen summaries, the protocol of DINO, DINOv2 and RADIO."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from radio_core.data.folder import FolderError
from radio_core.vision import VisionModel
from radio_eval.data.classification import ClassificationSet
from radio_eval.data.imagenet import readable_names
from radio_eval.extraction import SummaryTask
from radio_eval.report.pictures import SEED, choose_rows, read_thumbnails
from radio_eval.report.sections import Card, Line, Picture, Section
from radio_eval.results import StoredRows
from radio_eval.runner import Context
from radio_eval.scores.knn import Neighbours, check_labels, class_votes, nearest_neighbours

_QUERIES = 4096
"""Compared with all train summaries at once."""
_SHOWN = 8
"""Validation images in the report, and neighbours of each."""
_PAIRS = 12


@dataclass(frozen=True, kw_only=True)
class Knn(SummaryTask):
    """kNN accuracy (micro average, percent) of summaries.

    Data: {train,val}/CLASS/*.jpg, such as ImageNet's folders, or WebDataset shards *train*.tar and
    *val*.tar; classnames.json {CLASS: name} lists the classes where a split lacks some. Start it
    with torchrun to share the work among processes; the result is the same. A model without a
    summary is represented by the mean of its features.
    """

    k: int = 20
    """Neighbours that vote."""
    temperature: float = 0.07
    """A neighbour votes with exp(similarity / temperature)."""

    name: ClassVar[str] = "knn"
    title: ClassVar[str] = "kNN classification"
    headline: ClassVar[str] = "top1"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.k < 1 or self.temperature <= 0:
            raise ValueError("k and temperature of kNN must be positive")

    def run(self, model: VisionModel, context: Context) -> Iterator[tuple[str, float]]:
        """Yield top1 in percent, the numbers of images that were used, and their size."""

        def represent(images: Tensor) -> Tensor:
            summary, features = model(images, (images.shape[-2], images.shape[-1]))
            return features.mean(dim=(2, 3)) if summary is None else summary

        with (
            self.summaries(model, represent, "train", "summary", context) as train,
            self.summaries(model, represent, "val", "summary", context) as val,
        ):
            found = self.classify(train, val, model.device, context)
            top1 = 100.0 * float((found.predicted == val.labels).double().mean())
            context.show(
                lambda: knn_sections(
                    self.splits["train"], self.splits["val"], train, val, found, self.temperature
                )
            )
        yield "top1", top1
        yield "train_images", float(len(train))
        yield "val_images", float(len(val))
        yield "image_size", float(context.parameters["images"]["size"])

    def classify(
        self, train: StoredRows, val: StoredRows, device: torch.device, context: Context
    ) -> Neighbours:
        """Classify all validation images; processes share them, and each gets all of the result."""
        classes = len(self.splits["train"].class_names)
        check_labels(train.labels, classes)
        share = context.processes.share(range(0, len(val), _QUERIES))
        own: dict[int, Neighbours] = {}
        for number, start in enumerate(share):
            queries = val.rows(start, min(start + _QUERIES, len(val))).to(device)
            similarities, rows = (x.cpu() for x in nearest_neighbours(train, queries, self.k))
            votes = class_votes(similarities, train.labels[rows], classes, self.temperature)
            own[start] = Neighbours(votes.argmax(dim=1), rows, similarities)
            context.progress("kNN search", number + 1, len(share))
        gathered = context.processes.gather(own, patient=True)
        parts = {start: part for of_one in gathered for start, part in of_one.items()}
        columns = zip(*(parts[start] for start in sorted(parts)), strict=True)
        return Neighbours(*map(torch.cat, columns))


def knn_sections(
    train_data: ClassificationSet,
    val_data: ClassificationSet,
    train: StoredRows,
    val: StoredRows,
    found: Neighbours,
    temperature: float,
) -> list[Section]:
    """Some images with their nearest neighbours, and the most confused classes."""
    names = val_data.class_names
    with suppress(ImportError, FolderError):  # no open_clip to tell ImageNet's, or other classes
        names = readable_names(names)
    predicted, neighbours, similarities = found
    rows = choose_rows(predicted == val.labels, _SHOWN)
    shown = neighbours[rows, :_SHOWN]  # [Q, n]
    labels = train.labels[neighbours[rows]]  # [Q, k]
    votes = class_votes(
        similarities[rows], labels, num_classes=len(names), temperature=temperature
    )  # [Q, C]
    train_names = {row: train.name(row) for row in set(shown.flatten().tolist())}
    val_names = {row: val.name(row) for row in rows}
    train_pictures = read_thumbnails(train_data, train_names.values())
    val_pictures = read_thumbnails(val_data, val_names.values())
    cards = []
    for place, row in enumerate(rows):
        truth, said = int(val.labels[row]), int(predicted[row])
        best = votes[place].topk(min(3, len(names)))
        lines = [
            Line("right" if said == truth else f"taken for {names[said]}", said == truth),
            *(
                Line(names[label], note=f"{100 * share:.0f} %")
                for share, label in zip(best.values.tolist(), best.indices.tolist(), strict=True)
                if share > 0
            ),
        ]
        pictures = [
            Picture(
                train_pictures.get(train_names[near]),
                f"{similarity:.2f} {names[label]}",
                label == truth,
                train_names[near],
            )
            for near, label, similarity in zip(
                shown[place].tolist(),
                labels[place].tolist(),
                similarities[row].tolist(),
                strict=False,
            )
        ]
        name = val_names[row]
        lead = Picture(val_pictures.get(name), name=name)
        cards.append(
            Card(title=names[truth], lead=lead, lines=lines, pictures=pictures, columns=_SHOWN)
        )
    k = neighbours.shape[1]
    nearest = f"all {k} neighbours" if k <= _SHOWN else f"the nearest {_SHOWN} of {k} neighbours"
    sheet = Section(
        title="Nearest neighbours",
        text=f"{len(rows)} of {len(val)} validation images, drawn with seed {SEED}, half of them "
        f"classified right and half wrong as far as there are such, with {nearest} among the train "
        f"images. All {k} vote; the first classes have their share of the vote in percent. ✓ marks "
        "neighbours of the right class; their numbers are cosine similarities.",
        cards=cards,
    )
    return [sheet, confused_pairs(val_data, names, val, predicted)]


def confused_pairs(
    data: ClassificationSet, names: Sequence[str], val: StoredRows, predicted: Tensor
) -> Section:
    """The pairs that are confused most often, each with the first image that it happened to."""
    totals = Counter(val.labels.tolist())
    wrong = [
        (pair, count)
        for pair, count in confusions(val.labels, predicted).items()
        if pair[0] != pair[1]
    ]
    wrong.sort(key=lambda found: (-found[1], -found[1] / totals[found[0][0]], found[0]))
    examples = []
    for (truth, said), _ in wrong[:_PAIRS]:
        hits = (val.labels == truth) & (predicted == said)
        examples.append(val.name(int(hits.nonzero()[0])))
    pictures = read_thumbnails(data, examples)
    return Section(
        title="Most confused classes",
        text="Images of one class that were taken for another, with an example of each pair."
        if wrong
        else "Every image was classified right.",
        cards=[
            Card(
                title=names[truth],
                lead=Picture(pictures.get(name), name=name),
                lines=[
                    Line(f"→ {names[said]}", False),
                    Line("", note=f"{count} of {totals[truth]} images"),
                ],
            )
            for ((truth, said), count), name in zip(wrong, examples, strict=False)
        ],
    )


def confusions(labels: Tensor, predicted: Tensor) -> dict[tuple[int, int], int]:
    """(true class, predicted class) -> images, in the order of classes; memory for those alone."""
    pairs, counts = torch.unique(torch.stack((labels, predicted)), dim=1, return_counts=True)
    return {
        (truth, said): count
        for (truth, said), count in zip(pairs.T.tolist(), counts.tolist(), strict=True)
    }
