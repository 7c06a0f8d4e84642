"""Sections of the reports on kNN and zero-shot classification: neighbours and confusions."""

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress

import torch
from torch import Tensor

from radio_core.data.folder import FolderError
from radio_eval.data.classification import ClassificationSet
from radio_eval.data.imagenet import readable_names
from radio_eval.report.figures import bars_figure, confusion_figure
from radio_eval.report.pictures import read_thumbnails
from radio_eval.report.sections import Card, Line, Picture, Section
from radio_eval.results import StoredRows
from radio_eval.scores.knn import Neighbours, class_votes

QUERIES = 8
"""Validation images with their neighbours."""
NEIGHBOURS = 8
"""Of each; fewer with a smaller k."""
SEED = 0
"""Of the choice of validation images."""
MAX_CONFUSION_CLASSES = 100
"""More classes give no confusion matrix that anybody could read."""
PAIRS = 12
EXTREMES = 10
"""Classes at either end that are named where there is no confusion matrix."""


def knn_sections(
    train_data: ClassificationSet,
    val_data: ClassificationSet,
    train: StoredRows,
    val: StoredRows,
    found: Neighbours,
    temperature: float,
) -> list[Section]:
    """Some images with their nearest neighbours, and the most confused classes.

    Args:
        train_data: images that voted.
        val_data: images that were classified.
        train: summaries that voted.
        val: summaries that were classified.
        found: what came out, with the neighbours that made it.
        temperature: of the vote.
    """
    names = val_data.class_names
    with suppress(ImportError, FolderError):  # no open_clip to tell ImageNet's, or other classes
        names = readable_names(names)
    predicted, neighbours, similarities = found
    rows = choose_rows(predicted == val.labels, QUERIES)
    shown = neighbours[rows, :NEIGHBOURS]  # [Q, n]
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
            Card(title=names[truth], lead=lead, lines=lines, pictures=pictures, columns=NEIGHBOURS)
        )
    k = neighbours.shape[1]
    nearest = (
        f"all {k} neighbours" if k <= NEIGHBOURS else f"the nearest {NEIGHBOURS} of {k} neighbours"
    )
    sheet = Section(
        title="Nearest neighbours",
        text=f"{len(rows)} of {len(val)} validation images, drawn with seed {SEED}, half of them "
        f"classified right and half wrong as far as there are such, with {nearest} among the train "
        f"images. All {k} vote; the first classes have their share of the vote in percent. ✓ marks "
        "neighbours of the right class; their numbers are cosine similarities.",
        cards=cards,
    )
    return [sheet, confused_pairs(val_data, names, val, predicted)]


def zero_shot_sections(data: ClassificationSet, val: StoredRows, best: Tensor) -> list[Section]:
    """The confusion of classes (of very many, their extremes), and the most confused pairs.

    Args:
        data: images that were classified.
        val: summaries that were classified.
        best: [N, n] int64, classes of each image, the most likely first.
    """
    predicted, names = best[:, 0], data.class_names
    if len(names) <= MAX_CONFUSION_CLASSES:
        overview = Section(
            title="Confusion of classes",
            text="A row for each true class, a column for each predicted one. The stronger a "
            "colour, the larger the share of the row's images: right ones are blue and lie on the "
            "diagonal, wrong ones are red. Wrong ones below 1 % are left out.",
            figures=[confusion_figure(names, _confusions(val.labels, predicted))],
        )
    else:
        overview = class_extremes(names, val.labels, predicted)
    return [overview, confused_pairs(data, names, val, predicted)]


def choose_rows(hits: Tensor, count: int) -> list[int]:
    """Rows to be shown, half of them right and half wrong, drawn with `SEED`.

    Where there are not enough of one kind, more of the other are drawn.

    Args:
        hits: [N] bool, what was right.
        count: how many; all of N if they are fewer.

    Returns:
        Row numbers, the right ones first.
    """
    order = torch.randperm(len(hits), generator=torch.Generator().manual_seed(SEED))
    right, wrong = order[hits[order]], order[~hits[order]]
    half = min(len(wrong), count // 2)
    shown = right[: count - half].tolist()
    return [*sorted(shown), *sorted(wrong[: count - len(shown)].tolist())]


def class_extremes(names: Sequence[str], labels: Tensor, predicted: Tensor) -> Section:
    """Accuracy of the classes at either end."""
    totals = Counter(labels.tolist())
    right = Counter(labels[labels == predicted].tolist())
    accuracy = {label: 100 * right[label] / total for label, total in totals.items()}
    order = sorted(accuracy, key=lambda label: (accuracy[label], label))
    shown = order if len(order) <= 2 * EXTREMES else [*order[:EXTREMES], *order[-EXTREMES:]]
    return Section(
        title="The hardest and the easiest classes",
        text=f"Accuracy of {len(shown)} of {len(order)} classes, those at either end.",
        figures=[bars_figure([(names[label], accuracy[label]) for label in shown])],
    )


def confused_pairs(
    data: ClassificationSet, names: Sequence[str], val: StoredRows, predicted: Tensor
) -> Section:
    """The pairs that are confused most often, each with the first image that it happened to.

    Args:
        data: images that were classified.
        names: of classes, for people.
        val: their summaries.
        predicted: [N] int64, their classes.
    """
    totals = Counter(val.labels.tolist())
    wrong = [
        (pair, count)
        for pair, count in _confusions(val.labels, predicted).items()
        if pair[0] != pair[1]
    ]
    wrong.sort(key=lambda found: (-found[1], -found[1] / totals[found[0][0]], found[0]))
    examples = []
    for (truth, said), _ in wrong[:PAIRS]:
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


def _confusions(labels: Tensor, predicted: Tensor) -> dict[tuple[int, int], int]:
    """(true class, predicted class) -> images, in the order of classes; memory for those alone."""
    pairs, counts = torch.unique(torch.stack((labels, predicted)), dim=1, return_counts=True)
    return {
        (truth, said): count
        for (truth, said), count in zip(pairs.T.tolist(), counts.tolist(), strict=True)
    }
