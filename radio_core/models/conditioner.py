"""The normalisation of images, kept inside the model so that callers pass plain [0, 1] pixels."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


class InputConditioner(nn.Module):
    """y = (x - mean) / std, channel by channel, always in float32.

    Args:
        mean: per-channel mean, RGB in [0, 1].
        std: per-channel standard deviation.
    """

    norm_mean: Tensor
    norm_std: Tensor

    def __init__(
        self,
        mean: tuple[float, float, float] = CLIP_MEAN,
        std: tuple[float, float, float] = CLIP_STD,
    ) -> None:
        super().__init__()
        self.register_buffer("norm_mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("norm_std", torch.tensor(std).view(3, 1, 1), persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "InputConditioner":
        """Follow the model to another device, but never to a coarser dtype."""
        nn.Module._apply(self, lambda tensor: tensor.to(fn(tensor).device), recurse)
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W], RGB in [0, 1], to normalised float32 images of the same shape."""
        return (images - self.norm_mean) / self.norm_std

    def extra_repr(self) -> str:
        """Mean and std, for printing."""
        values: dict[str, Any] = {"mean": self.norm_mean.flatten(), "std": self.norm_std.flatten()}
        return ", ".join(f"{name}={value.tolist()}" for name, value in values.items())
