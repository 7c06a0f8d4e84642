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
        components: [C, 3] float64, orthonormal columns; `fit_pca` puts the largest variance first.
        low: [3] projected value that becomes 0.
        high: [3] projected value that becomes 255.
    """

    mean: Tensor
    components: Tensor
    low: Tensor
    high: Tensor

    def project(self, features: Tensor) -> Tensor:
        """A feature map [C, h, w] as colours, float64 [3, h, w]: low is 0, high is 1, unclipped."""
        scaled = (_tokens(features) - self.mean) @ self.components - self.low
        return (scaled / (self.high - self.low)).T.reshape(COLOURS, *features.shape[-2:])

    def render(self, features: Tensor, size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
        """One feature map [C, h, w] as a picture, uint8 [H, W, 3].

        Args:
            features: the map.
            size: (H, W) of the picture, interpolated bilinearly; None for (h, w).
        """
        rgb = self.project(features)[None]
        if size is not None:
            rgb = F.interpolate(rgb, size=size, mode="bilinear", align_corners=False)
        pixels: NDArray[np.uint8] = (
            rgb[0].clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).contiguous().numpy()
        )
        return pixels

    def resembling(
        self, features: Tensor, colours: Tensor, mask: Tensor | None = None
    ) -> "PcaColours":
        """The same three components, turned until they show a map in nearly the given colours.

        So maps of models whose features have nothing in common become comparable: what looks
        alike in one picture looks alike in the other, as far as the models agree.

        Args:
            features: a map [C, h, w] that this projection was fitted to.
            colours: [3, H, W] of the same image, as another projection's `project` gives them;
                sizes may differ.
            mask: bool [h, w], the part that counts; None for all of the map.
        """
        size = tuple(features.shape[-2:])
        wanted = F.interpolate(colours[None].double(), size=size, mode="bilinear", antialias=True)
        counts = slice(None) if mask is None else mask.cpu().flatten()
        target = wanted[0].flatten(1).T[counts]  # [N, 3]
        projected = (_tokens(features)[counts] - self.mean) @ self.components
        left, _, right = torch.linalg.svd(projected.T @ (target - target.mean(dim=0)))
        rotation = left @ right  # the solution of the orthogonal Procrustes problem
        low, high = _range_of(projected @ rotation)
        return PcaColours(mean=self.mean, components=self.components @ rotation, low=low, high=high)


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
    tokens = torch.cat([_tokens(m) for m in maps])  # [N, C]
    if not bool(torch.isfinite(tokens).all()):
        raise ValueError("PCA needs finite features; found nan or infinity")
    mean = tokens.mean(dim=0)
    centred = tokens - mean
    _, vectors = torch.linalg.eigh(centred.T @ centred)  # ascending variances
    components = vectors.flip(1)[:, :COLOURS]
    strongest = components.abs().argmax(dim=0)
    signs = components.gather(0, strongest[None]).sign()
    components = F.pad(components * signs, (0, COLOURS - components.shape[1]))
    low, high = _range_of(centred @ components)
    return PcaColours(mean=mean, components=components, low=low, high=high)


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


def foreground(features: Tensor) -> Tensor:
    """What the first principal component parts from the background.

    The component's values are split in two where that explains most of their variance (Otsu); the
    part that holds the smaller share of the picture's border is the foreground.

    Args:
        features: a map [C, h, w], finite.

    Returns:
        bool [h, w] on the CPU; all True for a map without any variance.
    """
    values = fit_pca([features]).project(features)[0]  # [h, w]
    above = values > _otsu(values.flatten())
    if not bool(above.any()):
        return torch.ones_like(above)
    border = torch.ones_like(above)
    border[1:-1, 1:-1] = False
    shares = [float((side & border).sum() / side.sum()) for side in (above, ~above)]
    return above if shares[0] <= shares[1] else ~above


def _otsu(values: Tensor) -> float:
    """The value [N] above which the upper one of the two most distinct classes lies."""
    ordered = values.sort().values
    count = torch.arange(1, len(ordered), dtype=ordered.dtype)
    below = ordered.cumsum(0)[:-1]
    above = ordered.sum() - below
    rest = len(ordered) - count
    between = count * rest * (above / rest - below / count).square()
    between = between.masked_fill(ordered[1:] - ordered[:-1] < 1e-12, 0)  # no split within a value
    if not len(between) or float(between.max()) <= 0:
        return float(ordered[-1])
    return float(ordered[int(between.argmax())])


def _tokens(features: Tensor) -> Tensor:
    """A map [C, h, w] as float64 [h*w, C] on the CPU."""
    return features.detach().cpu().double().flatten(1).T


def _range_of(projected: Tensor) -> tuple[Tensor, Tensor]:
    """The values [3] that become 0 and 1, of projected tokens [N, 3]."""
    low, high = (_quantile(projected, share) for share in _RANGE)
    flat = high - low < 1e-12
    return torch.where(flat, low - 0.5, low), torch.where(flat, low + 0.5, high)


def _quantile(values: Tensor, share: float) -> Tensor:
    """Column quantile of [N, 3] without torch.quantile's limit on the number of rows."""
    ordered = values.sort(dim=0).values
    return ordered[round(share * (len(ordered) - 1))]
