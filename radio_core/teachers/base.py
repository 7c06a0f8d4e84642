"""The contract of a teacher: a frozen vision model with a summary and a feature map."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class UnknownTeacher(ValueError):
    """No teacher has the given name; the message lists the known ones."""


@dataclass(frozen=True, kw_only=True)
class TeacherSpec:
    """What must be known of a teacher without running it.

    Attributes:
        name: the name under which it is loaded, e.g. "toy-clip".
        input_size: side in pixels of the square images that it takes.
        mean: per-channel mean that it subtracts, RGB in [0, 1].
        std: per-channel standard deviation that it divides by.
        patch_size: pixels of one feature cell.
        summary_dim: width of its summary vector; None when it has none (SAM).
        feature_dim: width of its spatial features.
        licence: licence of its weights.
    """

    name: str
    input_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    patch_size: int
    summary_dim: int | None
    feature_dim: int
    licence: str

    def __post_init__(self) -> None:
        if self.input_size % self.patch_size:
            raise ValueError(
                f"teacher {self.name}: input_size {self.input_size} is not a multiple of "
                f"patch_size {self.patch_size}"
            )

    @property
    def grid_size(self) -> int:
        """Rows (= columns) of its feature map."""
        return self.input_size // self.patch_size


class TeacherOutput(NamedTuple):
    """A teacher's answer: summary [B, D] or None, features [B, F, h, w]."""

    summary: Tensor | None
    features: Tensor


class Teacher(nn.Module):
    """Base class of the adapters: frozen, always in eval mode, at its own resolution.

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

    def extract(self, images: Tensor) -> TeacherOutput:
        """Run the wrapped model on normalised images [B, 3, input_size, input_size]."""
        raise NotImplementedError

    @torch.no_grad()
    def forward(self, images: Tensor) -> TeacherOutput:
        """Features of images [B, 3, H, W], RGB in [0, 1], resized to the teacher's input size."""
        size = self.spec.input_size
        if images.shape[-2:] != (size, size):
            images = F.interpolate(
                images, size=(size, size), mode="bilinear", align_corners=False, antialias=True
            ).clamp(0, 1)
        return self.extract((images - self.mean) / self.std)
