"""Feature maps as pictures: principal components as colours (paper Figure 1), similarities as heat.

matplotlib and scikit-learn do as much, but the core of this package needs neither for these lines.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

Pixels = NDArray[np.uint8]

MOST_PAIRS = 24
"""Pairs that one contact sheet shows."""

_COLOURS = 3
_RANGE = (0.01, 0.99)  # quantiles that become black and full colour
_MOST_PIXELS = 8192  # of a contact sheet's longer side
_MOST_TOKENS = 32768  # over all maps of a sheet: what the projection is fitted to
_COLD_TO_HOT = np.array(
    [(13, 17, 54), (60, 30, 120), (150, 40, 120), (225, 80, 75), (250, 160, 60), (252, 245, 180)],
    dtype=np.float64,
)
"""Colours at even distances; their brightness only rises, so that the map needs no eye for hue."""


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
        return (scaled / (self.high - self.low)).T.reshape(_COLOURS, *features.shape[-2:])

    def render(self, features: Tensor, size: tuple[int, int] | None = None) -> Pixels:
        """One feature map [C, h, w] as uint8 [H, W, 3], resized bilinearly to `size` (H, W)."""
        rgb = self.project(features)[None]
        if size is not None:
            rgb = F.interpolate(rgb, size=size, mode="bilinear", align_corners=False)
        pixels = rgb[0].clamp(0, 1).mul(255).round().byte().permute(1, 2, 0)
        return np.ascontiguousarray(pixels.numpy())

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
    components = vectors.flip(1)[:, :_COLOURS]
    strongest = components.abs().argmax(dim=0)
    signs = components.gather(0, strongest[None]).sign()
    components = F.pad(components * signs, (0, _COLOURS - components.shape[1]))
    low, high = _range_of(centred @ components)
    return PcaColours(mean=mean, components=components, low=low, high=high)


def pca_rgb(features: Tensor, size: tuple[int, int] | None = None) -> Pixels:
    """A batch of feature maps [B, C, h, w] as pictures with consistent colours.

    They are uint8 [B, H, W, 3], interpolated bilinearly to `size` (H, W); None for (h, w).
    """
    maps = list(features)
    colours = fit_pca(maps)
    return np.stack([colours.render(m, size) for m in maps])


def foreground(features: Tensor) -> Tensor:
    """What the first principal component parts from the background.

    The component's values are split in two where that explains most of their variance (Otsu); the
    part that holds the smaller share of the picture's border is the foreground. `features` is a
    map [C, h, w]; the result bool [h, w] on the CPU, all True for a map without any variance.
    """
    values = fit_pca([features]).project(features)[0]  # [h, w]
    ordered = values.flatten().sort().values
    count = torch.arange(1, len(ordered), dtype=ordered.dtype)
    below = ordered.cumsum(0)[:-1]
    above = ordered.sum() - below
    rest = len(ordered) - count
    between = count * rest * (above / rest - below / count).square()
    between = between.masked_fill(ordered[1:] - ordered[:-1] < 1e-12, 0)  # no split within a value
    if not len(between) or float(between.max()) <= 0:
        return torch.ones_like(values, dtype=torch.bool)
    high = values > ordered[between.argmax()]
    border = torch.ones_like(high)
    border[1:-1, 1:-1] = False
    shares = [float((side & border).sum() / side.sum()) for side in (high, ~high)]
    return high if shares[0] <= shares[1] else ~high


def patch_similarity(features: Tensor, row: int, column: int) -> Tensor:
    """Cosine similarity of every cell of a feature map [C, h, w] with one of them: [h, w]."""
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
) -> Pixels:
    """A map of numbers [h, w] as a picture uint8 [H, W, 3], dark for low and bright for high.

    `low` and `high` are the values of the darkest and brightest colour (the extremes if None);
    it is interpolated bilinearly to `size` (H, W); None for (h, w).
    """
    values = values.detach().cpu().double()
    low = float(values.min()) if low is None else low
    high = float(values.max()) if high is None else high
    share = ((values - low) / (high - low) if high > low else torch.zeros_like(values)).clamp(0, 1)
    if size is not None:
        share = F.interpolate(share[None, None], size=size, mode="bilinear", align_corners=False)
        share = share[0, 0]
    places = np.linspace(0, 1, len(_COLD_TO_HOT))
    channels = [np.interp(share.numpy(), places, _COLD_TO_HOT[:, c]) for c in range(3)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


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
        wide, high = (max(1, int(side * scale)) for side in pair.image.size)
        left, top = number % columns * 2 * width, number // columns * height
        sheet.paste(pair.image.resize((wide, high)), (left, top))
        picture = Image.fromarray(colours.render(pair.features, (high, wide)))
        sheet.paste(picture, (left + width, top))
    return sheet


def _tokens(features: Tensor) -> Tensor:
    """A map [C, h, w] as float64 [h*w, C] on the CPU."""
    return features.detach().cpu().double().flatten(1).T


def _range_of(projected: Tensor) -> tuple[Tensor, Tensor]:
    """The values [3] that become 0 and 1, of projected tokens [N, 3]."""
    ordered = projected.sort(dim=0).values  # torch.quantile has a limit on the number of rows
    low, high = (ordered[round(share * (len(ordered) - 1))] for share in _RANGE)
    flat = high - low < 1e-12
    return torch.where(flat, low - 0.5, low), torch.where(flat, low + 0.5, high)
