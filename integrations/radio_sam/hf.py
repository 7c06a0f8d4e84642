"""RADIO inside transformers' `SamModel`."""

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from radio_core.extras import require
from radio_core.models.radio import RadioModel
from radio_sam.swap import RadioImageEncoder, check_radio, input_width

if TYPE_CHECKING:
    from transformers import SamModel

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def swap_hf_image_encoder(
    sam_model: "SamModel",
    radio: RadioModel,
    adaptor: str = "sam",
    window_size: int | None = None,
) -> "SamModel":
    """A transformers `SamModel` with RADIO's features in front of SAM's neck.

    `SamProcessor` and everything else around the model stay as they are. The pixel values must be
    normalised as `SamProcessor` does by default, with ImageNet's mean and standard deviation.

    Args:
        sam_model: the model that gives neck, prompt encoder and mask decoder; it stays as it was.
        radio: model with a `sam` adaptor; used as it is, not copied.
        adaptor: name of that adaptor.
        window_size: see `swap_image_encoder`.

    Returns:
        The new model, in eval mode, on `sam_model`'s device.

    Raises:
        ValueError: no such adaptor, or one of another width than SAM's neck takes.
    """
    transformers = require("transformers", extra="hf")
    if not isinstance(sam_model, transformers.SamModel):
        raise ValueError(
            f"sam_model must be a transformers.SamModel, not {type(sam_model).__name__}"
        )
    old = sam_model.vision_encoder
    check_radio(radio, adaptor, input_width(old.neck), window_size)
    encoder = RadioVisionEncoder(old, radio, adaptor, window_size)
    # As if the old encoder had been copied already, to the new one.
    swapped: SamModel = copy.deepcopy(sam_model, {id(old): encoder})
    swapped.to(sam_model.device).eval()
    return swapped


class RadioVisionEncoder(nn.Module):
    """What `SamModel` calls its vision encoder, with RADIO in front of a copy of `old`'s neck."""

    def __init__(
        self, old: nn.Module, radio: RadioModel, adaptor: str, window_size: int | None
    ) -> None:
        super().__init__()
        config: Any = old.config
        neck: Any = old.neck
        self.config = config
        self.encoder = RadioImageEncoder(
            radio,
            adaptor=adaptor,
            neck=_ChannelsLastNeck(copy.deepcopy(neck)),
            image_size=config.image_size,
            grid_size=config.image_size // config.patch_size,
            pixel_mean=255 * torch.tensor(IMAGENET_MEAN).view(3, 1, 1),
            pixel_std=255 * torch.tensor(IMAGENET_STD).view(3, 1, 1),
            window_size=window_size,
        )

    def forward(self, pixel_values: Tensor | None = None, **_: Any) -> Any:
        """[B, 3, side, side] from `SamProcessor` -> last_hidden_state [B, D, rows, cols]."""
        if pixel_values is None:
            raise ValueError("You have to specify pixel_values")
        outputs = require("transformers.models.sam.modeling_sam", extra="hf")
        return outputs.SamVisionEncoderOutput(last_hidden_state=self.encoder(pixel_values))


class _ChannelsLastNeck(nn.Module):
    """Transformers' neck takes [B, rows, cols, C]."""

    def __init__(self, neck: nn.Module) -> None:
        super().__init__()
        self.neck = neck

    def forward(self, features: Tensor) -> Tensor:
        embeddings: Tensor = self.neck(features.permute(0, 2, 3, 1))
        return embeddings
