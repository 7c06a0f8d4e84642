"""The contract of a student backbone, and the rules for the images that it takes."""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from radio_core.models.outputs import BackboneOutput


class Backbone(Protocol):
    """What every student is to the rest of the toolkit: our ViT or any other network.

    Attributes:
        embed_dim: width C of the summary tokens and of the features.
        patch_size: pixels of one feature cell; image sides are multiples of it.
        num_summary_tokens: number S of summary tokens.
    """

    embed_dim: int
    patch_size: int
    num_summary_tokens: int

    def __call__(self, images: Tensor, window_size: int | None = None) -> BackboneOutput:
        """Run on normalised images.

        Args:
            images: [B, 3, H, W], already normalised; H and W multiples of `patch_size`.
            window_size: side in patches of the attention windows; None for global attention.

        Returns:
            Summary tokens [B, S, C] and features [B, C, H / patch_size, W / patch_size].

        Raises:
            ValueError: wrong sides (names the nearest valid size), or windows not supported.
        """
        ...


class Resolution(NamedTuple):
    """An image size in pixels."""

    height: int
    width: int


def nearest_resolution(height: int, width: int, step: int) -> Resolution:
    """The valid size nearest to (height, width): each side a positive multiple of `step` pixels."""
    return Resolution(*(max(step, round(side / step) * step) for side in (height, width)))


def any_size(*sides: int) -> bool:
    """Whether a graph for images of any size is being traced: then sides must decide no branch."""
    return any(isinstance(side, torch.SymInt) for side in sides)


def check_images(images: Tensor, step: int) -> None:
    """Raise ValueError unless `images` is float [B, 3, H, W], with sides multiples of `step`."""
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"images must have shape [B, 3, H, W], not {list(images.shape)}")
    if not images.is_floating_point():
        raise ValueError(
            f"images must be floating point in [0, 1], not {images.dtype}: use x / 255"
        )
    height, width = images.shape[-2:]
    if height % step or width % step or not (height and width):
        near = nearest_resolution(height, width, step)
        raise ValueError(
            f"image size {height}x{width} is not a multiple of {step} pixels "
            f"(patch size x window size); the nearest valid size is {near.height}x{near.width}"
        )
