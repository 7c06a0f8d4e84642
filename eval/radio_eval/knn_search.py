"""Exact nearest neighbours by dot product among any number of rows, a chunk at a time."""

from typing import Protocol

import torch
from torch import Tensor

TRAIN_CHUNK = 8192
QUERY_TILE = 512
"""Queries multiplied with a chunk at once: the scores stay near the processor."""


class FeatureRows(Protocol):
    """Rows that need not be in memory; `StoredSummaries` is one."""

    def __len__(self) -> int:
        """Number of rows."""

    def read_rows(self, start: int, out: Tensor) -> None:
        """Fill [n, D] float32, on any device, with the rows from `start` on."""


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
