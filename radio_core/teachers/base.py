"""What all teachers have in common: frozen, in eval mode, with a normalisation of their own."""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from radio_core.models.fingerprint import weights_fingerprint
from radio_core.vision import CentreCrop, ModelSpec, Output, check_images


class Teacher(nn.Module):
    """Base class of the adapters, a `radio_core.vision.VisionModel`.

    A new teacher is one file that subclasses this and implements `extract`.

    """

    mean: Tensor
    std: Tensor
    _as_square = False

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec
        self.register_buffer("mean", torch.tensor(spec.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(spec.std).view(3, 1, 1), persistent=False)

    @property
    def device(self) -> torch.device:
        """Where it computes, and expects its images."""
        return self.mean.device

    @property
    def crop(self) -> CentreCrop | None:
        """How its own library brings images to its size; None for RADIO's resize.

        Raises:
            ValueError: in a way that is not known here.
        """
        return None

    def as_square(self) -> "Teacher":
        """Take squares of one size, resized as RADIO's images are, not as its library resizes them.

        Returns self.
        """
        self.spec = replace(self.spec, square=True)
        self._as_square = True
        return self

    def fingerprint(self) -> str:
        """SHA-256 over weights, buffers and structure."""
        return weights_fingerprint(self)

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

    def extract(self, images: Tensor) -> Output:
        """Run the wrapped model on normalised images [B, 3, H, W].

        H and W are `input_size`, or multiples of `spec.step` where the spec is flexible.
        """
        raise NotImplementedError

    @torch.no_grad()
    def forward(self, images: Tensor, size: tuple[int, int] | None = None) -> Output:
        """Summary and features of images, as `VisionModel.__call__` documents."""
        images = self.sized(images, size)
        summary, features = self.extract((images - self.mean) / self.std)
        return Output(None if summary is None else summary.float(), features.float())

    def sized(self, images: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Images [B, 3, H, W] in [0, 1], resized (bilinear, antialiased) to `size` in pixels.

        Raises:
            ValueError: as `VisionModel.__call__`.
        """
        check_images(images, step=1)
        sides = self.spec.checked_size(size)
        if tuple(images.shape[-2:]) == sides:
            return images
        return F.interpolate(
            images, size=sides, mode="bilinear", align_corners=False, antialias=True
        ).clamp(0, 1)
