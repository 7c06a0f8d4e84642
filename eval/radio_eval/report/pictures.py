"""Pictures for reports: thumbnails, masks over images, features as colours."""

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from radio_core.data.images import UnreadableImage
from radio_core.pictures import pca_rgb
from radio_core.vision import VisionModel
from radio_eval.data.classification import ClassificationSet
from radio_eval.data.preprocess import Preprocess
from radio_eval.report.sections import Card, Picture, Pixels, Section
from radio_eval.scores.masks import Mask

SEED = 0
"""Of the choice of what is shown."""
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
    models: Mapping[str, VisionModel], images: Sequence[Image.Image], side: int = SIDE
) -> Section:
    """The same images through several models, as in the paper's Figure 1."""
    shown = [np.asarray(i.resize((side, side), Image.Resampling.LANCZOS)) for i in images]
    cards = [Card(title="image", pictures=[Picture(pixels) for pixels in shown])]
    for label, model in models.items():
        preprocess = Preprocess.of(model)
        maps = []
        for image in images:
            pixels = preprocess.whole(image)[None].to(model.device)  # [1, 3, H, W]
            maps.append(model(pixels, (pixels.shape[2], pixels.shape[3])).features.cpu())
        pictures = [Picture(pixels) for pixels in pca_rgb(torch.cat(maps), (side, side))]
        cards.append(Card(title=label, pictures=pictures))
    return Section(
        title="What the models see",
        text="The first three principal components of each model's features, as red, green and "
        "blue. Within a row equal colours mean equal features; rows are independent.",
        cards=cards,
    )


def choose_rows(hits: Tensor, count: int) -> list[int]:
    """Rows to be shown of hits [N], half of them right and half wrong as far as there are such.

    They are drawn with `SEED`; the right ones come first.
    """
    order = torch.randperm(len(hits), generator=torch.Generator().manual_seed(SEED))
    right, wrong = order[hits[order]], order[~hits[order]]
    half = min(len(wrong), count // 2)
    shown = right[: count - half].tolist()
    return [*sorted(shown), *sorted(wrong[: count - len(shown)].tolist())]
