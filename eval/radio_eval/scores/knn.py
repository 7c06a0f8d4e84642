"""Exact nearest neighbours by dot product among any number of rows, and how they vote."""

from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

TRAIN_CHUNK = 8192
QUERY_TILE = 512
"""Queries multiplied with a chunk at once: the scores stay near the processor."""


class FeatureRows(Protocol):
    """Rows that need not be in memory; `radio_eval.results.StoredRows` is one."""

    def __len__(self) -> int:
        """Number of rows."""

    def read_rows(self, start: int, out: Tensor) -> None:
        """Fill [n, D] float32, on any device, with the rows from `start` on."""


class Neighbours(NamedTuple):
    """What came out for the validation images, in their order.

    Attributes:
        predicted: [Q] int64, classes.
        rows: [Q, k] int64 of the train summaries, the most similar first.
        similarities: [Q, k] float32, cosines.
    """

    predicted: Tensor
    rows: Tensor
    similarities: Tensor


def knn_votes(
    train_features: Tensor,
    train_labels: Tensor,
    queries: Tensor,
    *,
    num_classes: int,
    k: int = 20,
    temperature: float = 0.07,
    query_chunk: int = 4096,
    train_chunk: int = TRAIN_CHUNK,
) -> Tensor:
    """Share of the vote that each class gets for each query; the protocol of DINO and RADIO.

    Args:
        train_features: [N, D] float, not necessarily normalised.
        train_labels: [N] int64 in [0, num_classes).
        queries: [Q, D] float, not necessarily normalised.
        num_classes: classes of the data set, also those without a train image.
        k: neighbours that vote.
        temperature: a neighbour votes with exp(cosine similarity / temperature).
        query_chunk: queries compared at once.
        train_chunk: train features compared at once.

    Returns:
        [Q, num_classes] float in [0, 1]; rows sum to 1. The prediction is the argmax.

    Raises:
        ValueError: no train features, or labels outside the range.
    """
    check_labels(train_labels, num_classes)
    train = F.normalize(train_features.float(), dim=1)
    votes = [torch.zeros(0, num_classes)]
    for chunk in queries.split(query_chunk):
        unit = F.normalize(chunk.float(), dim=1)
        similarities, rows = nearest_neighbours(train, unit, k, train_chunk)
        votes.append(class_votes(similarities, train_labels[rows], num_classes, temperature))
    return torch.cat(votes)


def class_votes(
    similarities: Tensor, labels: Tensor, num_classes: int, temperature: float
) -> Tensor:
    """Share of the vote that each class gets.

    Returns:
        [Q, num_classes] float in [0, 1]; rows sum to 1.
    """
    weights = (similarities / temperature).softmax(dim=1)
    votes = torch.zeros(len(weights), num_classes, device=weights.device)
    return votes.scatter_add_(1, labels, weights)


def check_labels(labels: Tensor, num_classes: int) -> None:
    """Raise ValueError unless there are train labels, all in [0, num_classes)."""
    if len(labels) == 0:
        raise ValueError("kNN needs at least one train image")
    if int(labels.min()) < 0 or int(labels.max()) >= num_classes:
        raise ValueError(f"train labels must lie in [0, {num_classes})")


def nearest_neighbours(
    train: Tensor | FeatureRows, queries: Tensor, k: int, train_chunk: int = TRAIN_CHUNK
) -> tuple[Tensor, Tensor]:
    """The k most similar train rows of every query, by dot product.

    Of equally similar rows the first ones count, whatever the chunks. The time grows linearly with
    N and with Q; in memory are one chunk, the queries, and a block of scores.

    Args:
        train: [N, D] float; normalise it first for cosine similarity.
        queries: [Q, D] float32, on the device that does the work.
        k: neighbours; at most N are returned.
        train_chunk: rows of `train` in memory at once.

    Returns:
        similarities [Q, min(k, N)], highest first, and their row numbers in `train`.
    """
    k = min(k, len(train))
    similarities = queries.new_full((len(queries), k), -torch.inf)
    indices = torch.zeros((len(queries), k), dtype=torch.long, device=queries.device)
    if k == 0:
        return similarities, indices
    # Made once: with memory that the system has to hand out anew each time, the products of large
    # matrices take up to twice as long.
    chunk = queries.new_empty(min(train_chunk, len(train)), queries.shape[1])
    scores = queries.new_empty(min(QUERY_TILE, len(queries)), len(chunk))
    for start in range(0, len(train), train_chunk):
        rows = chunk[: len(train) - start]  # [n, D]
        if isinstance(train, Tensor):
            rows.copy_(train[start : start + len(rows)])
        else:
            train.read_rows(start, rows)
        for first in range(0, len(queries), QUERY_TILE):
            tile = slice(first, first + QUERY_TILE)
            found = scores[: len(queries[tile]), : len(rows)]  # [q, n]
            torch.mm(queries[tile], rows.T, out=found)
            _merge(similarities[tile], indices[tile], found, start)
    return similarities, indices


def _merge(similarities: Tensor, indices: Tensor, scores: Tensor, start: int) -> None:
    """Put what is better among new scores [q, n] into the best so far [q, k], in place."""
    k = similarities.shape[1]
    values, columns = _first_best(scores, k, similarities[:, -1])
    values = torch.cat([similarities, values], dim=1)
    rows = torch.cat([indices, columns + start], dim=1)
    values, order = values.sort(dim=1, descending=True, stable=True)
    similarities.copy_(values[:, :k])
    indices.copy_(rows.gather(1, order)[:, :k])


def _first_best(scores: Tensor, k: int, least: Tensor) -> tuple[Tensor, Tensor]:
    """The k highest of each row [q, n] with their columns; of equal ones those further left.

    Values that are not above `least` [q] may have any columns.
    """
    if scores.shape[1] <= k:
        values, columns = scores.sort(dim=1, descending=True, stable=True)
        return values, columns
    values, columns = scores.topk(k + 1, dim=1)
    # Which of several equal values topk takes is left to chance: where the last one that is in
    # equals the first that is out, a stable sort decides.
    last = values[:, k - 1]
    chance = ((last == values[:, k]) & (last > least)).nonzero().squeeze(1)
    columns, order = columns[:, :k].sort(dim=1)
    values = values[:, :k].gather(1, order)
    values, order = values.sort(dim=1, descending=True, stable=True)
    columns = columns.gather(1, order)
    for row in chance.tolist():
        tied, places = scores[row].sort(descending=True, stable=True)
        values[row], columns[row] = tied[:k], places[:k]
    return values, columns
