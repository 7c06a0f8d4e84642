"""COCO's average precision of masks, by pycocotools."""

import contextlib
import io
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from radio_core.data.folder import FolderError
from radio_core.data.images import printable
from radio_core.extras import require
from radio_eval.coco.annotations import (
    Box,
    CocoAnnotations,
    Skipped,
    pycocotools_coco,
    read_box,
    read_json,
)
from radio_eval.coco.masks import BrokenMask, Rle, is_number, read_segmentation

METRICS = (
    "AP",
    "AP50",
    "AP75",
    "APs",
    "APm",
    "APl",
    "AR1",
    "AR10",
    "AR100",
    "ARs",
    "ARm",
    "ARl",
)
"""COCO's twelve numbers, in pycocotools' order."""


@dataclass(frozen=True, kw_only=True)
class Detection:
    """One box of a detector.

    Attributes:
        place: in the file.
        image_id: of its image.
        category_id: the class it found.
        score: how sure it is; any finite number.
        box: x0, y0, x1, y1 in pixels.
    """

    place: int
    image_id: int
    category_id: int
    score: float
    box: Box


@dataclass(frozen=True, kw_only=True)
class ScoredMask:
    """One mask of a segmentation method, as COCO's results have it.

    Attributes:
        image_id: of its image.
        category_id: its class.
        score: how sure the method is.
        rle: the mask, at the image's own size.
    """

    image_id: int
    category_id: int
    score: float
    rle: Rle


def read_detections(path: Path, annotations: CocoAnnotations) -> tuple[list[Detection], Skipped]:
    """A detector's boxes: a JSON list of {image_id, category_id, bbox, score}, bbox xywh.

    Returns:
        The usable ones in the file's order, and an account of the others: of unknown images or
        classes, or without four finite numbers and a score.

    Raises:
        FolderError: the file is missing, has another format, or holds nothing usable.
    """
    usable: list[Detection] = []
    skipped = Skipped()
    for place, item in enumerate(read_list(path)):
        try:
            image_id, category_id, score = _labels(item, annotations)
            box = read_box(item.get("bbox"))
        except ValueError as error:
            skipped.add(place, str(error))
        else:
            usable.append(
                Detection(
                    place=place, image_id=image_id, category_id=category_id, score=score, box=box
                )
            )
    if not usable:
        reasons = ", ".join(f"{n} {why}" for why, n in skipped.to_json()["reasons"].items())
        raise FolderError(
            f"{printable(path)} has no detections that fit {printable(annotations.path)}"
            f" ({reasons or 'it is empty'}); is it of another split?"
        )
    return usable, skipped


def read_scored_masks(path: Path, annotations: CocoAnnotations) -> list[ScoredMask]:
    """COCO results with masks: a JSON list of {image_id, category_id, segmentation, score}.

    Their "bbox" is not looked at: areas come from the masks.

    Raises:
        FolderError: the file is missing or has another format; or anything in it is of an unknown
            image or class, has no score, or no mask of the image's size.
    """
    masks = []
    for place, item in enumerate(read_list(path)):
        try:
            image_id, category_id, score = _labels(item, annotations)
            record = annotations.records[image_id]
            rle = read_segmentation(item.get("segmentation"), record.height, record.width)
        except (ValueError, BrokenMask) as error:
            raise FolderError(f"{printable(path)}: prediction {place}: {error}") from error
        masks.append(ScoredMask(image_id=image_id, category_id=category_id, score=score, rle=rle))
    return masks


def read_list(path: Path) -> list[Any]:
    """The list in a JSON file.

    Raises:
        FolderError: the file is missing or holds something else.
    """
    content = read_json(path)
    if not isinstance(content, list):
        raise FolderError(f"{printable(path)} must hold a list, as COCO's results do")
    return content


def mask_ap(
    annotations: CocoAnnotations, image_ids: Collection[int], masks: Sequence[ScoredMask]
) -> dict[str, float]:
    """COCO's twelve numbers, fractions; -1 where there is nothing to find.

    Args:
        annotations: the truth.
        image_ids: the images that count.
        masks: what was found on them; masks of other images do not count.
    """
    evaluation = require("pycocotools.cocoeval", extra="eval")
    truth = pycocotools_coco(
        annotations.records,
        [
            {
                "id": i.annotation_id,
                "image_id": i.image_id,
                "category_id": i.category_id,
                "segmentation": i.rle,
                "area": i.area,
                "bbox": [i.box[0], i.box[1], i.box[2] - i.box[0], i.box[3] - i.box[1]],
                "iscrowd": int(i.is_crowd),
            }
            for i in annotations.by_id().values()
        ],
        annotations.categories,
    )
    with contextlib.redirect_stdout(io.StringIO()):
        found = _results(truth, annotations, masks)
        evaluator = evaluation.COCOeval(truth, found, "segm")
        evaluator.params.imgIds = sorted(image_ids)
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return dict(zip(METRICS, (float(value) for value in evaluator.stats), strict=True))


def _results(truth: Any, annotations: CocoAnnotations, masks: Sequence[ScoredMask]) -> Any:
    """`masks` behind pycocotools' loadRes, which cannot take none."""
    if not masks:
        return pycocotools_coco(annotations.records, [], annotations.categories)
    return truth.loadRes(
        [
            {
                "image_id": mask.image_id,
                "category_id": mask.category_id,
                "score": mask.score,
                "segmentation": dict(mask.rle),
            }
            for mask in masks
        ]
    )


def _labels(item: object, annotations: CocoAnnotations) -> tuple[int, int, float]:
    """Image, class and score of a result."""
    if not isinstance(item, Mapping):
        raise ValueError("no object with image_id, category_id and score")
    image_id, category_id, score = (item.get(n) for n in ("image_id", "category_id", "score"))
    if not isinstance(image_id, int) or image_id not in annotations.records:
        raise ValueError(f"unknown image: {image_id}")
    if not isinstance(category_id, int) or category_id not in annotations.category_ids:
        raise ValueError(f"unknown category: {category_id}")
    if not is_number(score):
        raise ValueError("no finite score")
    return image_id, category_id, float(score)
