"""mmseg's transforms of segmentation images: resize, crop, flip, photometric distortion, padding.

Pixels stay bytes until the model, as there. Everything random takes a numpy Generator, so a
sample depends on its seed alone.
"""

import numpy as np
import torch
import torchvision.transforms.v2.functional as tv
from torch import Tensor

from radio_eval.data.segmentation import IGNORED
from radio_eval.mmseg.protocol import Augmentation


def rescaled_size(height: int, width: int, scale: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of the largest image of the same ratio that fits into a scale, which is the
    most pixels of the longer and of the shorter side."""
    factor = min(max(scale) / max(height, width), min(scale) / min(height, width))
    return max(1, int(height * factor + 0.5)), max(1, int(width * factor + 0.5))


def resize_image(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear without antialiasing, as OpenCV's: [3, H, W] uint8 -> [3, *size] uint8."""
    resized: Tensor = tv.resize(
        image, list(size), interpolation=tv.InterpolationMode.BILINEAR, antialias=False
    )
    return resized


def resize_label(label: Tensor, size: tuple[int, int]) -> Tensor:
    """Nearest: [H, W] uint8 -> [*size] uint8."""
    resized: Tensor = tv.resize(label[None], list(size), interpolation=tv.InterpolationMode.NEAREST)
    return resized[0]


def augment(
    image: Tensor,
    label: Tensor,
    *,
    scale: tuple[int, int],
    crop: int,
    augmentation: Augmentation,
    rng: np.random.Generator,
) -> tuple[Tensor, Tensor]:
    """One random train sample of an image [3, H, W] uint8, RGB, and its label map [H, W] uint8.

    Returns:
        [3, crop, crop] uint8 padded with 0, [crop, crop] uint8 padded with 255; right and bottom.
    """
    ratio = rng.uniform(*augmentation.resize_ratio)
    longest, shortest = int(scale[0] * ratio), int(scale[1] * ratio)
    size = rescaled_size(label.shape[0], label.shape[1], (longest, shortest))
    image, label = resize_image(image, size), resize_label(label, size)
    top, left = choose_crop(label, crop, augmentation, rng)
    image = image[:, top : top + crop, left : left + crop]
    label = label[top : top + crop, left : left + crop]
    if rng.random() < augmentation.flip_probability:
        image, label = image.flip(-1), label.flip(-1)
    image = distort(image, augmentation, rng)
    below, beside = crop - label.shape[0], crop - label.shape[1]
    return (
        torch.nn.functional.pad(image, (0, beside, 0, below), value=0),
        torch.nn.functional.pad(label, (0, beside, 0, below), value=IGNORED),
    )


def choose_crop(
    label: Tensor, crop: int, augmentation: Augmentation, rng: np.random.Generator
) -> tuple[int, int]:
    """Top and left of a random crop in which no class dominates, if one is found in time.

    A side of the label map [H, W] uint8 that is shorter than the crop is taken whole.
    """

    def draw() -> tuple[int, int]:
        height, width = label.shape
        top = int(rng.integers(max(height - crop, 0) + 1))
        return top, int(rng.integers(max(width - crop, 0) + 1))

    top, left = draw()
    for _ in range(augmentation.crop_tries):
        part = label[top : top + crop, left : left + crop].flatten()
        counts = torch.bincount(part, minlength=IGNORED + 1)[:IGNORED]
        largest = int(counts.max())
        if (counts > 0).sum() > 1 and largest < augmentation.max_class_share * int(counts.sum()):
            break
        top, left = draw()
    return top, left


def distort(image: Tensor, augmentation: Augmentation, rng: np.random.Generator) -> Tensor:
    """mmseg's photometric distortion of [3, H, W] uint8, RGB.

    Brightness, contrast, saturation, hue, each at random; contrast comes second or last.
    torchvision's transform of that name has other ranges, another brightness and another contrast.
    """

    def chosen() -> bool:
        return bool(rng.random() < augmentation.distortion_probability)

    if chosen():
        image = _scaled(
            image, offset=rng.uniform(-augmentation.brightness, augmentation.brightness)
        )
    contrast_first = rng.random() < 0.5
    if contrast_first and chosen():
        image = _scaled(image, factor=rng.uniform(*augmentation.contrast))
    if chosen():
        image = _saturated(image, rng.uniform(*augmentation.saturation))
    if chosen() and augmentation.hue:
        steps = int(rng.integers(-augmentation.hue, augmentation.hue))  # the highest is left out
        image = tv.adjust_hue(image, steps * 2 / 360)
    if not contrast_first and chosen():
        image = _scaled(image, factor=rng.uniform(*augmentation.contrast))
    return image


def _scaled(image: Tensor, factor: float = 1.0, offset: float = 0.0) -> Tensor:
    """image * factor + offset in [0, 255], rounded down."""
    return image.float().mul_(factor).add_(offset).clamp_(0, 255).to(torch.uint8)


def _saturated(image: Tensor, factor: float) -> Tensor:
    """HSV's saturation times a factor, at most 1; hue and value stay.

    A channel lies below the largest one by value * saturation * (a number of the hue), so the
    distances to the largest channel scale as saturation does.
    """
    pixels = image.float()
    value = pixels.amax(dim=0)  # [H, W]
    chroma = value - pixels.amin(dim=0)
    highest = value / chroma.clamp(min=1)  # the factor at which saturation is 1
    return (value - (value - pixels) * highest.clamp(max=factor)).round_().to(torch.uint8)
