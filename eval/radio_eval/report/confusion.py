"""Which classes are taken for which: a heat-map, the worst pairs, the best and worst classes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from radio_eval.classification.blocks import ClassificationSet
from radio_eval.report.sections import (
    Bar,
    Bars,
    Cell,
    ConfusedPairs,
    Heatmap,
    Pair,
    Section,
)
from radio_eval.report.thumbnails import read_thumbnails

MAX_HEATMAP_CLASSES = 100
"""More classes give no heat-map that anybody could read."""
PAIRS = 12
EXTREMES = 10
"""Classes at either end that are named where there is no heat-map."""
_LEAST_SHARE = 0.01
_HEATMAP_WIDTH, _SMALLEST_CELL, _LARGEST_CELL = 720, 14, 36


@dataclass(frozen=True, kw_only=True)
class Classified:
    """What the images of a split were taken for.

    Attributes:
        data: the split.
        class_names: for people.
        labels: [N] int64, the right classes.
        predicted: [N] int64, what came out.
        name: row -> name of the image.
    """

    data: ClassificationSet
    class_names: Sequence[str]
    labels: Tensor
    predicted: Tensor
    name: Callable[[int], str]

    def cells(self) -> list[Cell]:
        """The confusion matrix without its zeros, row by row; memory for those alone."""
        count = len(self.class_names)
        codes, counts = torch.unique(self.labels * count + self.predicted, return_counts=True)
        totals = self.totals()
        return [
            Cell(
                truth=code // count,
                predicted=code % count,
                count=images,
                share=images / totals[code // count],
            )
            for code, images in zip(codes.tolist(), counts.tolist(), strict=True)
        ]

    def totals(self) -> list[int]:
        """Images of each class."""
        counts: list[int] = torch.bincount(self.labels, minlength=len(self.class_names)).tolist()
        return counts


def confusion_sections(found: Classified) -> list[Section]:
    """The heat-map or, with too many classes for one, their extremes; and the worst pairs."""
    overview = heatmap if len(found.class_names) <= MAX_HEATMAP_CLASSES else class_extremes
    return [overview(found), confused_pairs(found)]


def heatmap(found: Classified) -> Heatmap:
    """The confusion matrix as a picture."""
    fitting = _HEATMAP_WIDTH // len(found.class_names)
    return Heatmap(
        title="Confusion of classes",
        text="A row for each true class, a column for each predicted one. The stronger a colour, "
        "the larger the share of the row's images: right ones are blue and lie on the diagonal, "
        "wrong ones are red. Wrong ones below 1 % are left out.",
        class_names=tuple(found.class_names),
        totals=tuple(found.totals()),
        cells=tuple(
            cell
            for cell in found.cells()
            if cell.truth == cell.predicted or cell.share >= _LEAST_SHARE
        ),
        side=min(max(fitting, _SMALLEST_CELL), _LARGEST_CELL),
    )


def class_extremes(found: Classified) -> Bars:
    """Accuracy of the classes at either end."""
    right = {c.truth: 100 * c.share for c in found.cells() if c.truth == c.predicted}
    accuracy = {label: right.get(label, 0.0) for label, total in enumerate(found.totals()) if total}
    order = sorted(accuracy, key=lambda label: (accuracy[label], label))
    shown = order if len(order) <= 2 * EXTREMES else [*order[:EXTREMES], *order[-EXTREMES:]]
    return Bars(
        title="The hardest and the easiest classes",
        text=f"Accuracy of {len(shown)} of {len(order)} classes, those at either end.",
        bars=tuple(Bar(name=found.class_names[label], value=accuracy[label]) for label in shown),
    )


def confused_pairs(found: Classified) -> ConfusedPairs:
    """The pairs that are confused most often, each with the first image that it happened to."""
    wrong = [cell for cell in found.cells() if cell.truth != cell.predicted]
    wrong.sort(key=lambda cell: (-cell.count, -cell.share, cell.truth, cell.predicted))
    totals = found.totals()
    examples = {}
    for cell in wrong[:PAIRS]:
        hits = (found.labels == cell.truth) & (found.predicted == cell.predicted)
        examples[cell] = found.name(int(hits.nonzero()[0]))
    pictures = read_thumbnails(found.data, examples.values())
    return ConfusedPairs(
        title="Most confused classes",
        text="Images of one class that were taken for another, with an example of each pair."
        if wrong
        else "Every image was classified right.",
        pairs=tuple(
            Pair(
                truth=found.class_names[cell.truth],
                predicted=found.class_names[cell.predicted],
                count=cell.count,
                total=totals[cell.truth],
                name=name,
                picture=pictures.get(name),
            )
            for cell, name in examples.items()
        ),
    )
