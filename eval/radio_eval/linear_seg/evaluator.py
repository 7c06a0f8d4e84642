"""Semantic segmentation with a linear head on frozen features (mmseg's linear probe)."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from radio_eval.coco.annotations import Skipped
from radio_eval.eval_model import EvalModel
from radio_eval.linear_seg.pictures import Comparison
from radio_eval.linear_seg.probe import LinearProbe
from radio_eval.linear_seg.protocol import LinearSegParameters
from radio_eval.linear_seg.train import CHECKPOINT_SECONDS
from radio_eval.processes import Processes
from radio_eval.progress import Progress
from radio_eval.segmentation.data import SegmentationImages


@dataclass(frozen=True, kw_only=True)
class LinearSegEvaluator:
    """Linear-probe mIoU (percent) of a model's spatial features.

    Attributes:
        train: images that the head learns from.
        val: images that it is scored on.
        parameters: the protocol; crop and stride are fitted to each model (see
            `LinearSegParameters.fitted`) and yielded among the metrics.
        workers: processes that read and augment images; 0 does it in this one.
        processes: those that share the work; all must call, and the result is the same.
        out: folder for the checkpoint of the head, which continues an interrupted training, and
            for pictures; None keeps nothing. One folder for one model.
        pictures: of so many val images, a picture of image, labels and prediction goes to `out`.
        shown: numbers of val images whose `comparisons` are wanted.
        checkpoint_seconds: time between two checkpoints.
        skipped_train: after a call, the train files that could not be read.
        skipped_val: the same of the val files.
        class_iou: after a call, IoU of every class (percent); None for one that is nowhere.
        comparisons: after a call, those of the images in `shown` that could be read.
    """

    train: SegmentationImages
    val: SegmentationImages
    parameters: LinearSegParameters = field(default_factory=LinearSegParameters)
    workers: int = 0
    processes: Processes = field(default_factory=Processes)
    out: Path | None = None
    pictures: int = 0
    shown: frozenset[int] = frozenset()
    checkpoint_seconds: float = CHECKPOINT_SECONDS
    skipped_train: Skipped = field(default_factory=Skipped)
    skipped_val: Skipped = field(default_factory=Skipped)
    class_iou: dict[str, float | None] = field(default_factory=dict)
    comparisons: list[Comparison] = field(default_factory=list)
    task: ClassVar[str] = "linear_seg"
    headline: ClassVar[str] = "miou"
    capability: ClassVar[str] = "features"

    def __post_init__(self) -> None:
        if self.train.class_names != self.val.class_names:
            raise ValueError("train and val images of linear-seg must have the same classes")
        if self.pictures and self.out is None:
            raise ValueError("pictures of linear-seg need the folder `out`")
        if self.workers < 0 or self.pictures < 0:
            raise ValueError("linear-seg workers and pictures must not be negative")

    def __call__(self, model: EvalModel, progress: Progress) -> Iterator[tuple[str, float]]:
        """Yield miou, pixel_accuracy, class_accuracy (percent), counts of images, and sizes.

        Raises:
            ValueError: no image could be used, or a checkpoint of another training.
            FolderError: a label map does not fit its image or the classes; the file is named.
        """
        p = self.parameters.fitted(model)
        probe = LinearProbe(
            model=model,
            train=self.train,
            val=self.val,
            parameters=p,
            workers=self.workers,
            processes=self.processes,
            out=self.out,
            pictures=self.pictures,
            shown=self.shown,
            checkpoint_seconds=self.checkpoint_seconds,
            progress=progress,
        )
        outcome = probe.run()
        for account, found in (
            (self.skipped_train, outcome.skipped_train),
            (self.skipped_val, outcome.skipped_val),
        ):
            account.reasons.clear()
            account.reasons.update(found)
        self.comparisons[:] = sorted(outcome.comparisons, key=lambda c: c.index)
        scores = outcome.scores
        self.class_iou.update(zip(self.train.class_names, scores.iou_per_class, strict=True))
        yield "miou", scores.miou
        yield "pixel_accuracy", scores.pixel_accuracy
        yield "class_accuracy", scores.class_accuracy
        yield "train_images", float(len(self.train) - len(self.skipped_train))
        yield "val_images", float(len(self.val) - len(self.skipped_val))
        yield "image_size", float(model.image_size if p.scale is None else min(p.scale))
        if p.crop is not None:
            yield "crop", float(p.crop)
        if p.stride is not None:
            yield "stride", float(p.stride)

    def skipped(self) -> dict[str, Any]:
        """What was left out, as JSON types: counts, reasons by kind, and each file."""
        return {
            "train images": self.skipped_train.to_json(),
            "val images": self.skipped_val.to_json(),
        }
