"""Sliding-window inference as mmseg does it: logits are averaged where windows overlap."""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

_FLOATS_AT_ONCE = 2**26
"""Upsampled logits that are in memory at once: 256 MB."""


class Window(NamedTuple):
    """A box in pixels; `bottom` and `right` lie outside."""

    top: int
    left: int
    bottom: int
    right: int


def window_positions(height: int, width: int, crop: int, stride: int) -> list[Window]:
    """Windows that cover an image, row by row, the last of a row or column clamped to the edge.

    Args:
        height: of the image in pixels.
        width: of the image in pixels.
        crop: side of a window; a shorter side of the image is covered whole.
        stride: distance of neighbouring windows, at most `crop`.

    Raises:
        ValueError: a size below 1, or windows that leave gaps.
    """
    if min(height, width, crop, stride) < 1 or stride > crop:
        raise ValueError(
            f"an image of {height} x {width} pixels, windows of {crop} and stride {stride}: all "
            "must be at least 1, and the stride at most the window"
        )
    return [
        Window(top, left, min(top + crop, height), min(left + crop, width))
        for top in _starts(height, crop, stride)
        for left in _starts(width, crop, stride)
    ]


def _starts(length: int, crop: int, stride: int) -> list[int]:
    count = max(length - crop + stride - 1, 0) // stride + 1
    return [max(min(i * stride, length - crop), 0) for i in range(count)]


def slide_logits(
    encode_decode: Callable[[Tensor], Tensor],
    image: Tensor,
    *,
    crop: int,
    stride: int,
    windows_per_call: int = 1,
) -> Tensor:
    """Logits of an image, averaged over windows.

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
    classes = len(logits)
    at_once = max(1, _FLOATS_AT_ONCE // (size[0] * size[1]))
    best = logits.new_full(size, float("-inf"))
    labels = torch.zeros(size, dtype=torch.long, device=logits.device)
    for start in range(0, classes, at_once):
        part = logits[None, start : start + at_once]
        resized = F.interpolate(part, size=size, mode="bilinear", align_corners=False)
        highest, index = resized[0].max(dim=0)
        better = highest > best
        best[better] = highest[better]
        labels[better] = index[better] + start
    return labels
