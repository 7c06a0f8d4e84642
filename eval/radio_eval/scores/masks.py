"""Scores of masks against masks: IoU, its mean by COCO's three sizes, and COCO's AP."""

import contextlib
import io
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from radio_core.extras import require

Mask = NDArray[np.bool_]

SMALL, LARGE = 32**2, 96**2
"""Square pixels up to which an object is small, and from which it is large."""
AP_METRICS = (
    *("AP", "AP50", "AP75", "APs", "APm", "APl"),
    *("AR1", "AR10", "AR100", "ARs", "ARm", "ARl"),
)
"""COCO's twelve numbers, in pycocotools' order."""


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


def mean_iou(scores: Sequence[tuple[float, float]]) -> dict[str, float | None]:
    """Mean IoU over annotations: all, small, medium and large ones, and their count.

    Sizes go by the annotation's area, limits inclusive on both sides (an object of exactly 1024
    square pixels counts as small and as medium). An empty group is None.

    Args:
        scores: the annotation's `area` field in square pixels, and its IoU, of each.
    """
    groups: Mapping[str, list[float]] = {
        "all": [iou for _, iou in scores],
        "small": [iou for area, iou in scores if area <= SMALL],
        "medium": [iou for area, iou in scores if SMALL <= area <= LARGE],
        "large": [iou for area, iou in scores if area >= LARGE],
    }
    means = {name: sum(ious) / len(ious) if ious else None for name, ious in groups.items()}
    return {**means, "count": float(len(scores))}


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


def mask_ap(
    truth: Mapping[str, Sequence[Any]],
    results: Sequence[Mapping[str, Any]],
    image_ids: Collection[int],
) -> dict[str, float]:
    """COCO's twelve numbers by pycocotools, fractions; -1 where there is nothing to find.

    Args:
        truth: "images", "annotations" and "categories" as COCO's files have them, their masks as
            compressed run lengths.
        results: what was found: "image_id", "category_id", "score" and "segmentation" of each.
            Anything else, such as a "bbox", is not looked at, so that areas come from the masks.
        image_ids: the images that count.
    """
    names = ("image_id", "category_id", "score", "segmentation")
    given = [{name: result[name] for name in names} for result in results]
    with contextlib.redirect_stdout(io.StringIO()):
        known = _indexed(truth)
        # loadRes cannot take an empty list.
        found = known.loadRes(given) if given else _indexed({**truth, "annotations": []})
        evaluation = require("pycocotools.cocoeval", extra="eval").COCOeval(known, found, "segm")
        evaluation.params.imgIds = sorted(image_ids)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return dict(zip(AP_METRICS, (float(value) for value in evaluation.stats), strict=True))


def _indexed(content: Mapping[str, Sequence[Any]]) -> Any:
    coco = require("pycocotools.coco", extra="eval").COCO()
    coco.dataset = {"info": {}, **content}
    coco.createIndex()
    return coco
