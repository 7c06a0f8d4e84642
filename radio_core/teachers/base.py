"""The contract of a teacher: a frozen vision model with a summary and a feature map."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from radio_core.models.backbone import check_images, nearest_resolution


class UnknownTeacher(ValueError):
    """No teacher has the given name; the message lists the known ones."""


@dataclass(frozen=True, kw_only=True)
class TeacherSpec:
    """What must be known of a teacher without running it.

    Attributes:
        name: the name under which it is loaded, e.g. "toy-clip".
        input_size: side in pixels of the square images that it takes unless told otherwise.
        mean: per-channel mean that it subtracts, RGB in [0, 1].
        std: per-channel standard deviation that it divides by.
        patch_size: pixels of one feature cell.
        summary_dim: width of its summary vector; None when it has none (SAM).
        feature_dim: width of its spatial features.
        licence: licence of its weights; `radio_core.teachers.licences` says what it means.
        flexible: it takes other sizes too, both sides multiples of `step`, square or not.
        size_step: see `step`; None for patch_size.
    """

    name: str
    input_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    patch_size: int
    summary_dim: int | None
    feature_dim: int
    licence: str
    flexible: bool = False
    size_step: int | None = None

    def __post_init__(self) -> None:
        for size in (self.input_size, self.step):
            if size < 1 or size % self.patch_size:
                raise ValueError(
                    f"teacher {self.name}: input_size {size} is not a multiple of "
                    f"patch_size {self.patch_size}"
                )

    @property
    def step(self) -> int:
        """Pixels of which the sides of its images are multiples."""
        return self.size_step or self.patch_size

    @property
    def grid_size(self) -> int:
        """Rows (= columns) of its feature map at `input_size`."""
        return self.input_size // self.patch_size

    def grid(self, size: tuple[int, int] | None = None) -> tuple[int, int]:
        """Rows and columns of its feature map for images of (height, width) pixels.

        Raises:
            ValueError: as `checked_size`.
        """
        height, width = self.checked_size(size)
        return height // self.patch_size, width // self.patch_size

    def checked_size(self, size: tuple[int, int] | None = None) -> tuple[int, int]:
        """The (height, width) in pixels at which it runs; None stands for its own square.

        Raises:
            ValueError: it does not take that size; the nearest one that it takes is named.
        """
        own = (self.input_size, self.input_size)
        if size is None or tuple(size) == own:
            return own
        height, width = size
        if not self.flexible:
            raise ValueError(
                f"teacher {self.name} takes images of {self.input_size} x {self.input_size} "
                f"pixels only, not {height} x {width}"
            )
        near = nearest_resolution(height, width, self.step)
        if near != (height, width):
            raise ValueError(
                f"teacher {self.name} takes sides that are multiples of {self.step} pixels, not "
                f"{height} x {width}; the nearest size is {near.height} x {near.width}"
            )
        return height, width


class TeacherOutput(NamedTuple):
    """A teacher's answer: summary [B, D] or None, features [B, F, h, w]."""

    summary: Tensor | None
    features: Tensor


class Teacher(nn.Module):
    """Base class of the adapters: frozen, always in eval mode, with its own normalisation.

    A new teacher is one file that subclasses this and implements `extract`.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, spec: TeacherSpec) -> None:
        super().__init__()
        self.spec = spec
        self.register_buffer("mean", torch.tensor(spec.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(spec.std).view(3, 1, 1), persistent=False)

    def freeze(self) -> "Teacher":
        """Stop gradients to every weight and enter eval mode; called once the model is attached."""
        self.requires_grad_(False)
        return self.eval()

    def train(self, mode: bool = True) -> "Teacher":
        """Stay in eval mode whatever `mode` says: a teacher never trains."""
        super().train(False)
        return self

    def at(self, input_size: int) -> "Teacher":
        """Make another side in pixels the one that it takes unless told otherwise. Returns self.

        Raises:
            ValueError: it does not take that size.
        """
        self.spec.checked_size((input_size, input_size))
        self.spec = replace(self.spec, input_size=input_size)
        return self

    def extract(self, images: Tensor) -> TeacherOutput:
        """Run the wrapped model on normalised images [B, 3, H, W].

        H and W are `input_size`, or multiples of `spec.step` where the spec is flexible.
        """
        raise NotImplementedError

    @torch.no_grad()
    def forward(self, images: Tensor, size: tuple[int, int] | None = None) -> TeacherOutput:
        """Summary and features of images.

        Args:
            images: [B, 3, H, W], RGB in [0, 1], of any size; resized here.
            size: (height, width) in pixels at which the teacher sees them; its own square by
                default.

        Returns:
            float32 summary [B, D] (or None) and features [B, F, h, w], with (h, w) as
            `spec.grid(size)` says.

        Raises:
            ValueError: images of another shape or type, or a size that the teacher does not take.
        """
        check_images(images, step=1)
        sides = self.spec.checked_size(size)
        if tuple(images.shape[-2:]) != sides:
            images = F.interpolate(
                images, size=sides, mode="bilinear", align_corners=False, antialias=True
            ).clamp(0, 1)
        summary, features = self.extract((images - self.mean) / self.std)
        return TeacherOutput(None if summary is None else summary.float(), features.float())
