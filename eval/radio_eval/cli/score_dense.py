"""Score masks and label maps: radio score {sam-miou,coco-segm,seg-miou}."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from radio_core.data.folder import FolderError
from radio_core.data.images import printable
from radio_core.progress import rich_progress
from radio_eval.data.coco import CocoAnnotations, read_predictions, read_results
from radio_eval.data.coco_masks import decode_mask
from radio_eval.data.segmentation import IGNORED, pair_label_maps, read_label_map
from radio_eval.scores.masks import mask_ap, mask_iou, mean_iou
from radio_eval.scores.segmentation import ConfusionMatrix

_MOST_CLASSES = 4096
"""Every pair of classes is counted."""


@dataclass(frozen=True, kw_only=True)
class MaskScoreOptions:
    """What every score of masks takes."""

    annotations: Path
    """The truth: an instances_*.json in COCO's format."""
    predictions: Path
    """What is scored."""
    json: Path | None = None
    """File for the scores."""

    def read_annotations(self) -> CocoAnnotations:
        """The truth; annotations that cannot be used are counted on stderr."""
        annotations = CocoAnnotations(self.annotations)
        for what, skipped in (
            ("images", annotations.skipped_records),
            ("annotations", annotations.skipped),
        ):
            if skipped:
                account = skipped.to_json()
                reasons = ", ".join(f"{n} {why}" for why, n in account["reasons"].items())
                print(f"skipped {account['count']} broken {what}: {reasons}", file=sys.stderr)
        if annotations.skipped and not annotations.instances_of:
            raise FolderError(f"{printable(self.annotations)} has no annotation that can be used")
        return annotations


@dataclass(frozen=True, kw_only=True)
class SamMiouOptions(MaskScoreOptions):
    """Mean IoU (percent) over annotations, crowds included, as in the evaluation of SAM on COCO.

    Predictions: a JSON list of {"annotation_id", "segmentation": RLE}, compressed or not. Sizes go
    by the annotation's area: up to 32 x 32 small, from 96 x 96 large, limits inclusive on both
    sides.
    """

    missing: Literal["error", "skip", "zero"] = "error"
    """An annotation without a prediction is an error, does not count, or has an IoU of 0."""

    def scores(self) -> Mapping[str, float | int | None]:
        """Keys: all, small, medium, large (None for an empty group) and count."""
        annotations = self.read_annotations()
        predictions = read_predictions(self.predictions, annotations)
        instances = annotations.by_id()
        missing = [number for number in instances if number not in predictions]
        if missing and self.missing == "error":
            raise FolderError(
                f"{len(missing)} of {len(instances)} annotations have no prediction (the first: "
                f"{missing[0]}); --missing skip leaves them out, --missing zero counts them as 0"
            )
        scores: list[tuple[float, float]] = []
        with rich_progress() as progress:
            for done, (number, instance) in enumerate(instances.items(), start=1):
                if number in predictions:
                    iou = mask_iou(decode_mask(predictions[number]), instance.mask)
                    scores.append((instance.area, iou))
                elif self.missing == "zero":
                    scores.append((instance.area, 0.0))
                progress("masks", done, len(instances))
        return {**mean_iou(scores), "count": len(scores)}


@dataclass(frozen=True, kw_only=True)
class CocoSegmOptions(MaskScoreOptions):
    """COCO's average precision and recall of masks (fractions; -1: nothing to find).

    Predictions: a JSON list of {"image_id", "category_id", "segmentation": RLE, "score"}. A "bbox"
    is not looked at, so that areas come from the masks.
    """

    def scores(self) -> Mapping[str, float | int | None]:
        """COCO's twelve numbers."""
        annotations = self.read_annotations()
        results = read_results(self.predictions, annotations)
        return mask_ap(annotations.to_json(), results, annotations.records)


@dataclass(frozen=True, kw_only=True)
class SegMiouOptions:
    """Semantic segmentation as mmseg scores it (percent): files are paired by their stems.

    Both folders hold PNGs with one channel (8 or 16 bits, or a palette), whose pixel values are
    class numbers. Where the label is ignored, the prediction may hold anything.
    """

    predictions: Path
    """Folder of predicted label maps, with classes from 0 on."""
    labels: Path
    """Folder of true label maps."""
    num_classes: int
    """Number of classes, after the shift if there is one."""
    ignore_index: int = IGNORED
    """Label of the pixels that count nowhere, as it is stored."""
    reduce_zero_label: bool = False
    """Shift the labels, not the predictions: 0 is ignored, 1 becomes class 0 (ADE20K)."""
    json: Path | None = None
    """File for the scores."""

    def scores(self) -> dict[str, Any]:
        """Keys: mIoU, aAcc, mAcc, IoU_per_class (None for a class that is nowhere)."""
        if not 1 <= self.num_classes <= _MOST_CLASSES:
            raise ValueError(f"num_classes {self.num_classes} must be from 1 to {_MOST_CLASSES}")
        confusion = ConfusionMatrix(self.num_classes, self.ignore_index)
        pairs = pair_label_maps(self.predictions, self.labels)
        with rich_progress() as progress:
            for done, (prediction, label) in enumerate(pairs, start=1):
                predicted, truth = read_label_map(prediction), read_label_map(label)
                ignored = truth == self.ignore_index
                if self.reduce_zero_label:
                    ignored, truth = ignored | (truth == 0), truth - 1
                try:
                    confusion.update(predicted, truth, ignored)
                except ValueError as error:
                    raise FolderError(f"{prediction} against {label}: {error}") from error
                progress("label maps", done, len(pairs))
        found = confusion.scores()
        return {
            "mIoU": found.miou,
            "aAcc": found.pixel_accuracy,
            "mAcc": found.class_accuracy,
            "IoU_per_class": list(found.iou_per_class),
        }
