"""The numbers of the linear probe: mmseg's protocol, and the quick one of the toy world."""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from radio_eval.data import IGNORED
from radio_eval.eval_model import EvalModel
from radio_eval.linear_seg.transforms import Augmentation

PAPER_SIZE = 512
"""Side in pixels of the paper's crops, and of the shorter side of its test images."""


@dataclass(frozen=True, kw_only=True)
class LinearSegParameters:
    """Parameters of the linear probe; the defaults are the paper's.

    Attributes:
        protocol: name of the preset that these numbers come from.
        iterations: optimizer steps.
        batch_size: images a step.
        learning_rate: of AdamW, at the end of the warm-up.
        weight_decay: of AdamW.
        warmup_iterations: steps of the linear warm-up.
        warmup_start: learning rate of the first step.
        poly_power: of the decay after the warm-up, to 0 at the last step.
        scale: most pixels of the longer and of the shorter side; None brings images to the
            model's own size.
        augmentation: of train images; None sees them whole, and then their features are computed
            once and kept in memory, for which all must be of one size.
        crop: side in pixels of train crops and of sliding windows; None where there are neither.
        inference: "slide" averages logits over windows, "whole" takes test images whole.
        stride: distance in pixels of neighbouring windows; None where there are none.
        label_stride: the training loss sees every n-th label pixel of each side; 1 is mmseg's.
        ignore_index: label of pixels that count nowhere, though the loss divides by them too.
        images_per_forward: images or windows that the backbone sees at once.
        seed: of the head, the order of the images and the augmentation.
    """

    protocol: str = "mmseg"
    iterations: int = 160_000
    batch_size: int = 16
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    warmup_iterations: int = 1500
    warmup_start: float = 1e-6
    poly_power: float = 1.0
    scale: tuple[int, int] | None = (4 * PAPER_SIZE, PAPER_SIZE)
    augmentation: Augmentation | None = field(default_factory=Augmentation)
    crop: int | None = PAPER_SIZE
    inference: str = "slide"
    stride: int | None = PAPER_SIZE * 2 // 3
    label_stride: int = 1
    ignore_index: int = field(default=IGNORED, init=False)
    images_per_forward: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("iterations", "batch_size", "label_stride", "images_per_forward"):
            if getattr(self, name) < 1:
                raise ValueError(f"linear-seg parameter {name} must be at least 1")
        for name in ("learning_rate", "poly_power"):
            if getattr(self, name) <= 0:
                raise ValueError(f"linear-seg parameter {name} must be positive")
        for name in ("weight_decay", "warmup_iterations", "warmup_start", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"linear-seg parameter {name} must not be negative")
        self._check_sizes()

    def _check_sizes(self) -> None:
        for name in ("crop", "stride"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"linear-seg parameter {name} must be at least 1")
        if self.scale is not None and min(self.scale) < 1:
            raise ValueError("linear-seg parameter scale must be two sides of at least 1 pixel")
        if self.inference not in ("slide", "whole"):
            raise ValueError(f"linear-seg inference {self.inference!r} must be 'slide' or 'whole'")
        if self.augmentation is not None and (self.scale is None or self.crop is None):
            raise ValueError("linear-seg augmentation needs the parameters scale and crop")
        if self.inference == "slide":
            if self.crop is None or self.stride is None:
                raise ValueError("linear-seg slide inference needs the parameters crop and stride")
            if self.stride > self.crop:
                raise ValueError(
                    f"linear-seg stride {self.stride} must be at most the crop {self.crop}, or "
                    "windows leave gaps"
                )

    def fitted(self, model: EvalModel) -> "LinearSegParameters":
        """The same with a crop that the model takes: the next multiple of its step.

        That is 512 for patches of 16, and 518 for those of 14, as in the paper. The stride keeps
        its share of two thirds if it has it. Models that take squares of one size alone have their
        windows resized, and keep the crop.
        """
        if self.crop is None or model.square or self.crop % model.resize_step == 0:
            return self
        crop = math.ceil(self.crop / model.resize_step) * model.resize_step
        is_two_thirds = self.stride == two_thirds(self.crop)
        return dataclasses.replace(
            self, crop=crop, stride=two_thirds(crop) if is_two_thirds else self.stride
        )


def two_thirds(crop: int) -> int:
    """The paper's stride of a crop: 512 -> 341."""
    return max(1, crop * 2 // 3)


def mmseg_protocol(*, image_size: int = PAPER_SIZE, **changes: Any) -> LinearSegParameters:
    """The paper's protocol, or it with other numbers.

    Args:
        image_size: shorter side of test images, and side of the crops, in pixels; the longer side
            is at most four times as long.
        changes: fields of `LinearSegParameters`. A stride that is not given is two thirds of the
            crop, a warm-up at most a tenth of the iterations.
    """
    crop = changes.get("crop", image_size)
    defaults = {
        "scale": (4 * image_size, image_size),
        "crop": crop,
        "stride": two_thirds(crop),
        "warmup_iterations": _warmup(1500, changes, LinearSegParameters.iterations),
    }
    return LinearSegParameters(**{**defaults, **changes})


def toy_protocol(**changes: Any) -> LinearSegParameters:
    """A quick probe of small images of one size: features are computed once and kept.

    No augmentation, whole images at the model's own size, few steps. The learning rate is ten
    times mmseg's and the loss sees every fourth label pixel of each side; on the toy world 2,000
    steps at mmseg's rate came within half a point of it.

    Args:
        changes: fields of `LinearSegParameters`. A warm-up that is not given takes at most a
            tenth of the iterations.
    """
    defaults = {
        "protocol": "toy",
        "iterations": 400,
        "learning_rate": 1e-2,
        "warmup_iterations": _warmup(50, changes, 400),
        "scale": None,
        "augmentation": None,
        "crop": None,
        "inference": "whole",
        "stride": None,
        "label_stride": 4,
        "images_per_forward": 16,
    }
    return LinearSegParameters(**{**defaults, **changes})


def _warmup(longest: int, changes: dict[str, Any], iterations: int) -> int:
    return int(min(longest, changes.get("iterations", iterations) // 10))


PROTOCOLS: dict[str, Callable[..., LinearSegParameters]] = {
    "mmseg": mmseg_protocol,
    "toy": toy_protocol,
}
"""The presets by name."""
