"""A frozen model on images of any size: its features, and a head's logits in sliding windows."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from radio_core.vision import VisionModel
from radio_eval.mmseg.samples import to_unit

_FLOATS_AT_ONCE = 2**26
"""Upsampled logits that are in memory at once: 256 MB."""


class Backbone:
    """A frozen model on windows of any size.

    Windows whose sides are no multiples of the model's step are padded with black on the right and
    below. Models that take squares of one size alone see them resized.
    """

    def __init__(self, model: VisionModel) -> None:
        self._model = model

    @torch.no_grad()
    def features(self, windows: Tensor) -> Tensor:
        """[n, 3, h, w] uint8, or float32 in [0, 1] -> [n, C, fh, fw] float32, on its device."""
        images = to_unit(windows.to(self._model.device))
        height, width = images.shape[-2:]
        covered = self._covered(height, width)
        images = F.pad(images, (0, covered[1] - width, 0, covered[0] - height))
        size = None if self._model.spec.square else covered
        return self._model(images, size).features.float()

    @torch.no_grad()
    def logits(self, head: nn.Module, windows: Tensor) -> Tensor:
        """A head's logits [n, K, h, w] of windows [n, 3, h, w], upsampled bilinearly."""
        height, width = windows.shape[-2:]
        logits = F.interpolate(
            head(self.features(windows)),
            size=self._covered(height, width),
            mode="bilinear",
            align_corners=False,
        )
        return logits[..., :height, :width]

    def _covered(self, height: int, width: int) -> tuple[int, int]:
        """The size that the features of a window stand for."""
        spec = self._model.spec
        if spec.square:
            return height, width
        return math.ceil(height / spec.step) * spec.step, math.ceil(width / spec.step) * spec.step


class Window(NamedTuple):
    """A box in pixels; `bottom` and `right` lie outside."""

    top: int
    left: int
    bottom: int
    right: int


def window_positions(height: int, width: int, crop: int, stride: int) -> list[Window]:
    """Windows that cover an image, row by row, the last of a row or column clamped to the edge.

    A side of the image that is shorter than `crop` is covered whole; `stride` is at most `crop`.
    """

    def starts(length: int) -> list[int]:
        count = max(length - crop + stride - 1, 0) // stride + 1
        return [max(min(i * stride, length - crop), 0) for i in range(count)]

    return [
        Window(top, left, min(top + crop, height), min(left + crop, width))
        for top in starts(height)
        for left in starts(width)
    ]


def slide_logits(
    encode_decode: Callable[[Tensor], Tensor],
    image: Tensor,
    *,
    crop: int,
    stride: int,
    windows_per_call: int = 1,
) -> Tensor:
    """Logits of an image as mmseg has them: averaged where sliding windows overlap.

    Args:
        encode_decode: windows [n, 3, h, w] -> logits [n, K, h, w].
        image: [3, H, W].
        crop: side of a window in pixels.
        stride: distance of neighbouring windows.
        windows_per_call: n, at most.

    Returns:
        [K, H, W].
    """
    height, width = image.shape[-2:]
    windows = window_positions(height, width, crop, stride)
    total: Tensor | None = None
    count = torch.zeros(1, height, width, device=image.device)
    for start in range(0, len(windows), windows_per_call):
        part = windows[start : start + windows_per_call]
        inputs = torch.stack([image[:, w.top : w.bottom, w.left : w.right] for w in part])
        for window, logits in zip(part, encode_decode(inputs), strict=True):
            if total is None:
                total = logits.new_zeros(len(logits), height, width)
            total[:, window.top : window.bottom, window.left : window.right] += logits
            count[:, window.top : window.bottom, window.left : window.right] += 1
    assert total is not None  # there is always a window
    return total / count


def predict_labels(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """The class of every pixel: logits [K, h, w] resized bilinearly to `size`, then the argmax.

    A few classes are resized at a time, so that memory does not grow with their number.

    Returns:
        [H, W] int64 in [0, K).
    """
    at_once = max(1, _FLOATS_AT_ONCE // (size[0] * size[1]))
    best = logits.new_full(size, float("-inf"))
    labels = torch.zeros(size, dtype=torch.long, device=logits.device)
    for start in range(0, len(logits), at_once):
        part = logits[None, start : start + at_once]
        resized = F.interpolate(part, size=size, mode="bilinear", align_corners=False)
        highest, index = resized[0].max(dim=0)
        better = highest > best
        best[better] = highest[better]
        labels[better] = index[better] + start
    return labels
