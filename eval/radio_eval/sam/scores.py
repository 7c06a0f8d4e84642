"""Scores of masks against masks: IoU, its mean over annotations, and COCO's three sizes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]

SMALL = 32**2
LARGE = 96**2


@dataclass(frozen=True, kw_only=True)
class AnnotationScore:
    """IoU of one annotation.

    Attributes:
        area: the annotation's `area` field, square pixels.
        iou: percent.
        annotation_id: COCO's id, where there is one.
    """

    area: float
    iou: float
    annotation_id: int | None = None


def mask_iou(prediction: Mask, truth: Mask) -> float:
    """Intersection over union of two masks [H, W] in percent; 0 when both are empty.

    Raises:
        ValueError: the masks differ in size.
    """
    if prediction.shape != truth.shape:
        raise ValueError(f"masks differ in size: {prediction.shape} and {truth.shape}")
    pred, true = prediction.astype(bool), truth.astype(bool)
    union = int(np.logical_or(pred, true).sum())
    return 100.0 * int(np.logical_and(pred, true).sum()) / union if union else 0.0


def summarise(scores: Sequence[AnnotationScore]) -> dict[str, float | None]:
    """Mean IoU over annotations: all, small, medium and large ones, and their count.

    Sizes go by the annotation's area, limits inclusive on both sides (an object of exactly 1024
    square pixels counts as small and as medium). An empty group is None.
    """
    groups: Mapping[str, list[float]] = {
        "all": [s.iou for s in scores],
        "small": [s.iou for s in scores if s.area <= SMALL],
        "medium": [s.iou for s in scores if SMALL <= s.area <= LARGE],
        "large": [s.iou for s in scores if s.area >= LARGE],
    }
    means = {name: sum(ious) / len(ious) if ious else None for name, ious in groups.items()}
    return {**means, "count": float(len(scores))}


def best_mask(predicted_ious: Sequence[float]) -> int:
    """Which of the proposed masks is kept: the one whose predicted IoU is highest."""
    return int(np.argmax(np.asarray(predicted_ious)))


def box_mask(box: Sequence[float], height: int, width: int) -> Mask:
    """The filled box as a mask [height, width].

    Args:
        box: x0, y0, x1, y1 in pixels; edges are rounded to whole pixels.
        height: of the image.
        width: of the image.
    """
    x0, y0, x1, y1 = (max(0, round(edge)) for edge in box)
    mask = np.zeros((height, width), dtype=bool)
    mask[y0:y1, x0:x1] = True
    return mask
