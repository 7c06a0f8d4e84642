"""kNN classification with frozen summaries, the protocol of DINO, DINOv2 and RADIO."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from radio_eval.data import LabelledImages, collect
from radio_eval.eval_model import EvalModel, need
from radio_eval.progress import Progress


@dataclass(frozen=True, kw_only=True)
class KnnParameters:
    """Parameters of the kNN protocol.

    Attributes:
        k: neighbours that vote.
        temperature: a neighbour votes with exp(cosine similarity / temperature).
        batch_size: images a forward pass.
        query_chunk: queries compared at once.
        train_chunk: train features compared at once; memory is query_chunk * train_chunk floats.
    """

    k: int = 20
    temperature: float = 0.07
    batch_size: int = 16
    query_chunk: int = 1024
    train_chunk: int = 65536

    def __post_init__(self) -> None:
        for name in ("k", "temperature", "batch_size", "query_chunk", "train_chunk"):
            if getattr(self, name) <= 0:
                raise ValueError(f"kNN parameter {name} must be positive")


def nearest_neighbours(
    train: Tensor, queries: Tensor, k: int, train_chunk: int = 65536
) -> tuple[Tensor, Tensor]:
    """The k most similar train rows of every query, by dot product.

    Args:
        train: [N, D]; normalise it first for cosine similarity.
        queries: [Q, D].
        k: neighbours; at most N are returned.
        train_chunk: rows of `train` compared at once.

    Returns:
        similarities [Q, min(k, N)], highest first, and their row numbers in `train`.
    """
    similarities = queries.new_full((len(queries), 0), 0.0)
    indices = torch.zeros((len(queries), 0), dtype=torch.long, device=queries.device)
    for start in range(0, len(train), train_chunk):
        chunk = queries @ train[start : start + train_chunk].T  # [Q, n]
        values, rows = chunk.topk(min(k, chunk.shape[1]), dim=1)
        similarities = torch.cat([similarities, values], dim=1)
        indices = torch.cat([indices, rows + start], dim=1)
        similarities, order = similarities.topk(min(k, similarities.shape[1]), dim=1)
        indices = indices.gather(1, order)
    return similarities, indices


def knn_votes(
    train_features: Tensor,
    train_labels: Tensor,
    queries: Tensor,
    *,
    num_classes: int,
    parameters: KnnParameters,
) -> Tensor:
    """Share of the vote that each class gets for each query.

    Args:
        train_features: [N, D] float, not necessarily normalised.
        train_labels: [N] int64 in [0, num_classes).
        queries: [Q, D] float, not necessarily normalised.
        num_classes: classes of the data set, also those without a train image.
        parameters: the protocol.

    Returns:
        [Q, num_classes] float in [0, 1]; rows sum to 1. The prediction is the argmax.

    Raises:
        ValueError: no train features, or labels outside the range.
    """
    if len(train_features) == 0:
        raise ValueError("kNN needs at least one train image")
    if int(train_labels.min()) < 0 or int(train_labels.max()) >= num_classes:
        raise ValueError(f"train labels must lie in [0, {num_classes})")
    train = F.normalize(train_features.float(), dim=1)
    votes = []
    for chunk in queries.split(parameters.query_chunk):
        similarities, rows = nearest_neighbours(
            train, F.normalize(chunk.float(), dim=1), parameters.k, parameters.train_chunk
        )
        weights = (similarities / parameters.temperature).softmax(dim=1)  # [q, k]
        vote = torch.zeros(len(chunk), num_classes, device=weights.device)
        votes.append(vote.scatter_add_(1, train_labels[rows], weights))
    return torch.cat(votes) if votes else torch.zeros(0, num_classes)


@dataclass(frozen=True, kw_only=True)
class KnnEvaluator:
    """kNN accuracy (micro average, percent) of a model's summaries."""

    train: LabelledImages
    val: LabelledImages
    parameters: KnnParameters = KnnParameters()
    task: ClassVar[str] = "knn"
    headline: ClassVar[str] = "top1"
    capability: ClassVar[str] = "summary"

    def __call__(self, model: EvalModel, progress: Progress) -> Iterator[tuple[str, float]]:
        """Yield top1 in percent, and the numbers of images that were used."""
        size = self.parameters.batch_size
        summary = need(model.summary, model, "summary", self.task)
        train = collect(summary, model, self.train.images, size, progress, "kNN train images")
        val = collect(summary, model, self.val.images, size, progress, "kNN val images")
        votes = knn_votes(
            train.stack(),
            self.train.labels[train.indices],
            val.stack(),
            num_classes=len(self.train.class_names),
            parameters=self.parameters,
        )
        hits = votes.argmax(dim=1) == self.val.labels[val.indices]
        yield "top1", 100.0 * float(hits.double().mean())
        yield "train_images", float(len(train.indices))
        yield "val_images", float(len(val.indices))
        yield "image_size", float(model.image_size)
