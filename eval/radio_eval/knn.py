"""kNN classification with frozen summaries, the protocol of DINO, DINOv2 and RADIO."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from radio_eval.classification.blocks import ClassificationSet
from radio_eval.eval_model import EvalModel, need
from radio_eval.knn_search import TRAIN_CHUNK, FeatureRows, nearest_neighbours
from radio_eval.progress import Progress
from radio_eval.summaries.extract import Encoder, Extraction, summaries
from radio_eval.summaries.store import StoredSummaries


@dataclass(frozen=True, kw_only=True)
class KnnParameters:
    """Parameters of the kNN protocol.

    Attributes:
        k: neighbours that vote.
        temperature: a neighbour votes with exp(cosine similarity / temperature).
        query_chunk: queries compared with all train features at once.
        train_chunk: train features compared at once.
    """

    k: int = 20
    temperature: float = 0.07
    query_chunk: int = 4096
    train_chunk: int = TRAIN_CHUNK

    def __post_init__(self) -> None:
        for name in ("k", "temperature", "query_chunk", "train_chunk"):
            if getattr(self, name) <= 0:
                raise ValueError(f"kNN parameter {name} must be positive")


def class_votes(
    similarities: Tensor, labels: Tensor, *, num_classes: int, temperature: float
) -> Tensor:
    """Share of the vote that each class gets.

    Args:
        similarities: [Q, k] of the neighbours.
        labels: [Q, k] int64, their classes.
        num_classes: classes of the data set.
        temperature: a neighbour votes with exp(similarity / temperature).

    Returns:
        [Q, num_classes] float in [0, 1]; rows sum to 1.
    """
    weights = (similarities / temperature).softmax(dim=1)
    votes = torch.zeros(len(weights), num_classes, device=weights.device)
    return votes.scatter_add_(1, labels, weights)


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
    _check_labels(train_labels, num_classes)
    train = F.normalize(train_features.float(), dim=1)
    votes = []
    for chunk in queries.split(parameters.query_chunk):
        similarities, rows = nearest_neighbours(
            train, F.normalize(chunk.float(), dim=1), parameters.k, parameters.train_chunk
        )
        votes.append(
            class_votes(
                similarities,
                train_labels[rows],
                num_classes=num_classes,
                temperature=parameters.temperature,
            )
        )
    return torch.cat(votes) if votes else torch.zeros(0, num_classes)


def _check_labels(labels: Tensor, num_classes: int) -> None:
    if len(labels) == 0:
        raise ValueError("kNN needs at least one train image")
    if int(labels.min()) < 0 or int(labels.max()) >= num_classes:
        raise ValueError(f"train labels must lie in [0, {num_classes})")


@dataclass(frozen=True, kw_only=True)
class KnnPredictions:
    """What came out for some validation images, in their order.

    Attributes:
        predicted: [Q] int64, classes.
        neighbours: [Q, k] int64, rows of the train summaries, the most similar first.
        similarities: [Q, k] float32, cosines.
    """

    predicted: Tensor
    neighbours: Tensor
    similarities: Tensor


KnnObserver = Callable[[StoredSummaries, StoredSummaries, KnnPredictions], None]


@dataclass(frozen=True, kw_only=True)
class KnnEvaluator:
    """kNN accuracy (micro average, percent) of a model's summaries.

    Attributes:
        train: images that vote.
        val: images that are classified.
        parameters: the protocol.
        extraction: how summaries are computed and kept, and the processes that share the work.
        skipped: "train images" and "val images" of the last run that could not be read, with the
            reasons.
        observer: is shown the train summaries, the val summaries and what came out, before the
            summaries are gone; for pictures of the very neighbours that voted.
    """

    train: ClassificationSet
    val: ClassificationSet
    parameters: KnnParameters = KnnParameters()
    extraction: Extraction = field(default_factory=Extraction)
    skipped: dict[str, dict[str, str]] = field(default_factory=dict, compare=False)
    observer: KnnObserver | None = field(default=None, compare=False)
    task: ClassVar[str] = "knn"
    headline: ClassVar[str] = "top1"
    capability: ClassVar[str] = "summary"

    def __call__(self, model: EvalModel, progress: Progress) -> Iterator[tuple[str, float]]:
        """Yield top1 in percent, and the numbers of images that were used."""
        function = need(model.summary, model, "summary", self.task)
        encoder = Encoder(function=function, model=model, output="summary")
        how = self.extraction
        with (
            summaries(encoder, self.train, how, progress, "kNN train images") as train,
            summaries(encoder, self.val, how, progress, "kNN val images") as val,
        ):
            self.skipped.update({"train images": train.skipped, "val images": val.skipped})
            found = self.predict(train, val, model.device, progress)
            hits = found.predicted == val.labels
            if self.observer is not None:
                self.observer(train, val, found)
        yield "top1", 100.0 * float(hits.double().mean())
        yield "train_images", float(len(train))
        yield "val_images", float(len(val))
        yield "image_size", float(model.image_size)

    def predict(
        self,
        train: StoredSummaries,
        val: StoredSummaries,
        device: torch.device,
        progress: Progress,
    ) -> KnnPredictions:
        """Classify all validation images; every process gets all of the result.

        Args:
            train: summaries that vote.
            val: summaries that are classified.
            device: where similarities are computed.
            progress: listener.
        """
        _check_labels(train.labels, len(self.train.class_names))
        size, processes = self.parameters.query_chunk, self.extraction.processes
        share = processes.share(range(0, len(val), size))
        own: dict[int, KnnPredictions] = {}
        for number, start in enumerate(share):
            queries = val.rows(start, min(start + size, len(val))).to(device)
            own[start] = self._classify(train, train.labels, queries)
            progress("kNN search", number + 1, len(share))
        gathered = processes.gather(own)
        parts = {start: part for parts in gathered for start, part in parts.items()}
        return processes.from_first(_joined([parts[start] for start in sorted(parts)]))

    def _classify(self, train: FeatureRows, labels: Tensor, queries: Tensor) -> KnnPredictions:
        parameters = self.parameters
        similarities, rows = nearest_neighbours(
            train, queries, parameters.k, parameters.train_chunk
        )
        similarities, rows = similarities.cpu(), rows.cpu()
        votes = class_votes(
            similarities,
            labels[rows],
            num_classes=len(self.train.class_names),
            temperature=parameters.temperature,
        )
        return KnnPredictions(
            predicted=votes.argmax(dim=1), neighbours=rows, similarities=similarities
        )


def _joined(parts: list[KnnPredictions]) -> KnnPredictions | None:
    """One result of several; None for none, as other processes than the first have it."""
    if not parts:
        return None
    names = ("predicted", "neighbours", "similarities")
    return KnnPredictions(**{n: torch.cat([getattr(part, n) for part in parts]) for n in names})
