"""Sections of the reports on kNN and zero-shot classification."""

from collections.abc import Sequence

import torch
from torch import Tensor

from radio_core.data.folder import FolderError
from radio_eval.classification.blocks import ClassificationSet
from radio_eval.classification.imagenet import readable_names
from radio_eval.report.confusion import Classified, confused_pairs, confusion_sections
from radio_eval.report.sections import Neighbour, NeighbourSheet, Query, Section, Share
from radio_eval.report.thumbnails import read_thumbnails
from radio_eval.results import StoredRows
from radio_eval.scores.knn import Neighbours, class_votes

QUERIES = 8
"""Validation images on the sheet."""
NEIGHBOURS = 8
"""Of each; fewer with a smaller k."""
SEED = 0
"""Of the choice of validation images."""
_VOTES = 3


def knn_sections(
    train_data: ClassificationSet,
    val_data: ClassificationSet,
    train: StoredRows,
    val: StoredRows,
    found: Neighbours,
    temperature: float,
) -> list[Section]:
    """The neighbours sheet and the most confused classes.

    Args:
        train_data: images that voted.
        val_data: images that were classified.
        train: summaries that voted.
        val: summaries that were classified.
        found: what came out, with the neighbours that made it.
        temperature: of the vote.
    """
    names = _for_people(val_data.class_names)
    classified = Classified(
        data=val_data,
        class_names=names,
        labels=val.labels,
        predicted=found.predicted,
        name=val.name,
    )
    sheet = _neighbour_sheet(train_data, val_data, train, val, found, temperature, names)
    return [sheet, confused_pairs(classified)]


def zero_shot_sections(data: ClassificationSet, val: StoredRows, best: Tensor) -> list[Section]:
    """The confusion of classes and the most confused pairs.

    Args:
        data: images that were classified.
        val: summaries that were classified.
        best: [N, n] int64, classes of each image, the most likely first.
    """
    classified = Classified(
        data=data,
        class_names=data.class_names,
        labels=val.labels,
        predicted=best[:, 0],
        name=val.name,
    )
    return confusion_sections(classified)


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


def _neighbour_sheet(
    train_data: ClassificationSet,
    val_data: ClassificationSet,
    train: StoredRows,
    val: StoredRows,
    found: Neighbours,
    temperature: float,
    class_names: Sequence[str],
) -> NeighbourSheet:
    rows = choose_rows(found.predicted == val.labels, QUERIES)
    labels = train.labels[found.rows[rows]]  # [Q, k]
    votes = class_votes(
        found.similarities[rows],
        labels,
        num_classes=len(class_names),
        temperature=temperature,
    )
    shown = found.rows[rows, :NEIGHBOURS]  # [Q, n]
    train_names = {row: train.name(row) for row in set(shown.flatten().tolist())}
    val_names = {row: val.name(row) for row in rows}
    train_pictures = read_thumbnails(train_data, train_names.values())
    val_pictures = read_thumbnails(val_data, val_names.values())
    queries = []
    for place, row in enumerate(rows):
        truth = int(val.labels[row])
        neighbours = [
            Neighbour(
                name=train_names[near],
                class_name=class_names[label],
                similarity=similarity,
                right=label == truth,
                picture=train_pictures.get(train_names[near]),
            )
            for near, label, similarity in zip(
                shown[place].tolist(),
                labels[place].tolist(),
                found.similarities[row].tolist(),
                strict=False,
            )
        ]
        queries.append(
            Query(
                name=val_names[row],
                truth=class_names[truth],
                predicted=class_names[int(found.predicted[row])],
                right=int(found.predicted[row]) == truth,
                picture=val_pictures.get(val_names[row]),
                vote=_vote(votes[place], class_names),
                neighbours=tuple(neighbours),
            )
        )
    return NeighbourSheet(
        title="Nearest neighbours", text=_text(rows, val, found), queries=tuple(queries)
    )


def _vote(votes: Tensor, class_names: Sequence[str]) -> tuple[Share, ...]:
    """The classes with most of a vote [C]."""
    best = votes.topk(min(_VOTES, len(votes)))
    pairs = zip(best.values.tolist(), best.indices.tolist(), strict=True)
    return tuple(Share(name=class_names[label], share=share) for share, label in pairs if share > 0)


def _text(rows: Sequence[int], val: StoredRows, found: Neighbours) -> str:
    k = found.rows.shape[1]
    shown = min(k, NEIGHBOURS)
    nearest = f"all {k} neighbours" if shown == k else f"the nearest {shown} of {k} neighbours"
    return (
        f"{len(rows)} of {len(val)} validation images, drawn with seed {SEED}, half of them "
        f"classified right and half wrong as far as there are such, with {nearest} among the train "
        f"images. All {k} vote; the first classes have their share of the vote in percent. ✓ marks "
        "neighbours of the right class; their numbers are cosine similarities."
    )


def _for_people(class_names: Sequence[str]) -> Sequence[str]:
    """Readable names of ImageNet's classes, if open_clip is there to tell them."""
    try:
        return readable_names(class_names)
    except (ImportError, FolderError):
        return class_names
