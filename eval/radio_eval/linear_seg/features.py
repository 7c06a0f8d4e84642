"""The frozen backbone of the probe: windows of any size in, features and logits of them out."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from radio_eval.eval_model import EvalModel, need
from radio_eval.linear_seg.batches import to_unit


class Backbone:
    """A frozen model on windows of any size.

    Windows whose sides are no multiples of the model's step are padded with black on the right and
    below. Models that take squares of one size alone see them resized.

    Args:
        model: has features.

    Raises:
        ValueError: the model has no features.
    """

    def __init__(self, model: EvalModel) -> None:
        self._encode = need(model.features, model, "features", "linear_seg")
        self._model = model
        self._device = model.device

    @torch.no_grad()
    def features(self, windows: Tensor) -> Tensor:
        """[n, 3, h, w] uint8, or float32 in [0, 1] -> [n, C, fh, fw] float32, on its device."""
        images = to_unit(windows.to(self._device))
        height, width = images.shape[-2:]
        covered = self._covered(height, width)
        images = F.pad(images, (0, covered[1] - width, 0, covered[0] - height))
        side = self._model.image_size
        if self._model.square and covered != (side, side):
            images = F.interpolate(
                images, size=(side, side), mode="bilinear", align_corners=False, antialias=True
            ).clamp(0, 1)
        return self._encode(images).float()

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

    def channels(self) -> int:
        """C, as an image of the model's own size shows."""
        side = self._model.image_size
        return self.features(torch.zeros(1, 3, side, side)).shape[1]

    def _covered(self, height: int, width: int) -> tuple[int, int]:
        """The size that the features of a window stand for."""
        if self._model.square:
            return height, width
        step = self._model.resize_step
        return math.ceil(height / step) * step, math.ceil(width / step) * step
