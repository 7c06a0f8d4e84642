"""Feature maps as colours: their first three principal components (paper Figure 1)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

COLOURS = 3
_RANGE = (0.01, 0.99)  # quantiles that become black and full colour


@dataclass(frozen=True, kw_only=True)
class PcaColours:
    """A projection of features to RGB, the same for every map that it was fitted to.

    Attributes:
        mean: [C] float64.
        components: [C, 3] float64, orthonormal columns, largest variance first.
        low: [3] projected value that becomes 0.
        high: [3] projected value that becomes 255.
    """

    mean: Tensor
    components: Tensor
    low: Tensor
    high: Tensor

    def render(self, features: Tensor, size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
        """One feature map [C, h, w] as a picture, uint8 [H, W, 3].

        Args:
            features: the map.
            size: (H, W) of the picture, interpolated bilinearly; None for (h, w).
        """
        tokens = features.detach().cpu().double().flatten(1).T  # [h*w, C]
        scaled = ((tokens - self.mean) @ self.components - self.low) / (self.high - self.low)
        rgb = scaled.T.reshape(1, COLOURS, *features.shape[-2:])
        if size is not None:
            rgb = F.interpolate(rgb, size=size, mode="bilinear", align_corners=False)
        pixels: NDArray[np.uint8] = (
            rgb[0].clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).contiguous().numpy()
        )
        return pixels


def fit_pca(maps: Sequence[Tensor]) -> PcaColours:
    """Fit one projection to several feature maps, so that equal colours mean equal features.

    The result is deterministic: of each component's two signs, the one whose largest weight is
    positive is taken.

    Args:
        maps: feature maps [C, h, w], finite, sizes may differ.

    Raises:
        ValueError: no maps, maps of different widths, or values that are not finite.
    """
    widths = {m.shape[0] for m in maps}
    if len(widths) != 1:
        raise ValueError(f"PCA needs feature maps of one width, got {sorted(widths) or 'none'}")
    tokens = torch.cat([m.detach().cpu().double().flatten(1).T for m in maps])  # [N, C]
    if not bool(torch.isfinite(tokens).all()):
        raise ValueError("PCA needs finite features; found nan or infinity")
    mean = tokens.mean(dim=0)
    centred = tokens - mean
    _, vectors = torch.linalg.eigh(centred.T @ centred)  # ascending variances
    components = vectors.flip(1)[:, :COLOURS]
    strongest = components.abs().argmax(dim=0)
    signs = components.gather(0, strongest[None]).sign()
    components = F.pad(components * signs, (0, COLOURS - components.shape[1]))
    projected = centred @ components
    low, high = (_quantile(projected, share) for share in _RANGE)
    flat = high - low < 1e-12
    return PcaColours(
        mean=mean,
        components=components,
        low=torch.where(flat, low - 0.5, low),
        high=torch.where(flat, low + 0.5, high),
    )


def pca_rgb(features: Tensor, size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """A batch of feature maps as pictures with consistent colours.

    Args:
        features: [B, C, h, w], finite.
        size: (H, W) of the pictures, interpolated bilinearly; None for (h, w).

    Returns:
        uint8 [B, H, W, 3].

    Raises:
        ValueError: an empty batch, or values that are not finite.
    """
    maps = list(features)
    colours = fit_pca(maps)
    return np.stack([colours.render(m, size) for m in maps])


def _quantile(values: Tensor, share: float) -> Tensor:
    """Column quantile of [N, 3] without torch.quantile's limit on the number of rows."""
    ordered = values.sort(dim=0).values
    return ordered[round(share * (len(ordered) - 1))]
