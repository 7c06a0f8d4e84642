"""Score label maps against label maps: radio score seg-miou."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from radio_eval.progress import rich_progress
from radio_eval.segmentation.files import score_label_maps


@dataclass(frozen=True, kw_only=True)
class SegMiouOptions:
    """Semantic segmentation as mmseg scores it (percent): files are paired by their stems.

    Both folders hold PNGs with one channel, whose pixel values are class numbers.
    """

    predictions: Path
    """Folder of predicted label maps, with classes from 0 on."""
    labels: Path
    """Folder of true label maps."""
    num_classes: int
    """Number of classes, after the shift if there is one."""
    ignore_index: int = 255
    """Label of the pixels that count nowhere."""
    reduce_zero_label: bool = False
    """Shift the labels, not the predictions: 0 is ignored, 1 becomes class 0 (ADE20K)."""
    json: Path | None = None
    """File for the scores."""

    def scores(self) -> dict[str, Any]:
        """Keys: mIoU, aAcc, mAcc, IoU_per_class (None for a class that is nowhere)."""
        with rich_progress(Console(stderr=True)) as progress:
            scores = score_label_maps(
                self.predictions,
                self.labels,
                self.num_classes,
                ignore_index=self.ignore_index,
                reduce_zero_label=self.reduce_zero_label,
                progress=progress,
            )
        return {
            "mIoU": scores.miou,
            "aAcc": scores.pixel_accuracy,
            "mAcc": scores.class_accuracy,
            "IoU_per_class": list(scores.iou_per_class),
        }
