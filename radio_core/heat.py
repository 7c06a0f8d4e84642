"""Similarities as heat maps."""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

_COLD_TO_HOT = (
    (13, 17, 54),
    (60, 30, 120),
    (150, 40, 120),
    (225, 80, 75),
    (250, 160, 60),
    (252, 245, 180),
)
"""Colours at even distances; their brightness only rises, so that the map needs no eye for hue."""


def patch_similarity(features: Tensor, row: int, column: int) -> Tensor:
    """Cosine similarity of every cell of a feature map with one of them.

    Args:
        features: [C, h, w].
        row: of the cell, from 0.
        column: of the cell, from 0.

    Returns:
        float32 [h, w] in [-1, 1], on the features' device.

    Raises:
        ValueError: the cell is outside of the map.
    """
    height, width = features.shape[-2:]
    if not (0 <= row < height and 0 <= column < width):
        raise ValueError(f"cell ({row}, {column}) is outside of a map of {height} x {width} cells")
    directions = F.normalize(features.detach().float(), dim=0)
    return torch.einsum("chw,c->hw", directions, directions[:, row, column]).clamp(-1, 1)


def heat_map(
    values: Tensor,
    size: tuple[int, int] | None = None,
    low: float | None = None,
    high: float | None = None,
) -> NDArray[np.uint8]:
    """A map of numbers as a picture, dark for low and bright for high.

    Args:
        values: [h, w], finite.
        size: (H, W) of the picture, interpolated bilinearly; None for (h, w).
        low: value of the darkest colour; the least value if None.
        high: value of the brightest colour; the greatest value if None.

    Returns:
        uint8 [H, W, 3]; the darkest colour all over where `high` is not above `low`.
    """
    values = values.detach().cpu().double()
    low = float(values.min()) if low is None else low
    high = float(values.max()) if high is None else high
    share = ((values - low) / (high - low) if high > low else torch.zeros_like(values)).clamp(0, 1)
    if size is not None:
        share = F.interpolate(share[None, None], size=size, mode="bilinear", align_corners=False)
        share = share[0, 0]
    anchors = np.array(_COLD_TO_HOT, dtype=np.float64)  # [K, 3]
    places = np.linspace(0, 1, len(anchors))
    channels = [np.interp(share.numpy(), places, anchors[:, c]) for c in range(3)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)
