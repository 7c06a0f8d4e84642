"""Sections of the report on Segment Anything on COCO."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from radio_core.data.images import UnreadableImage, printable
from radio_eval.coco.instances import CocoInstances
from radio_eval.report.html import Gallery, PictureRow
from radio_eval.report.pictures import overlay
from radio_eval.report.sections import Bar, Bars, Section
from radio_eval.report.thumbnails import thumbnail
from radio_eval.sam.miou import SamEvaluator, box_masks
from radio_eval.sam.scores import LARGE, SMALL, mask_iou
from radio_sam.prompts import encode_images

if TYPE_CHECKING:
    from segment_anything.modeling import Sam

IMAGES = 6
"""Images that are shown."""
_SIDE = 320
_SIZES = {
    "all": "",
    "small": f"up to {SMALL} square pixels",
    "medium": f"{SMALL} to {LARGE} square pixels",
    "large": f"from {LARGE} square pixels",
}


def sam_sections(
    evaluator: SamEvaluator, sam: "Sam", metrics: Mapping[str, float]
) -> list[Section]:
    """Images with true masks and the model's, and the IoU by size.

    Args:
        evaluator: after its call.
        sam: the model that was evaluated; it segments the shown images once more.
        metrics: of the evaluation.
    """
    return [_mask_gallery(evaluator, sam), _size_bars(metrics)]


def _size_bars(metrics: Mapping[str, float]) -> Bars:
    return Bars(
        title="IoU by size",
        text="Mean over annotations, in percent. The size is the annotation's area.",
        bars=tuple(
            Bar(name=name, value=metrics.get(name), note=note) for name, note in _SIZES.items()
        ),
    )


def _mask_gallery(evaluator: SamEvaluator, sam: "Sam") -> Gallery:
    coco, rows = evaluator.coco, []
    usable = [i for i in coco.image_ids if str(i) not in evaluator.skipped_images.reasons]
    places = sorted({place * len(usable) // IMAGES for place in range(IMAGES)}) if usable else ()
    at_once = evaluator.parameters.prompts_per_batch
    for image_id in (usable[place] for place in places):
        try:
            image = coco.image(image_id)
        except UnreadableImage:
            continue
        rows.append(_row(coco, image_id, image, sam, at_once))
    return Gallery(
        title="Masks",
        text=f"{len(rows)} of {len(coco.image_ids)} images, at equal distances in the order of "
        "their ids. Each object's true box was the prompt; its two masks have the same colour.",
        headings=("image", "truth", "mask from the box"),
        rows=tuple(rows),
    )


@torch.no_grad()
def _row(
    coco: CocoInstances, image_id: int, image: np.ndarray, sam: "Sam", at_once: int
) -> PictureRow:
    instances = coco.instances(image_id)
    [encoded] = encode_images(sam, [image])
    boxes = [instance.box for instance in instances]
    masks = [mask for mask, _ in box_masks(sam, encoded, boxes, at_once)]
    truths = [instance.mask for instance in instances]
    ious = [mask_iou(mask, truth) for mask, truth in zip(masks, truths, strict=True)]
    name = printable(coco.records[image_id].file_name)
    pictures = (image, overlay(image, truths), overlay(image, masks))
    objects = "1 object" if len(ious) == 1 else f"{len(ious)} objects"
    return PictureRow(
        label=f"{name} · {objects}" + (f" · mean IoU {np.mean(ious):.0f}" if ious else ""),
        pictures=tuple(thumbnail(Image.fromarray(picture), _SIDE) for picture in pictures),
    )
