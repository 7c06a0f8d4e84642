"""What a vision model is to everything else here: images in, a summary and a feature map out."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]


class Resolution(NamedTuple):
    """An image size in pixels."""

    height: int
    width: int


class Output(NamedTuple):
    """What a model says about a batch of images.

    Attributes:
        summary: [B, D], one vector an image; None where there is none (SAM). A student's backbone
            gives its summary tokens [B, S, C] instead, before they are put together.
        features: [B, C, h, w] ("NCHW"), or row by row [B, N, C] where "NLC" was asked for.
    """

    summary: Tensor | None
    features: Tensor


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
class ModelSpec:
    """What must be known of a model without running it.

    Attributes:
        name: for people: a release, the name of a file or folder, a teacher's source.
        input_size: side in pixels of the square images that it sees unless told otherwise.
        patch_size: pixels of one feature cell.
        summary_dim: width of its summary; None where it has none (SAM).
        feature_dim: width of its features.
        mean: per-channel mean that it subtracts, RGB in [0, 1]; with `std`, nothing by default.
        std: per-channel standard deviation that it divides by.
        licence: of its weights; `radio_core.teachers.licences` says what it means.
        flexible: it takes other sizes than `input_size`, square or not.
        square: it is meant for square images; others keep the aspect ratio of a photograph.
        size_step: see `step`; None for patch_size.
        max_size: longest side in pixels that it is meant for; None if unknown.
        windows: it attends in windows where asked to.
        text: it has `encode_text`.
        sam: its features are those that the neck of a Segment Anything takes, or it has a head
            that gives them (`sam_features`).
    """

    name: str
    input_size: int
    patch_size: int
    summary_dim: int | None
    feature_dim: int
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    licence: str = ""
    flexible: bool = False
    square: bool = True
    size_step: int | None = None
    max_size: int | None = None
    windows: bool = False
    text: bool = False
    sam: bool = False

    def __post_init__(self) -> None:
        for size in (self.input_size, self.step):
            if size < 1 or size % self.patch_size:
                raise ValueError(
                    f"{self.name}: input_size {size} is not a multiple of patch_size "
                    f"{self.patch_size}"
                )

    @property
    def step(self) -> int:
        """Pixels of which the sides of its images are multiples."""
        return self.size_step or self.patch_size

    def grid(self, size: tuple[int, int] | None = None) -> tuple[int, int]:
        """Rows and columns of its feature map for images of (height, width) pixels.

        Raises:
            ValueError: as `checked_size`.
        """
        height, width = self.checked_size(size)
        return height // self.patch_size, width // self.patch_size

    def checked_size(self, size: tuple[int, int] | None = None) -> Resolution:
        """The size in pixels at which it runs; None stands for its own square.

        Raises:
            ValueError: it does not take that size; the nearest one that it takes is named.
        """
        own = Resolution(self.input_size, self.input_size)
        if size is None or tuple(size) == own:
            return own
        height, width = size
        if not self.flexible:
            raise ValueError(
                f"{self.name} takes images of {self.input_size} x {self.input_size} pixels only, "
                f"not {height} x {width}"
            )
        near = nearest_resolution(height, width, self.step)
        if near != (height, width):
            raise ValueError(
                f"{self.name} takes sides that are multiples of {self.step} pixels, not {height} "
                f"x {width}; the nearest size is {near.height} x {near.width}"
            )
        return near


@runtime_checkable
class VisionModel(Protocol):
    """A frozen model: RADIO, a teacher, an exported file, a model of another library.

    `radio_core.open_model` opens one by name. Evaluators, benchmarks, demos and the trainer take
    anything that has these members. Two more are there where `spec` says so: with `spec.text`
    `encode_text(texts) -> [T, D]`, comparable by cosine with `image_text(images) -> [B, D]`; with
    `spec.sam` `sam_features(images) -> [B, C, h, w]`, what the neck of a Segment Anything takes.

    Attributes:
        spec: what it is and what it can do.
    """

    spec: ModelSpec

    @property
    def device(self) -> torch.device:
        """Where it computes, and expects its images."""
        ...

    @property
    def crop(self) -> CentreCrop | None:
        """How its own library brings images to its size; None for RADIO's resize.

        Raises:
            ValueError: in a way that is not known here.
        """
        ...

    def __call__(self, images: Tensor, size: tuple[int, int] | None = None) -> Output:
        """Summary and features of images.

        Args:
            images: [B, 3, H, W], RGB in [0, 1], of any size; resized here.
            size: (height, width) in pixels at which it sees them; its own square by default.

        Returns:
            float32 summary [B, D] (or None) and features [B, C, h, w], with (h, w) as
            `spec.grid(size)` says.

        Raises:
            ValueError: images of another shape or type, or a size that it does not take.
        """
        ...

    def fingerprint(self) -> str:
        """SHA-256 over all that decides its outputs: weights, buffers, structure."""
        ...


class TextEncoder(Protocol):
    """What a `VisionModel` with `spec.text` has besides."""

    def image_text(self, images: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Images as for the call -> [B, D] in the space of the texts, not normalised."""
        ...

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """T texts -> [T, D] float32, not normalised, on the model's device."""
        ...


def nearest_resolution(height: int, width: int, step: int) -> Resolution:
    """The valid size nearest to (height, width): each side a positive multiple of `step` pixels."""
    return Resolution(*(max(step, round(side / step) * step) for side in (height, width)))


def check_images(images: Tensor, step: int) -> None:
    """Raise ValueError unless `images` is float [B, 3, H, W], with sides multiples of `step`."""
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"images must have shape [B, 3, H, W], not {list(images.shape)}")
    if not images.is_floating_point():
        raise ValueError(
            f"images must be floating point in [0, 1], not {images.dtype}: use x / 255"
        )
    height, width = images.shape[-2:]
    if height % step or width % step or not (height and width):
        near = nearest_resolution(height, width, step)
        raise ValueError(
            f"image size {height}x{width} is not a multiple of {step} pixels "
            f"(patch size x window size); the nearest valid size is {near.height}x{near.width}"
        )


def any_size(*sides: Any) -> bool:
    """Whether a graph for images of any size is being traced: then sides must decide no branch."""
    return any(isinstance(side, torch.SymInt) for side in sides)
