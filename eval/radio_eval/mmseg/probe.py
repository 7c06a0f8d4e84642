"""One run of the linear probe: batches of features, the head's training, and its scores."""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from radio_core.processes import Processes
from radio_core.progress import Progress
from radio_core.vision import VisionModel
from radio_eval.data.preprocess import Preprocess
from radio_eval.data.segmentation import SegmentationImages
from radio_eval.mmseg.head import (
    CHECKPOINT_FILE,
    HeadTrainer,
    TrainBatch,
    make_head,
)
from radio_eval.mmseg.inference import Backbone, predict_labels, slide_logits
from radio_eval.mmseg.pictures import Comparison, compare, save_comparison, save_legend
from radio_eval.mmseg.protocol import LinearSegParameters
from radio_eval.mmseg.samples import (
    Key,
    Problem,
    Sample,
    SampleReader,
    Transform,
    chunk_bounds,
    image_order,
    random_crop,
    sample_loader,
    to_unit,
    train_keys,
    whole_image,
)
from radio_eval.results import Skipped
from radio_eval.scores.segmentation import ConfusionMatrix, SegmentationScores

PICTURES_FOLDER = "images"


class Chunk(NamedTuple):
    """Images that went through the backbone together, and the files that could not be read."""

    number: int  # place among the chunks of a batch, or of all images
    batch: TrainBatch | None  # None if no image could be read
    problems: tuple[Problem, ...]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a run found out: scores, the files that could not be read with reasons, and pictures."""

    scores: SegmentationScores
    skipped_train: Skipped
    skipped_val: Skipped
    comparisons: tuple[Comparison, ...]


@dataclass(frozen=True, kw_only=True)
class LinearProbe:
    """A linear head on a frozen model's features.

    Several processes share what goes through the backbone. The head, a small thing, is trained by
    the first process alone, on the features of whole batches.

    Attributes:
        preprocess: brings images to the model's size where the protocol names no scale.
        parameters: the protocol, fitted to the model.
        processes: all of them must call `run`.
        out: folder for the checkpoint of the head, which continues an interrupted training, and
            for pictures; None keeps nothing. One folder for one model.
        pictures: so many val images go to `out` with their labels and predictions.
        shown: numbers of val images whose comparisons are wanted.
    """

    model: VisionModel
    preprocess: Preprocess
    train: SegmentationImages
    val: SegmentationImages
    parameters: LinearSegParameters
    processes: Processes
    progress: Progress
    workers: int = 0
    out: Path | None = None
    pictures: int = 0
    shown: frozenset[int] = frozenset()
    overwrite: bool = False

    def run(self) -> Outcome:
        """Train, or go on training, and score; all processes get the same outcome.

        Raises:
            ValueError: no image could be used, or a checkpoint of another training.
            FolderError: a label map does not fit its image or the classes.
        """
        backbone, problems, p = Backbone(self.model), Skipped(), self.parameters
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(p.seed)
            head = make_head(self.model.spec.feature_dim, len(self.train.class_names))
        head.to(self.model.device)
        trainer = self._trainer(head, problems) if self.processes.first else None
        first_step = self.processes.broadcast(None if trainer is None else trainer.step)
        batches_of = self._kept if p.augmentation is None else self._augmented
        batches = batches_of(backbone, problems, first_step)
        if trainer is not None:
            trainer.train(batches, self.progress)
        else:
            for _ in batches:
                pass
        if self.processes.size > 1:
            weights = {name: value.cpu() for name, value in head.state_dict().items()}
            head.load_state_dict(self.processes.broadcast(weights))
        return self._score(backbone, head.eval(), problems)

    def _trainer(self, head: nn.Module, problems: Skipped) -> HeadTrainer:
        if self.out is None:
            return HeadTrainer(head, self.parameters, problems)
        file = self.out / CHECKPOINT_FILE
        if self.overwrite:
            file.unlink(missing_ok=True)
        identity = {
            "model": self.model.spec.name,
            "weights": self.model.fingerprint(),
            "image size": self.preprocess.size,
            "train data": self.train.identity(),
            **dataclasses.asdict(self.parameters),
        }
        return HeadTrainer(head, self.parameters, problems, file, identity)

    def _augmented(
        self, backbone: Backbone, problems: Skipped, first_step: int
    ) -> Iterator[TrainBatch]:
        """Batches of random crops; nothing at the processes that are not the first."""
        p = self.parameters
        chunks = self.processes.share(range(len(chunk_bounds(p.batch_size, p.images_per_forward))))
        reader = SampleReader(self.train, partial(random_crop, p), replace=True)
        keys = train_keys(len(self.train), p, first_step, chunks)
        samples = sample_loader(reader, keys, self.workers)
        for _ in range(first_step, p.iterations):
            own = [self._chunk(backbone, number, next(samples)) for number in chunks]
            shares = self.processes.gather(own, patient=True, first_only=True)
            if self.processes.first:
                features, labels = self._merged(shares, problems)
                yield TrainBatch(features.to(self.model.device), labels.to(self.model.device))

    def _kept(self, backbone: Backbone, problems: Skipped, first_step: int) -> Iterator[TrainBatch]:
        """Batches of features that are computed once, of images seen whole."""
        p = self.parameters
        if first_step == p.iterations:
            return
        bounds = chunk_bounds(len(self.train), p.images_per_forward)
        numbers = self.processes.share(range(len(bounds)))
        reader = SampleReader(self.train, self._whole(), replace=False)
        keys = ([Key(i, i) for i in range(*bounds[number])] for number in numbers)
        own = []
        for done, samples in enumerate(sample_loader(reader, keys, self.workers), start=1):
            own.append(self._chunk(backbone, numbers[done - 1], samples))
            self.progress("linear-seg train images", done, len(numbers))
        shares = self.processes.gather(own, patient=True, first_only=True)
        if not self.processes.first:
            return
        features, labels = self._merged(shares, problems)
        order = image_order(len(features), p.seed)
        for _ in range(first_step * p.batch_size):
            next(order)
        for _ in range(first_step, p.iterations):
            places = torch.tensor([next(order) for _ in range(p.batch_size)])
            device = self.model.device
            yield TrainBatch(features[places].to(device), labels[places].to(device))

    def _whole(self) -> Transform:
        return partial(whole_image, self.parameters.scale, self.preprocess)

    def _chunk(self, backbone: Backbone, number: int, samples: Sequence[Sample]) -> Chunk:
        """The features of samples; on the CPU where they are kept or sent."""
        p = self.parameters
        problems = tuple(problem for sample in samples for problem in sample.problems)
        pairs = [sample.pair for sample in samples if sample.pair is not None]
        if not pairs:
            return Chunk(number, None, problems)
        stride = slice(p.label_stride // 2, None, p.label_stride)
        features = backbone.features(_joined([image[None] for image, _ in pairs]))
        targets = _joined([label[None] for _, label in pairs])[:, stride, stride]
        if p.augmentation is None or self.processes.size > 1:
            features = features.cpu()
        return Chunk(number, TrainBatch(features, targets), problems)

    def _merged(self, shares: Sequence[Sequence[Chunk]], problems: Skipped) -> TrainBatch:
        """The chunks of all processes in order.

        Raises:
            ValueError: no image could be read.
        """
        chunks = sorted((chunk for share in shares for chunk in share), key=lambda c: c.number)
        for chunk in chunks:
            for path, reason in chunk.problems:
                problems.add(path, reason)
        batches = [chunk.batch for chunk in chunks if chunk.batch is not None]
        if not batches:
            raise _nothing_readable("train", problems)
        return TrainBatch(*(_joined(parts) for parts in zip(*batches, strict=True)))

    @torch.no_grad()
    def _score(self, backbone: Backbone, head: nn.Module, skipped_train: Skipped) -> Outcome:
        """Scores of the val images, every process its share of them."""
        p = self.parameters
        confusion = ConfusionMatrix(len(self.val.class_names), p.ignore_index)
        own_skipped: dict[str, str] = {}
        comparisons: list[Comparison] = []
        numbers = self.processes.share(range(len(self.val)))
        reader = SampleReader(self.val, self._whole(), replace=False)
        keys = ([Key(number, number)] for number in numbers)
        for done, [sample] in enumerate(sample_loader(reader, keys, self.workers), start=1):
            own_skipped.update(sample.problems)
            if sample.pair is not None:
                image, label = sample.pair
                prediction = self._predict(backbone, head, image, label).cpu()
                confusion.update(prediction, label)
                pixels = (to_unit(image) * 255).round().to(torch.uint8)
                if sample.index < self.pictures:
                    assert self.out is not None
                    folder = self.out / PICTURES_FOLDER
                    name = f"{sample.index:04d}_{self.val.images[sample.index].stem}.png"
                    save_comparison(folder / name, pixels, label, prediction)
                    if sample.index == 0:
                        save_legend(folder / "legend.png", self.val.class_names)
                if sample.index in self.shown:
                    comparisons.append(compare(sample.index, pixels, label, prediction))
            self.progress("linear-seg val images", done, len(numbers))
        shares = self.processes.gather((confusion.counts, own_skipped, comparisons), patient=True)
        skipped = Skipped({path: why for _, found, _ in shares for path, why in found.items()})
        if len(skipped) >= len(self.val):
            raise _nothing_readable("val", skipped)
        confusion.counts = torch.stack([counts for counts, *_ in shares]).sum(dim=0)
        found = [comparison for *_, comparisons in shares for comparison in comparisons]
        return Outcome(
            scores=confusion.scores(),
            skipped_train=self.processes.broadcast(skipped_train),
            skipped_val=skipped,
            comparisons=tuple(sorted(found, key=lambda comparison: comparison.place)),
        )

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
