"""Sections of the report on Segment Anything on COCO."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch

from radio_core.data.images import UnreadableImage, printable
from radio_eval.report.figures import bars_figure
from radio_eval.report.pictures import overlay, thumbnail
from radio_eval.report.sections import Card, Picture, Section
from radio_eval.sam.miou import SamEvaluator, box_masks
from radio_eval.sam.scores import LARGE, SMALL, mask_iou
from radio_sam.prompts import encode_images

if TYPE_CHECKING:
    from segment_anything.modeling import Sam

IMAGES = 6
"""Images that are shown."""
_SIDE = 320
_SIZES = {
    "all": "all",
    "small": f"small: up to {SMALL} square pixels",
    "medium": f"medium: {SMALL} to {LARGE} square pixels",
    "large": f"large: from {LARGE} square pixels",
}


@torch.no_grad()
def sam_sections(
    evaluator: SamEvaluator, sam: "Sam", metrics: Mapping[str, float]
) -> list[Section]:
    """Images with true masks and the model's, and the IoU by size.

    Args:
        evaluator: after its call.
        sam: the model that was evaluated; it segments the shown images once more.
        metrics: of the evaluation.
    """
    coco, cards = evaluator.coco, []
    usable = [i for i in coco.image_ids if str(i) not in evaluator.skipped_images.reasons]
    for place in sorted({place * len(usable) // IMAGES for place in range(IMAGES)}):
        if not usable:
            break
        try:
            image = coco.image(usable[place])
        except UnreadableImage:
            continue
        instances = coco.instances(usable[place])
        truths = [instance.mask for instance in instances]
        [encoded] = encode_images(sam, [image])
        found = box_masks(
            sam, encoded, [each.box for each in instances], evaluator.parameters.prompts_per_batch
        )
        masks = [mask for mask, _ in found]
        ious = [mask_iou(mask, truth) for mask, truth in zip(masks, truths, strict=True)]
        objects = "1 object" if len(ious) == 1 else f"{len(ious)} objects"
        mean = f" · mean IoU {np.mean(ious):.0f}" if ious else ""
        cards.append(
            Card(
                title=f"{printable(coco.records[usable[place]].file_name)} · {objects}{mean}",
                pictures=[
                    Picture(thumbnail(image, _SIDE), "image"),
                    Picture(thumbnail(overlay(image, truths), _SIDE), "truth"),
                    Picture(thumbnail(overlay(image, masks), _SIDE), "mask from the box"),
                ],
            )
        )
    return [
        Section(
            title="Masks",
            text=f"{len(cards)} of {len(coco.image_ids)} images, at equal distances in the order "
            "of their ids. Each object's true box was the prompt; its two masks have the same "
            "colour.",
            cards=cards,
        ),
        Section(
            title="IoU by size",
            text="Mean over annotations, in percent. The size is the annotation's area.",
            figures=[bars_figure([(words, metrics.get(name)) for name, words in _SIZES.items()])],
        ),
    ]
