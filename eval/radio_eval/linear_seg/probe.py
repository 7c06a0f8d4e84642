"""One run of the linear probe: batches of features, the head's training, and its scores."""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from radio_eval.coco.annotations import Skipped
from radio_eval.eval_model import EvalModel
from radio_eval.linear_seg.batches import (
    AugmentTransform,
    Key,
    Problem,
    Sample,
    SampleReader,
    WholeTransform,
    chunk_bounds,
    image_order,
    sample_loader,
    to_unit,
    train_keys,
)
from radio_eval.linear_seg.features import Backbone
from radio_eval.linear_seg.head import make_head
from radio_eval.linear_seg.pictures import Comparison, compare, save_comparison, save_legend
from radio_eval.linear_seg.protocol import LinearSegParameters
from radio_eval.linear_seg.slide import predict_labels, slide_logits
from radio_eval.linear_seg.train import CHECKPOINT_FILE, HeadCheckpoint, HeadTrainer, TrainBatch
from radio_eval.processes import Processes
from radio_eval.progress import Progress
from radio_eval.segmentation.data import SegmentationImages
from radio_eval.segmentation.metrics import ConfusionMatrix, SegmentationScores

PICTURES_FOLDER = "images"


class Chunk(NamedTuple):
    """Images that went through the backbone together.

    Attributes:
        number: place among the chunks of a batch, or of all images.
        features: [n, C, h, w] float32; None if no image could be read.
        labels: [n, H, W] uint8; None likewise.
        problems: files that could not be read.
    """

    number: int
    features: Tensor | None
    labels: Tensor | None
    problems: tuple[Problem, ...]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a run found out: scores, the files that could not be read with reasons, and pictures."""

    scores: SegmentationScores
    skipped_train: dict[str, str]
    skipped_val: dict[str, str]
    comparisons: tuple[Comparison, ...]


@dataclass(frozen=True, kw_only=True)
class LinearProbe:
    """A model, the data and the protocol; the fields are those of `LinearSegEvaluator`.

    Several processes share what goes through the backbone. The head, a small thing, is trained by
    the first process alone, on the features of whole batches.
    """

    model: EvalModel
    train: SegmentationImages
    val: SegmentationImages
    parameters: LinearSegParameters
    workers: int
    processes: Processes
    out: Path | None
    pictures: int
    shown: frozenset[int]
    checkpoint_seconds: float
    progress: Progress

    def run(self) -> Outcome:
        """Train, or go on training, and score; all processes get the same outcome.

        Raises:
            ValueError: no image could be used, or a checkpoint of another training.
            FolderError: a label map does not fit its image or the classes.
        """
        backbone = Backbone(self.model)
        problems = Skipped()
        head = self._trained_head(backbone, problems)
        return self._score(backbone, head, problems)

    def _trained_head(self, backbone: Backbone, problems: Skipped) -> nn.Module:
        p = self.parameters
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(p.seed)
            head = make_head(backbone.channels(), len(self.train.class_names))
        head.to(self.model.device)
        trainer = None
        if self.processes.is_first:
            checkpoint = self._checkpoint()
            trainer = HeadTrainer(head=head, parameters=p, checkpoint=checkpoint, problems=problems)
        first_step = self.processes.from_first(None if trainer is None else trainer.step)
        batches_of = self._kept if p.augmentation is None else self._augmented
        batches = batches_of(backbone, problems, first_step)
        if trainer is not None:
            trainer.train(batches, self.progress)
        else:
            for _ in batches:
                pass
        if self.processes.count > 1:
            weights = {name: value.cpu() for name, value in head.state_dict().items()}
            head.load_state_dict(self.processes.from_first(weights))
        return head.eval()

    def _checkpoint(self) -> HeadCheckpoint | None:
        if self.out is None:
            return None
        identity = {
            "model": self.model.name,
            "weights": self.model.fingerprint(),
            "image size": self.model.image_size,
            "train data": self.train.identity(),
            **dataclasses.asdict(self.parameters),
        }
        return HeadCheckpoint(
            path=self.out / CHECKPOINT_FILE,
            identity=identity,
            seconds=self.checkpoint_seconds,
        )

    def _augmented(
        self, backbone: Backbone, problems: Skipped, first_step: int
    ) -> Iterator[TrainBatch]:
        """Batches of random crops; nothing at the processes that are not the first."""
        p = self.parameters
        chunks = self.processes.share(range(len(chunk_bounds(p.batch_size, p.images_per_forward))))
        reader = SampleReader(self.train, AugmentTransform(p), replace=True)
        keys = train_keys(len(self.train), p, first_step, chunks)
        samples = sample_loader(reader, keys, self.workers)
        for _ in range(first_step, p.iterations):
            own = [self._chunk(backbone, number, next(samples)) for number in chunks]
            shares = self.processes.gather(own)
            if self.processes.is_first:
                features, labels = self._merged(shares, problems)
                yield TrainBatch(features.to(self.model.device), labels.to(self.model.device))

    def _kept(self, backbone: Backbone, problems: Skipped, first_step: int) -> Iterator[TrainBatch]:
        """Batches of features that are computed once, of images seen whole."""
        p = self.parameters
        if first_step == p.iterations:
            return
        bounds = chunk_bounds(len(self.train), p.images_per_forward)
        numbers = self.processes.share(range(len(bounds)))
        reader = SampleReader(self.train, WholeTransform.of(p, self.model), replace=False)
        keys = ([Key(i, i) for i in range(*bounds[number])] for number in numbers)
        own = []
        for done, samples in enumerate(sample_loader(reader, keys, self.workers), start=1):
            own.append(self._chunk(backbone, numbers[done - 1], samples))
            self.progress("linear-seg train images", done, len(numbers))
        shares = self.processes.gather(own)
        if not self.processes.is_first:
            return
        features, labels = self._merged(shares, problems)
        order = image_order(len(features), p.seed)
        for _ in range(first_step * p.batch_size):
            next(order)
        for _ in range(first_step, p.iterations):
            places = torch.tensor([next(order) for _ in range(p.batch_size)])
            device = self.model.device
            yield TrainBatch(features[places].to(device), labels[places].to(device))

    def _chunk(self, backbone: Backbone, number: int, samples: Sequence[Sample]) -> Chunk:
        """The features of samples; on the CPU where they are kept or sent."""
        p = self.parameters
        problems = tuple(problem for sample in samples for problem in sample.problems)
        pairs = [sample.pair for sample in samples if sample.pair is not None]
        if not pairs:
            return Chunk(number, None, None, problems)
        stride = slice(p.label_stride // 2, None, p.label_stride)
        features = backbone.features(_joined([image[None] for image, _ in pairs]))
        targets = _joined([label[None] for _, label in pairs])[:, stride, stride]
        if p.augmentation is None or self.processes.count > 1:
            features = features.cpu()
        return Chunk(number, features, targets, problems)

    def _merged(self, shares: Sequence[Sequence[Chunk]], problems: Skipped) -> TrainBatch:
        """The chunks of all processes in order.

        Raises:
            ValueError: no image could be read.
        """
        chunks = sorted((chunk for share in shares for chunk in share), key=lambda c: c.number)
        for chunk in chunks:
            for path, reason in chunk.problems:
                problems.add(path, reason)
        features = [chunk.features for chunk in chunks if chunk.features is not None]
        labels = [chunk.labels for chunk in chunks if chunk.labels is not None]
        if not features:
            raise _nothing_readable("train", problems)
        return TrainBatch(_joined(features), _joined(labels))

    @torch.no_grad()
    def _score(self, backbone: Backbone, head: nn.Module, skipped_train: Skipped) -> Outcome:
        """Scores of the val images, every process its share of them."""
        p = self.parameters
        confusion = ConfusionMatrix(len(self.val.class_names), p.ignore_index)
        skipped = Skipped()
        comparisons: list[Comparison] = []
        numbers = self.processes.share(range(len(self.val)))
        reader = SampleReader(self.val, WholeTransform.of(p, self.model), replace=False)
        keys = ([Key(number, number)] for number in numbers)
        for done, [sample] in enumerate(sample_loader(reader, keys, self.workers), start=1):
            for path, reason in sample.problems:
                skipped.add(path, reason)
            if sample.pair is not None:
                image, label = sample.pair
                prediction = self._predict(backbone, head, image, label).cpu()
                confusion.update(prediction, label)
                if sample.index < self.pictures:
                    self._draw(sample.index, image, label, prediction)
                if sample.index in self.shown:
                    pixels = _pixels(image)
                    comparisons.append(compare(sample.index, pixels, label, prediction))
            self.progress("linear-seg val images", done, len(numbers))
        shares = self.processes.gather((confusion.counts, skipped.reasons, comparisons))
        outcome = self._outcome(confusion, shares, skipped_train) if shares else None
        return self.processes.from_first(outcome)

    def _predict(self, backbone: Backbone, head: nn.Module, image: Tensor, label: Tensor) -> Tensor:
        """Classes [H, W] of an image at the size of its label map."""
        p = self.parameters
        if p.inference == "whole":
            logits = backbone.logits(head, image[None])[0]
        else:
            assert p.crop is not None
            assert p.stride is not None
            logits = slide_logits(
                lambda windows: backbone.logits(head, windows),
                image.to(self.model.device),
                crop=p.crop,
                stride=p.stride,
                windows_per_call=p.images_per_forward,
            )
        return predict_labels(logits, (label.shape[0], label.shape[1]))

    def _draw(self, index: int, image: Tensor, label: Tensor, prediction: Tensor) -> None:
        assert self.out is not None
        folder = self.out / PICTURES_FOLDER
        name = f"{index:04d}_{self.val.images.paths[index].stem}.png"
        save_comparison(folder / name, _pixels(image), label, prediction)
        if index == 0:
            save_legend(folder / "legend.png", self.val.class_names)

    def _outcome(
        self,
        confusion: ConfusionMatrix,
        shares: Sequence[tuple[Tensor, dict[str, str], list[Comparison]]],
        skipped_train: Skipped,
    ) -> Outcome:
        skipped = Skipped()
        for _, reasons, _ in shares:
            skipped.reasons.update(reasons)
        if len(skipped) >= len(self.val):
            raise _nothing_readable("val", skipped)
        confusion.counts = torch.stack([counts for counts, *_ in shares]).sum(dim=0)
        return Outcome(
            scores=confusion.scores(),
            skipped_train=skipped_train.reasons,
            skipped_val=skipped.reasons,
            comparisons=tuple(c for *_, comparisons in shares for c in comparisons),
        )


def _pixels(image: Tensor) -> Tensor:
    """An image as samples have it -> [3, h, w] uint8."""
    return (to_unit(image) * 255).round().to(torch.uint8)


def _nothing_readable(split: str, problems: Skipped) -> ValueError:
    path, reason = next(iter(problems.reasons.items()))
    return ValueError(f"none of the {split} images can be used; {path}: {reason}")


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """[n, ...] each -> [sum of n, ...], or what to do where they differ in shape."""
    if len({part.shape[1:] for part in parts}) > 1:
        raise ValueError(
            "features are kept for images of one size, but these have several; use the protocol "
            "mmseg, which takes any"
        )
    return torch.cat(list(parts))
