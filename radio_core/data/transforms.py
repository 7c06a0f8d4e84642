"""Crops that the student and every teacher share, and RADIO's evaluation resize.

Everything random takes a numpy Generator, so a sample depends on its seed alone.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

_CROP_TRIES = 10


class Crop(NamedTuple):
    """A box in pixels of the image that it was sampled for; lies inside that image."""

    top: int
    left: int
    height: int
    width: int


def to_tensor(image: Image.Image) -> Tensor:
    """8-bit RGB image -> float32 [3, H, W] in [0, 1]."""
    return to_pixels(image).float().div_(255)


def to_pixels(image: Image.Image) -> Tensor:
    """8-bit RGB image -> uint8 [3, H, W], contiguous."""
    array = np.array(image.convert("RGB"), dtype=np.uint8)  # [H, W, 3]
    return torch.from_numpy(array).permute(2, 0, 1).contiguous()


def sample_crop(
    height: int,
    width: int,
    scale: tuple[float, float] = (0.4, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    *,
    generator: np.random.Generator,
) -> Crop:
    """Sample a box of random area and aspect ratio, as "random resized crop" does.

    `scale` is a range of shares of the area, `ratio` one of width / height (log-uniform). When
    ten draws do not fit: the largest central box whose ratio is allowed.
    """
    if height < 1 or width < 1:
        raise ValueError(f"an image of {height} x {width} pixels has no crop; both must be >= 1")
    if not 0 < scale[0] <= scale[1] <= 1:
        raise ValueError(f"crop scale {scale} must satisfy 0 < low <= high <= 1")
    if not 0 < ratio[0] <= ratio[1]:
        raise ValueError(f"crop ratio {ratio} must satisfy 0 < low <= high")
    for _ in range(_CROP_TRIES):
        area = height * width * generator.uniform(*scale)
        aspect = math.exp(generator.uniform(math.log(ratio[0]), math.log(ratio[1])))
        box_width = max(1, round(math.sqrt(area * aspect)))
        box_height = max(1, round(math.sqrt(area / aspect)))
        if box_width <= width and box_height <= height:
            top = int(generator.integers(height - box_height + 1))
            left = int(generator.integers(width - box_width + 1))
            return Crop(top, left, box_height, box_width)
    box_width = max(1, min(width, round(height * ratio[1])))
    box_height = max(1, min(height, round(width / ratio[0])))
    return Crop((height - box_height) // 2, (width - box_width) // 2, box_height, box_width)


def apply_crop(image: Image.Image, crop: Crop, size: int | tuple[int, int]) -> Tensor:
    """Resize one box of an image, straight from the original pixels, to uint8 [3, height, width].

    Bicubic with antialiasing; boxes smaller than `size` are enlarged. At the box's edges the
    filter may see neighbouring pixels of the image, as if the whole image had been resized.
    """
    height, width = (size, size) if isinstance(size, int) else size
    if min(height, width) < 1:
        raise ValueError(f"crop output size {size} must be at least 1 pixel")
    right, bottom = crop.left + crop.width, crop.top + crop.height
    inside = 0 <= crop.left < right <= image.width and 0 <= crop.top < bottom <= image.height
    if not inside:
        raise ValueError(
            f"{crop} is not inside an image of {image.height} x {image.width} (height x width)"
        )
    box = (crop.left, crop.top, right, bottom)
    return to_pixels(image.resize((width, height), Image.Resampling.BICUBIC, box=box))


def radio_resize_size(
    height: int,
    width: int,
    resolution: int | Sequence[int],
    step: int = 16,
    *,
    longest_edge: bool = False,
) -> tuple[int, int]:
    """(height, width) to which RADIO's resize scales an image, before any padding or cropping.

    See `radio_resize`, which this is the arithmetic of.
    """
    targets = _targets(resolution)
    if height < 1 or width < 1 or step < 1:
        raise ValueError(f"height {height}, width {width} and step {step} must be at least 1")
    if len(targets) == 1:
        factor = targets[0] / (max if longest_edge else min)(height, width)
    else:
        factors = (targets[0] / height, targets[1] / width)
        factor = min(factors) if longest_edge else max(factors)
    rows, columns = (max(1, round(side * factor / step)) for side in (height, width))
    return rows * step, columns * step


def radio_resize(
    image: Image.Image,
    resolution: int | Sequence[int],
    step: int = 16,
    *,
    longest_edge: bool = False,
) -> Image.Image:
    """Resize an image as RADIO's evaluations do.

    One number: the shortest edge is scaled to it, then both sides are rounded to the nearest
    multiple of `step`, half to even (12.5 * 16 -> 192); the image stays non-square. Two numbers
    (height, width): the image is scaled and rounded to cover them, padded with black to a square
    and cropped to them around the centre. Bicubic, on the 8-bit RGB image.

    Args:
        image: any Pillow image that converts to RGB.
        resolution: one side in pixels, or (height, width).
        step: the model's resolution step (`RadioModel.min_resolution_step`), at least 1.
        longest_edge: scale the longest edge instead of the shortest; with two numbers, fit
            inside them instead of covering them.
    """
    rows, columns = radio_resize_size(
        image.height, image.width, resolution, step, longest_edge=longest_edge
    )
    resized = image.convert("RGB").resize((columns, rows), Image.Resampling.BICUBIC)
    targets = _targets(resolution)
    if len(targets) == 1:
        return resized
    height, width = targets
    canvas = Image.new("RGB", (width, height))
    # Half of a difference of sides is rounded half to even, as centre crops do.
    corner = (-round((resized.width - width) / 2), -round((resized.height - height) / 2))
    canvas.paste(resized, corner)
    return canvas


def _targets(resolution: int | Sequence[int]) -> tuple[int, ...]:
    """`resolution` as a tuple of one or two positive integers."""
    targets = (resolution,) if isinstance(resolution, int) else tuple(resolution)
    if len(targets) not in (1, 2) or min(targets) < 1:
        raise ValueError(
            f"resolution {resolution!r} must be one side in pixels or (height, width), all >= 1"
        )
    return targets
