"""The numbers of the linear probe: mmseg's protocol, and the quick one of the toy world."""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from radio_core.vision import ModelSpec
from radio_eval.data.segmentation import IGNORED

PAPER_SIZE = 512
"""Side in pixels of the paper's crops, and of the shorter side of its test images."""


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """What happens to train images, in this order; the defaults are mmseg's.

    Attributes:
        resize_ratio: lowest and highest factor of the scale, drawn uniformly.
        max_class_share: a crop is drawn again while one class has at least this share of its
            labelled pixels.
        crop_tries: how often; then the next crop is taken whatever it shows.
        flip_probability: of a horizontal flip.
        distortion_probability: of each of the four distortions below.
        brightness: largest offset, in levels of 0 to 255.
        contrast: lowest and highest factor of the pixels.
        saturation: lowest and highest factor of HSV's saturation.
        hue: largest turn of HSV's hue, in steps of 2 degrees.
    """

    resize_ratio: tuple[float, float] = (0.5, 2.0)
    max_class_share: float = 0.75
    crop_tries: int = 10
    flip_probability: float = 0.5
    distortion_probability: float = 0.5
    brightness: int = 32
    contrast: tuple[float, float] = (0.5, 1.5)
    saturation: tuple[float, float] = (0.5, 1.5)
    hue: int = 18

    def __post_init__(self) -> None:
        for name in ("resize_ratio", "contrast", "saturation"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"augmentation {name} {(low, high)} must satisfy 0 < low <= high")
        for name in ("max_class_share", "flip_probability", "distortion_probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"augmentation {name} must lie in [0, 1]")
        if self.crop_tries < 0 or not 0 <= self.brightness <= 255 or not 0 <= self.hue <= 90:
            raise ValueError(
                "augmentation crop_tries must not be negative, brightness lie in [0, 255] and hue "
                "in [0, 90]"
            )


@dataclass(frozen=True, kw_only=True)
class LinearSegParameters:
    """Parameters of the linear probe; the defaults are the paper's.

    Most are as the fields of `tasks.linear_seg.LinearSeg` say. Beyond that: a `scale` of None
    brings images to the model's own size; an `augmentation` of None sees train images whole, and
    then their features are computed once and kept in memory, for which all must be of one size;
    `crop` and `stride` are None where there are no crops and windows; pixels whose label is
    `ignore_index` count nowhere, though the loss divides by them too.
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

    def fitted(self, spec: ModelSpec) -> "LinearSegParameters":
        """The same with a crop that a model takes: the next multiple of its step.

        That is 512 for patches of 16, and 518 for those of 14, as in the paper. The stride keeps
        its share of two thirds if it has it. Models that take squares of one size alone have their
        windows resized, and keep the crop.
        """
        if self.crop is None or spec.square or self.crop % spec.step == 0:
            return self
        crop = math.ceil(self.crop / spec.step) * spec.step
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
    iterations = changes.get("iterations", LinearSegParameters.iterations)
    defaults = {
        "scale": (4 * image_size, image_size),
        "crop": crop,
        "stride": two_thirds(crop),
        "warmup_iterations": min(1500, iterations // 10),
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
        "warmup_iterations": min(50, changes.get("iterations", 400) // 10),
        "scale": None,
        "augmentation": None,
        "crop": None,
        "inference": "whole",
        "stride": None,
        "label_stride": 4,
        "images_per_forward": 16,
    }
    return LinearSegParameters(**{**defaults, **changes})


PROTOCOLS: dict[str, Callable[..., LinearSegParameters]] = {
    "mmseg": mmseg_protocol,
    "toy": toy_protocol,
}
"""The presets by name."""
