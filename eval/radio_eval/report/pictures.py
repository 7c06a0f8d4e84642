"""Pictures for reports: thumbnails, masks over images, features as colours."""

from collections.abc import Collection, Sequence
from contextlib import suppress
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
from radio_eval.data.classification import ClassificationSet
from radio_eval.eval_model import EvalModel
from radio_eval.report.sections import Card, Picture, Pixels, Section
from radio_eval.sam.miou import box_masks
from radio_eval.sam.scores import Mask
from radio_sam.prompts import encode_images

if TYPE_CHECKING:
    from segment_anything.modeling import Sam

SIDE = 144
"""Longer side of small pictures in pixels."""
_COLOURS = np.array(
    [(255, 99, 71), (65, 145, 255), (60, 200, 110), (250, 190, 40), (190, 110, 240), (40, 210, 210)]
)
_OPACITY = 0.6


def thumbnail(image: Image.Image | Pixels, side: int = SIDE) -> Pixels:
    """An 8-bit RGB image as uint8 [H, W, 3] whose longer side is at most `side` pixels."""
    small = image.copy() if isinstance(image, Image.Image) else Image.fromarray(image)
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    return np.asarray(small)


def read_thumbnails(
    data: ClassificationSet, names: Collection[str], side: int = SIDE
) -> dict[str, Pixels]:
    """Small pictures of some images of a split.

    Args:
        data: the split.
        names: of images, as its blocks give them.
        side: most pixels of a longer side.

    Returns:
        Name -> picture, of those that can be read.
    """
    found = {}
    for item in data.named(names):
        with suppress(UnreadableImage):
            found[item.name] = thumbnail(item.read(), side)
    return found


def overlay(image: Pixels, masks: Sequence[Mask]) -> Pixels:
    """Coloured masks [H, W] over an image, uint8 [H, W, 3]; the image is greyed first."""
    grey = image.astype(np.float64).mean(axis=2, keepdims=True).repeat(3, axis=2)
    for index, mask in enumerate(masks):
        colour = _COLOURS[index % len(_COLOURS)]
        grey[mask] = (1 - _OPACITY) * grey[mask] + _OPACITY * colour
    picture: Pixels = grey.round().astype(np.uint8)
    return picture


@torch.no_grad()
def feature_section(
    models: Sequence[EvalModel], images: ImageSource, count: int = 6, side: int = SIDE
) -> Section:
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
            with suppress(UnreadableImage):
                chosen.append(images.read(index))
    if not chosen:
        raise ValueError("none of the images could be read")
    shown = [np.asarray(i.resize((side, side), Image.Resampling.LANCZOS)) for i in chosen]
    cards = [Card(title="image", pictures=[Picture(pixels) for pixels in shown])]
    for model in models:
        if model.features is not None:
            tensors = [prepare(image, model, whole=True)[None] for image in chosen]
            maps = torch.cat([model.features(tensor) for tensor in tensors])
            pictures = [Picture(pixels) for pixels in pca_rgb(maps, (side, side))]
            cards.append(Card(title=model.name, pictures=pictures))
    return Section(
        title="What the models see",
        text="The first three principal components of each model's features, as red, green and "
        "blue. Within a row equal colours mean equal features; rows are independent.",
        cards=cards,
    )


def mask_section(sams: Sequence[tuple[str, "Sam"]], coco: CocoInstances, count: int = 6) -> Section:
    """Masks that Segment Anything finds from ground-truth boxes, beside the true ones.

    Args:
        sams: (label, model) of each row.
        coco: the first readable images are taken.
        count: number of images.
    """
    [images] = decoded_batches(coco, [coco.image_ids[:count]])
    pairs = [(i, image) for i, image in images.items() if isinstance(image, np.ndarray)]
    truth = [overlay(image, [each.mask for each in coco.instances(i)]) for i, image in pairs]
    cards = [Card(title="truth", pictures=[Picture(pixels) for pixels in truth])]
    for label, sam in sams:
        encoded = encode_images(sam, [image for _, image in pairs])
        pictures = []
        for (i, image), one in zip(pairs, encoded, strict=True):
            boxes = [instance.box for instance in coco.instances(i)]
            masks = [mask for mask, _ in box_masks(sam, one, boxes)]
            pictures.append(Picture(overlay(image, masks)))
        cards.append(Card(title=label, pictures=pictures))
    return Section(
        title="Segment Anything with the student inside",
        text="Masks from ground-truth boxes: SAM's own encoder, and the student's features in "
        "front of the same neck and decoder.",
        cards=cards,
    )
