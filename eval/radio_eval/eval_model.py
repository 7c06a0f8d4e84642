"""What a model is to the evaluators: a set of functions, None where it cannot do something."""

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from radio_core.models.fingerprint import weights_fingerprint

if TYPE_CHECKING:
    from segment_anything.modeling import Sam

ImageFunction = Callable[[Tensor], Tensor]
"""Images [B, 3, H, W], RGB in [0, 1], on the model's device -> one result an image [B, ...]."""

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class ImageText:
    """Images and texts in one space.

    Attributes:
        encode_image: [B, 3, H, W] in [0, 1] -> [B, D], not necessarily normalised.
        encode_text: T sentences -> [T, D], not necessarily normalised.
    """

    encode_image: ImageFunction
    encode_text: Callable[[Sequence[str]], Tensor]


Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]


@dataclass(frozen=True, kw_only=True)
class CentreCrop:
    """How an image becomes a square of one size: it is resized, then its middle is cut out.

    Attributes:
        size: side of the square in pixels.
        resize: pixels of the shorter side before the cut; of both sides with `squash`.
        squash: do not keep the aspect ratio.
        interpolation: of the resize.
    """

    size: int
    resize: int
    squash: bool = False
    interpolation: Interpolation = "bicubic"

    def __post_init__(self) -> None:
        if not 1 <= self.size <= self.resize:
            raise ValueError(
                f"a crop of {self.size} pixels does not fit an image resized to {self.resize}"
            )

    def scaled(self, size: int) -> "CentreCrop":
        """The same for another size; the share that is cut off stays."""
        resize = max(size, round(self.resize * size / self.size))
        return dataclasses.replace(self, size=size, resize=resize)


@dataclass(frozen=True, kw_only=True)
class EvalModel:
    """A frozen model, ready to be evaluated.

    Attributes:
        name: name of its row in tables.
        image_size: side in pixels to which images are brought (the shortest one if not square).
        resize_step: both sides of an image become multiples of it.
        square: it takes squares of `image_size` only.
        summary: images -> [B, D], for kNN.
        features: images -> [B, C, h, w], for dense tasks.
        image_text: for zero-shot classification.
        sam: builds the Segment Anything model that has this model's features inside.
        crop: how images become squares for `summary` and `image_text`; None for RADIO's resize.
        module: the network behind the functions, None for one that is not known.
        config: what decides the outputs besides the weights, as text.
        weights: SHA-256 of the files of a network that is not known; empty for others.
    """

    name: str
    image_size: int
    resize_step: int
    square: bool = False
    summary: ImageFunction | None = None
    features: ImageFunction | None = None
    image_text: ImageText | None = None
    sam: "Callable[[], Sam] | None" = None
    crop: CentreCrop | None = None
    module: nn.Module | None = None
    config: str = ""
    weights: str = ""

    @property
    def device(self) -> torch.device:
        """Where the functions expect images."""
        tensors = () if self.module is None else self.module.parameters()
        return next((tensor.device for tensor in tensors), torch.device("cpu"))

    def fingerprint(self) -> str | None:
        """SHA-256 over weights, buffers and structure; None if neither it nor a file is known."""
        if self.module is None:
            if not self.weights:
                return None
            return hashlib.sha256(f"{self.weights}\n{self.config}".encode()).hexdigest()
        digest = hashlib.sha256(weights_fingerprint(self.module).encode())
        for name, buffer in self.module.named_buffers():  # also those that checkpoints leave out
            flat = buffer.detach().cpu().contiguous().reshape(-1)
            digest.update(name.encode() + flat.view(torch.uint8).numpy().tobytes())
        digest.update(f"{self.module!r}\n{self.config}".encode())
        return digest.hexdigest()

    def resized(self, size: int) -> "EvalModel":
        """The same model, fed with images of another size.

        Args:
            size: side in pixels, rounded to the nearest multiple of the model's step.

        Raises:
            ValueError: the model takes images of its own size only.
        """
        rounded = max(1, round(size / self.resize_step)) * self.resize_step
        if self.square and size != self.image_size:
            raise ValueError(
                f"model {self.name!r} takes images of {self.image_size} pixels only, not {size}: "
                "leave out --image-size"
            )
        if self.square:
            return self
        crop = None if self.crop is None else self.crop.scaled(rounded)
        return dataclasses.replace(self, image_size=rounded, crop=crop)

    def resizing(self) -> dict[str, Any]:
        """How images are brought to their size for summaries, as JSON types."""
        if self.crop is not None:
            return {
                "resize": "centre crop",
                "size": self.crop.size,
                "shorter_side": self.crop.resize,
                "squash": self.crop.squash,
                "interpolation": self.crop.interpolation,
            }
        how = "RADIO's, to squares" if self.square else "RADIO's"
        return {"resize": how, "size": self.image_size, "step": self.resize_step}


def need(capability: T | None, model: EvalModel, what: str, task: str) -> T:
    """The capability, or a ValueError that says which model lacks it for which task."""
    if capability is None:
        raise ValueError(f"model {model.name!r} cannot be evaluated on {task}: it has no {what}")
    return capability
