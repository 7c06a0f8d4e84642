"""Images beside their features as colours, on one picture of bounded size."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from radio_core.pca import fit_pca

MOST_PAIRS = 24
"""Pairs that one sheet shows."""

_MOST_PIXELS = 8192  # of the sheet's longer side
_MOST_TOKENS = 32768  # over all feature maps: what the projection is fitted to


class Pair(NamedTuple):
    """An image, and its feature map [C, h, w] on the CPU."""

    image: Image.Image
    features: Tensor


def shown_features(features: Tensor, pairs: int) -> Tensor:
    """A feature map [C, h, w] on the CPU, averaged down where `pairs` such would be too many."""
    height, width = features.shape[-2:]
    shrink = math.sqrt(_MOST_TOKENS / max(pairs, 1) / (height * width))
    features = features.float()
    if shrink < 1:
        size = (max(1, int(height * shrink)), max(1, int(width * shrink)))
        features = F.adaptive_avg_pool2d(features, size)
    return features.cpu()


def contact_sheet(pairs: Sequence[Pair]) -> Image.Image:
    """The pairs row by row, each the image and its first three principal components to its right.

    Equal colours mean equal features everywhere on the sheet. Its longer side has at most 8192
    pixels; the images are scaled down to fit.

    Raises:
        ValueError: no pairs, or features that are not finite.
    """
    colours = fit_pca([pair.features for pair in pairs])
    columns = max(1, round(math.sqrt(len(pairs) / 2)))
    rows = math.ceil(len(pairs) / columns)
    width = max(pair.image.width for pair in pairs)
    height = max(pair.image.height for pair in pairs)
    scale = min(1.0, _MOST_PIXELS / max(2 * width * columns, height * rows))
    width, height = max(1, int(width * scale)), max(1, int(height * scale))
    sheet = Image.new("RGB", (2 * width * columns, height * rows), "white")
    for number, pair in enumerate(pairs):
        size = tuple(max(1, int(side * scale)) for side in pair.image.size)
        left, top = number % columns * 2 * width, number // columns * height
        sheet.paste(pair.image.resize((size[0], size[1])), (left, top))
        picture = Image.fromarray(colours.render(pair.features, (size[1], size[0])))
        sheet.paste(picture, (left + width, top))
    return sheet
