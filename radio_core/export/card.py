"""What an exported file says about itself, and what runs one."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import torch
from torch import Tensor

from radio_core.config_file import from_mapping, to_mapping
from radio_core.vision import Resolution, nearest_resolution

CARD_KEY = "radio"
"""Under this name a file holds its card, as JSON."""

MODEL = "model"
"""Purpose of the export of a whole model."""

Precision = Literal["float32", "float16", "bfloat16"]


@dataclass(frozen=True, kw_only=True)
class AdaptorCard:
    """One adaptor of an exported model.

    Its feature map is `upsample` times finer than the backbone's; `text_tower` is as
    `radio_core.teachers.text.load_text_tower` takes it.
    """

    name: str
    feature_dim: int
    summary_dim: int | None = None
    upsample: int = 1
    text_tower: str | None = None


@dataclass(frozen=True, kw_only=True)
class ExportCard:
    """The contract of an exported network: images [B, 3, H, W] float32 in, float32 tensors out.

    Attributes:
        name: name of the model, for people.
        toolkit: version of this toolkit that wrote it.
        purpose: "model" for a whole model; another word for a part of one, such as "sam".
        outputs: names of the outputs, in order.
        precision: in which the network computes.
        patch_size: pixels of one feature cell.
        resolution_step: image sides are multiples of this many pixels.
        fixed_size: (height, width) in pixels of the only images that it takes; None for any.
        embed_dim: width of the backbone's features.
        summary_dim: width of the backbone's summary; None for a part without one.
        feature_fmt: layout of all features, "NCHW" [B, C, h, w] or "NLC" [B, N, C].
        window_size: side in patches of the attention windows; None for global attention.
        max_resolution: longest image side in pixels that the model is meant for; None if unknown.
        preferred_resolution: (height, width) in pixels; None if unknown.
    """

    name: str
    toolkit: str
    purpose: str = MODEL
    outputs: tuple[str, ...]
    precision: Precision = "float32"
    patch_size: int
    resolution_step: int
    fixed_size: tuple[int, int] | None = None
    embed_dim: int
    summary_dim: int | None = None
    feature_fmt: Literal["NCHW", "NLC"] = "NCHW"
    window_size: int | None = None
    max_resolution: int | None = None
    preferred_resolution: tuple[int, int] | None = None
    adaptors: tuple[AdaptorCard, ...] = ()
    licence: str = ""

    def __post_init__(self) -> None:
        if min(self.patch_size, self.resolution_step, self.embed_dim) < 1 or not self.outputs:
            raise ValueError("sizes must be positive, and there must be an output")

    def to_json(self) -> str:
        """The card as one JSON object."""
        return json.dumps(to_mapping(self))

    def nearest_size(self, height: int, width: int) -> Resolution:
        """The image size in pixels nearest to (height, width) that the network takes."""
        if self.fixed_size is not None:
            return Resolution(*self.fixed_size)
        return nearest_resolution(height, width, self.resolution_step)

    def check_size(self, height: int, width: int) -> None:
        """Raise ValueError, naming the nearest size, unless it takes height x width pixels."""
        near = self.nearest_size(height, width)
        if near != (height, width):
            raise ValueError(
                f"image size {height}x{width} does not fit {self.name or 'the model'} (sides are "
                f"multiples of {self.resolution_step} pixels); the nearest valid size is "
                f"{near.height}x{near.width}"
            )


class Engine(Protocol):
    """What runs an exported file: `card` describes it, `files` are all that it was read from."""

    card: ExportCard
    device: torch.device
    files: tuple[Path, ...]

    def run(self, images: Tensor) -> dict[str, Tensor]:
        """Float32 images [B, 3, H, W] to output name -> float32 tensor, on any device."""
        ...


def read_card(text: str | bytes | None, where: str) -> ExportCard:
    """The card that `ExportCard.to_json` wrote; ValueError names `where` for a bad one."""
    if text is None:
        raise ValueError(f"{where} was not written by `radio export`: it says nothing about itself")
    try:
        return from_mapping(ExportCard, json.loads(text))
    except ValueError as error:
        raise ValueError(
            f"{where} describes itself in a way that this version does not know: {error}"
        ) from error
