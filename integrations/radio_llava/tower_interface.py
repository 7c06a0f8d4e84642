"""What LLaVA asks of every vision tower, for towers whose images come in [0, 1]."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from radio_llava.images import RadioImageProcessor
from radio_llava.shape import TowerShape

_REGISTER_PARAMETER = nn.Module.register_parameter
"""torch's own, see `plain_tensors`."""


class LlavaTower(nn.Module):
    """Base class of our towers; they take images [0, 1] that the model normalises itself.

    Attributes:
        is_loaded: whether the weights are there.
        vision_tower_name: as `--vision_tower` has it.
        image_processor: makes the images, once loaded.
        keeps_float32: `to` leaves out a cast to float16. LLaVA's training casts every tower to
            it unless it runs in bfloat16, but an optimizer cannot train float16 weights.
    """

    image_processor: RadioImageProcessor

    def __init__(self, vision_tower: str) -> None:
        super().__init__()
        self.is_loaded = False
        self.vision_tower_name = vision_tower
        self.keeps_float32 = False

    def load_model(self, device_map: Any = None) -> None:
        """Load the weights, in eval mode, unless that is done.

        Args:
            device_map: as transformers takes it; the tower goes to one device as a whole.
        """
        raise NotImplementedError

    def forward(self, images: Tensor | Sequence[Tensor]) -> Tensor | list[Tensor]:
        """[B, 3, H, W] to [B, N, C], or several [3, H, W] to a list of [N_i, C]."""
        raise NotImplementedError

    @property
    def config(self) -> TowerShape:
        """The tower's sizes. Weights are loaded only where nothing else tells them."""
        raise NotImplementedError

    @property
    def dtype(self) -> torch.dtype:
        """The dtype in which the network computes."""
        raise NotImplementedError

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        raise NotImplementedError

    def train(self, mode: bool = True) -> "LlavaTower":
        """Stay in eval mode, also while the weights are trained."""
        super().train(False)
        return self

    @property
    def dummy_feature(self) -> Tensor:
        """One token [1, C] of zeros."""
        return torch.zeros(1, self.hidden_size, device=self.device, dtype=self.dtype)

    @property
    def hidden_size(self) -> int:
        """Width C of the features."""
        return self.config.hidden_size

    @property
    def num_patches_per_side(self) -> int:
        """Tokens along one side of a square image."""
        return self.config.image_size // self.config.patch_size

    @property
    def num_patches(self) -> int:
        """Tokens of a square image, the most that an image can have."""
        return self.num_patches_per_side**2

    def to(self, *args: Any, **kwargs: Any) -> "LlavaTower":
        """As `nn.Module.to`, but with float32 for float16 where `keeps_float32` or on a CPU.

        LLaVA's own code asks for float16 on any device. On a CPU that is only slower. A cast that
        names no device is done as it is said.
        """
        to_cpu = "device" in kwargs and torch.device(kwargs["device"]).type == "cpu"
        if kwargs.get("dtype") == torch.float16 and (self.keeps_float32 or to_cpu):
            kwargs = kwargs | {"dtype": torch.float32}
        super().to(*args, **kwargs)
        return self


@contextmanager
def plain_tensors() -> Iterator[None]:
    """Real float32 tensors, also where transformers builds a model without values.

    Newer versions do that on the meta device, older ones by way of `register_parameter`, which
    accelerate's `init_empty_weights` replaces.
    """
    default, register = torch.get_default_dtype(), nn.Module.register_parameter
    torch.set_default_dtype(torch.float32)
    nn.Module.register_parameter = _REGISTER_PARAMETER  # type: ignore[method-assign]
    try:
        with torch.device("cpu"):
            yield
    finally:
        torch.set_default_dtype(default)
        nn.Module.register_parameter = register  # type: ignore[method-assign]


def device_of(device_map: Any) -> torch.device | None:
    """The one device of a device map; None where it names none."""
    if isinstance(device_map, dict):
        device_map = device_map.get("")
    if device_map == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return None if device_map is None else torch.device(device_map)
