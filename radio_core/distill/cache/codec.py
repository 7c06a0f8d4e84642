"""Feature maps in fewer bits, and what that costs."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from radio_core.distill.config import CacheDtype

SCALE, OFFSET = "scale", "offset"
FLOATS: dict[CacheDtype, torch.dtype] = {"float16": torch.float16, "float32": torch.float32}
_LEVELS = 254  # of int8, -127 … 127: the middle of a channel's range is level 0
_LEAST_SPREAD = 1e-6  # of a channel, relative to its size: below it a channel is constant


@dataclass(frozen=True)
class StoredError:
    """How far stored features are from the teacher's own, in standard deviations of a channel.

    Attributes:
        rms: root mean square over all channels.
        worst: root mean square of the worst channel.
    """

    rms: float
    worst: float

    def __str__(self) -> str:
        return (
            f"error {100 * self.rms:.3g} % of a channel's standard deviation "
            f"(worst channel: {100 * self.worst:.3g} %)"
        )


def encode(features: Tensor, dtype: CacheDtype) -> dict[str, Tensor]:
    """Feature maps as they are stored.

    Args:
        features: [B, C, h, w] float32, finite.
        dtype: "int8" maps the range of each channel of each view to 255 levels, so that no value
            is off by more than 1/508 of that range.

    Returns:
        "" -> the map in `dtype`; for int8 also "scale" and "offset", [B, C] float32.
    """
    if dtype != "int8":
        return {"": features.to(FLOATS[dtype])}
    low, high = features.amin(dim=(2, 3)), features.amax(dim=(2, 3))  # [B, C]
    offset, scale = (low + high) / 2, (high - low) / _LEVELS
    levels = (features - offset[..., None, None]) / scale.clamp(min=1e-30)[..., None, None]
    return {"": levels.round().clamp(-127, 127).to(torch.int8), SCALE: scale, OFFSET: offset}


def decode(stored: Mapping[str, Tensor]) -> Tensor:
    """The inverse of `encode`: [B, C, h, w] float32 on the device of what is stored."""
    features = stored[""].float()
    if SCALE in stored:
        scale, offset = (stored[part][..., None, None] for part in (SCALE, OFFSET))
        features = torch.addcmul(offset, features, scale)
    return features


def downsample(features: Tensor, factor: int) -> Tensor:
    """Average a map [B, C, h, w] over squares of `factor` cells; sides are rounded up."""
    if factor == 1:
        return features
    rows, cols = (-(-side // factor) for side in features.shape[-2:])
    return F.adaptive_avg_pool2d(features, (rows, cols))


class ErrorMeter:
    """Accumulates what training sees against what the teacher said, channel by channel."""

    def __init__(self, channels: int) -> None:
        self._count = 0
        self._sums = torch.zeros(3, channels, dtype=torch.float64)  # of x, x**2, error**2

    def update(self, features: Tensor, restored: Tensor) -> None:
        """Add maps [B, C, h, w] and what is read back; a smaller map is resized as in the loss."""
        if restored.shape != features.shape:
            restored = F.interpolate(restored, size=features.shape[-2:], mode="bilinear")
        parts = (features, features.square(), (restored - features).square())
        sums = [part.sum((0, 2, 3), dtype=torch.float64) for part in parts]
        self._count += features[:, 0].numel()
        self._sums += torch.stack(sums).cpu()

    def result(self) -> StoredError:
        """The error so far; constant channels do not count."""
        total, squares, errors = self._sums
        spread = squares - total.square() / self._count
        varies = spread > _LEAST_SPREAD**2 * squares
        ratios = torch.where(varies, errors / spread.clamp(min=1e-300), 0.0)
        return StoredError(float(ratios.mean().sqrt()), float(ratios.max().sqrt()))
