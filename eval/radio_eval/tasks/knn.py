"""kNN classification with frozen summaries, the protocol of DINO, DINOv2 and RADIO."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from radio_core.vision import VisionModel
from radio_eval.extraction import SummaryTask
from radio_eval.report.classification import knn_sections
from radio_eval.results import StoredRows
from radio_eval.runner import Context
from radio_eval.scores.knn import Neighbours, check_labels, class_votes, nearest_neighbours

_QUERIES = 4096
"""Compared with all train summaries at once."""


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
