"""Pictures for the report: features as colours, and masks over images."""

import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from radio_core.data.images import UnreadableImage
from radio_core.data.sources import ImageSource
from radio_core.pictures import pca_rgb
from radio_eval.coco.decode import decoded_batches
from radio_eval.coco.instances import CocoInstances
from radio_eval.data import prepare
from radio_eval.eval_model import EvalModel
from radio_eval.report.html import Gallery, Picture, PictureRow
from radio_eval.sam.miou import box_masks
from radio_eval.sam.scores import Mask
from radio_sam.prompts import encode_images

if TYPE_CHECKING:
    from segment_anything.modeling import Sam

_COLOURS = np.array(
    [(255, 99, 71), (65, 145, 255), (60, 200, 110), (250, 190, 40), (190, 110, 240), (40, 210, 210)]
)
_OPACITY = 0.6


@torch.no_grad()
def feature_gallery(
    models: Sequence[EvalModel], images: ImageSource, count: int = 6, side: int = 112
) -> Gallery:
    """The same images through every model that has features, as in the paper's Figure 1.

    Args:
        models: the models; one row each.
        images: the first readable ones are taken.
        count: number of images.
        side: of the square pictures in pixels.
    """
    chosen: list[Image.Image] = []
    for index in range(len(images)):
        if len(chosen) < count:
            with contextlib.suppress(UnreadableImage):
                chosen.append(images.read(index))
    if not chosen:
        raise ValueError("none of the images could be read")
    shown = [np.asarray(i.resize((side, side), Image.Resampling.LANCZOS)) for i in chosen]
    rows = [PictureRow(label="image", pictures=tuple(shown))]
    for model in models:
        if model.features is not None:
            tensors = [prepare(image, model, whole=True)[None] for image in chosen]
            maps = torch.cat([model.features(tensor) for tensor in tensors])
            pictures = tuple(pca_rgb(maps, (side, side)))
            rows.append(PictureRow(label=model.name, pictures=pictures))
    return Gallery(
        title="What the models see",
        text="The first three principal components of each model's features, as red, green and "
        "blue. Within a row equal colours mean equal features; rows are independent.",
        rows=tuple(rows),
    )


def mask_gallery(sams: Sequence[tuple[str, "Sam"]], coco: CocoInstances, count: int = 6) -> Gallery:
    """Masks that Segment Anything finds from ground-truth boxes, beside the true ones.

    Args:
        sams: (label, model) of each row.
        coco: the first readable images are taken.
        count: number of images.
    """
    [images] = decoded_batches(coco, [coco.image_ids[:count]])
    pairs = [(i, image) for i, image in images.items() if isinstance(image, np.ndarray)]
    truth = tuple(
        overlay(image, [instance.mask for instance in coco.instances(i)]) for i, image in pairs
    )
    rows = [PictureRow(label="truth", pictures=truth)]
    for label, sam in sams:
        encoded = encode_images(sam, [image for _, image in pairs])
        pictures = []
        for (i, image), one in zip(pairs, encoded, strict=True):
            boxes = [instance.box for instance in coco.instances(i)]
            masks = [mask for mask, _ in box_masks(sam, one, boxes)]
            pictures.append(overlay(image, masks))
        rows.append(PictureRow(label=label, pictures=tuple(pictures)))
    return Gallery(
        title="Segment Anything with the student inside",
        text="Masks from ground-truth boxes: SAM's own encoder, and the student's features in "
        "front of the same neck and decoder.",
        rows=tuple(rows),
    )


def overlay(image: Picture, masks: Sequence[Mask]) -> Picture:
    """Coloured masks [H, W] over an image, uint8 [H, W, 3]; the image is greyed first."""
    grey = image.astype(np.float64).mean(axis=2, keepdims=True).repeat(3, axis=2)
    for index, mask in enumerate(masks):
        colour = _COLOURS[index % len(_COLOURS)]
        grey[mask] = (1 - _OPACITY) * grey[mask] + _OPACITY * colour
    picture: Picture = grey.round().astype(np.uint8)
    return picture
