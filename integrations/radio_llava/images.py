"""Images for a RADIO tower: resized by their long edge, whole, padded by less than a patch."""

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

from radio_core.models.normalizers import CLIP_MEAN, CLIP_STD

Mean = tuple[float, float, float]
Aspect = Literal["native", "pad", "square"]

IMAGE = "<image>"
"""Stands for an image in a text."""


def resized_size(height: int, width: int, resolution: int) -> tuple[int, int]:
    """The (height, width) in pixels of an image whose long edge is resized to `resolution`.

    The short edge is rounded to the nearest whole pixel, halves to the even one, and is at least 1.
    Training, generation, transformers' processor and all counts of tokens come here.
    """
    if min(height, width) < 1:
        raise ValueError(f"image size {height}x{width}: both sides must be at least 1 pixel")
    longest = max(height, width)
    # One division of whole numbers: what is exactly a half, is one in floating point too.
    rows, cols = (max(1, round(side * resolution / longest)) for side in (height, width))
    return rows, cols


def token_count(
    height: int, width: int, resolution: int, patch: int, step: int | None = None
) -> int:
    """Number of image tokens that an image becomes in the native aspect ratio.

    Args:
        height: of the original image, in pixels.
        width: of the original image, in pixels.
        resolution: long edge after resizing, in pixels.
        patch: pixels of one token.
        step: sides are padded to multiples of it; None for `patch` (E-RADIO's is larger).
    """
    step = patch if step is None else step
    rows, cols = (
        math.ceil(side / step) * (step // patch) for side in resized_size(height, width, resolution)
    )
    return rows * cols


def fit_long_edge(
    image: Image.Image, resolution: int, step: int, mean: Mean = CLIP_MEAN
) -> Image.Image:
    """Resize an image by its long edge and pad it, never crop it.

    Args:
        image: of any size and mode.
        resolution: the long edge becomes this many pixels (bicubic, antialiased).
        step: right and bottom are padded to the next multiple of this many pixels.
        mean: colour of the padding, RGB in [0, 1].

    Returns:
        An RGB image whose sides are multiples of `step`.
    """
    height, width = resized_size(image.height, image.width, resolution)
    resized = image.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
    return _padded(resized, step, mean)


def _padded(image: Image.Image, step: int, mean: Mean) -> Image.Image:
    width, height = (math.ceil(side / step) * step for side in image.size)
    if (width, height) == image.size:
        return image
    return _pasted(image, (width, height), (0, 0), mean)


def _pasted(
    image: Image.Image, size: tuple[int, int], at: tuple[int, int], mean: Mean
) -> Image.Image:
    """An image on a ground of the mean colour, in 8 bits rounded down as in LLaVA's padding."""
    red, green, blue = (int(value * 255) for value in mean)
    ground = Image.new("RGB", size, (red, green, blue))
    ground.paste(image, at)
    return ground


class RadioImageProcessor:
    """From PIL images to pixels in [0, 1], with the interface of LLaVA's image processors.

    The pixels are not normalised: the model does that itself.

    Args:
        resolution: long edge in pixels (side of the square where `aspect` makes squares).
        step: sides are padded to multiples of this many pixels.
        aspect: see `TowerConfig`. LLaVA's `--image_aspect_ratio pad` hands over squares already.
        mean: the model's mean, RGB in [0, 1]; the colour of all padding.
        std: the model's standard deviation.

    Attributes:
        image_mean: `mean`, under the name by which LLaVA pads to squares.
        image_std: `std`.
        crop_size: {"height", "width"} of a square image in pixels; LLaVA makes the empty image of
            a sample without one, and its tiles, in this size. Nothing is ever cropped.
        size: {"shortest_edge"}, the same number.
    """

    def __init__(
        self,
        resolution: int,
        step: int,
        aspect: Aspect = "native",
        mean: Mean = CLIP_MEAN,
        std: Mean = CLIP_STD,
    ) -> None:
        self.resolution = resolution
        self.step = step
        self.aspect = aspect
        self.image_mean = mean
        self.image_std = std
        side = math.ceil(resolution / step) * step
        self.crop_size = {"height": side, "width": side}
        self.size = {"shortest_edge": side}

    def preprocess(
        self, images: Image.Image | Sequence[Image.Image], return_tensors: str = "pt", **_: Any
    ) -> dict[str, Tensor | list[Tensor]]:
        """Resize, pad and scale images of any sizes; options of other processors do nothing.

        Returns:
            {"pixel_values": float32 [B, 3, H, W] in [0, 1]}; where the sizes differ a list of
            [3, H, W] in its place. Sides are multiples of `step`.
        """
        if return_tensors != "pt":
            raise ValueError(f"return_tensors {return_tensors!r}: only 'pt' is supported")
        several = [images] if isinstance(images, Image.Image) else list(images)
        pixels = [pil_to_tensor(self.fit(image)).float() / 255 for image in several]
        same_size = len({tensor.shape for tensor in pixels}) == 1
        return {"pixel_values": torch.stack(pixels) if same_size else pixels}

    __call__ = preprocess

    def fit(self, image: Image.Image) -> Image.Image:
        """One image as RGB in the size that the model gets it in."""
        image = image.convert("RGB")
        if self.aspect == "square":
            side = (self.resolution, self.resolution)
            stretched = image.resize(side, Image.Resampling.BICUBIC)
            return _padded(stretched, self.step, self.image_mean)
        if self.aspect == "pad":  # into the middle of a square
            longest = max(image.size)
            at = ((longest - image.width) // 2, (longest - image.height) // 2)
            image = _pasted(image, (longest, longest), at, self.image_mean)
        return fit_long_edge(image, self.resolution, self.step, self.image_mean)
