"""Replace the image encoder of a Segment Anything model by a RADIO model (paper section 5.2)."""

import copy
from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor, nn

from radio_core.extras import require
from radio_core.models.adaptors import Adaptor
from radio_core.models.backbone import nearest_resolution
from radio_core.models.radio import RadioModel

if TYPE_CHECKING:
    from segment_anything.modeling import Sam


class RadioImageEncoder(nn.Module):
    """An image encoder for SAM: RADIO up to SAM's neck, then SAM's own neck.

    It takes what SAM's encoder takes, undoes SAM's pixel normalisation, and runs RADIO on RGB in
    [0, 1]. SAM pads with zeros after the normalisation, so RADIO sees the padding in SAM's mean
    colour, as SAM's own encoder does.

    Args:
        radio: model with the adaptor `adaptor`.
        adaptor: name of the adaptor that imitates SAM's features before the neck.
        neck: SAM's neck, [B, C, g, g] -> [B, D, g, g].
        image_size: side in pixels of the padded, square input.
        grid_size: rows (= columns) of the feature map that the neck gets.
        pixel_mean: [3, 1, 1], SAM's mean, in 0-255.
        pixel_std: [3, 1, 1], SAM's standard deviation, in 0-255.
        window_size: side in patches of RADIO's attention windows; None for the model's own, 0 for
            global attention.

    Attributes:
        img_size: same as `image_size`, under the name that SAM's predictor reads.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self,
        radio: RadioModel,
        *,
        adaptor: str,
        neck: nn.Module,
        image_size: int,
        grid_size: int,
        pixel_mean: Tensor,
        pixel_std: Tensor,
        window_size: int | None = None,
    ) -> None:
        super().__init__()
        self.radio = radio
        self.adaptor = adaptor
        self.neck = neck
        self.img_size = image_size
        self.grid_size = grid_size
        self.window_size = window_size
        self.register_buffer("pixel_mean", pixel_mean.clone(), persistent=False)
        self.register_buffer("pixel_std", pixel_std.clone(), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Encode a batch.

        Args:
            images: [B, 3, img_size, img_size], normalised and padded by `Sam.preprocess`.

        Returns:
            Image embeddings [B, D, grid_size, grid_size] after the neck.
        """
        pixels = ((images * self.pixel_std + self.pixel_mean) / 255).clamp(0, 1)
        embeddings: Tensor = self.neck(self.features(pixels))
        return embeddings

    def features(self, images: Tensor) -> Tensor:
        """What the neck gets, [B, C, grid_size, grid_size], of images [B, 3, S, S] in [0, 1]."""
        window = self.radio.window_size if self.window_size is None else self.window_size
        height, width = images.shape[-2:]
        size = nearest_resolution(height, width, self.radio.patch_size * (window or 1))
        if (height, width) != size:
            images = F.interpolate(
                images, size=size, mode="bilinear", align_corners=False, antialias=True
            )
        outputs = self.radio.forward_all(
            images, (self.adaptor,), feature_fmt="NCHW", window_size=self.window_size
        )
        features = outputs[self.adaptor].features
        grid = (self.grid_size, self.grid_size)
        if features.shape[-2:] != grid:
            features = F.interpolate(features, size=grid, mode="bilinear", align_corners=False)
        return features


def swap_image_encoder(
    sam: "Sam",
    radio: RadioModel,
    adaptor: str = "sam",
    window_size: int | None = None,
    image_size: int | None = None,
) -> "Sam":
    """A Segment Anything model with RADIO's features in front of SAM's neck.

    The result is a real `segment_anything.modeling.Sam`: `SamPredictor` and everything else of
    that package work on it unmodified. `sam` stays as it was (its neck, prompt encoder and mask
    decoder are copied); `radio` is used as it is, not copied.

    Args:
        sam: the model that gives neck, prompt encoder and mask decoder.
        radio: model with a `sam` adaptor.
        adaptor: name of that adaptor.
        window_size: side in patches of RADIO's attention windows; None for the model's own, 0 for
            global attention.
        image_size: side in pixels of the padded input; None for SAM's own. The feature grid keeps
            SAM's pixels a cell.

    Returns:
        The new model, in eval mode, on `sam`'s device.

    Raises:
        ValueError: no such adaptor, an adaptor of another width than SAM's neck takes, or an
            image size that is not a multiple of SAM's patch size.
    """
    modeling = require("segment_anything.modeling", extra="sam")
    old_grid = int(sam.prompt_encoder.image_embedding_size[0])
    patch_size = int(sam.image_encoder.img_size) // old_grid
    image_size = int(sam.image_encoder.img_size) if image_size is None else image_size
    if image_size < patch_size or image_size % patch_size:
        raise ValueError(
            f"image_size {image_size} is not a multiple of SAM's patch size {patch_size}; "
            f"the nearest is {max(1, round(image_size / patch_size)) * patch_size}"
        )
    neck = copy.deepcopy(sam.image_encoder.neck)
    _check_adaptor(radio, adaptor, _input_width(neck))
    grid_size = image_size // patch_size
    encoder = RadioImageEncoder(
        radio,
        adaptor=adaptor,
        neck=neck,
        image_size=image_size,
        grid_size=grid_size,
        pixel_mean=sam.pixel_mean,
        pixel_std=sam.pixel_std,
        window_size=window_size,
    )
    swapped: Sam = modeling.Sam(
        image_encoder=encoder,
        prompt_encoder=_prompt_encoder(sam, image_size, grid_size),
        mask_decoder=copy.deepcopy(sam.mask_decoder),
        pixel_mean=sam.pixel_mean.flatten().tolist(),
        pixel_std=sam.pixel_std.flatten().tolist(),
    )
    return swapped.to(sam.device).eval()


def _prompt_encoder(sam: "Sam", image_size: int, grid_size: int) -> nn.Module:
    """A copy of SAM's prompt encoder for another image size; its weights do not depend on it."""
    prompt_encoder: nn.Module = copy.deepcopy(sam.prompt_encoder)
    sizes = {
        "input_image_size": (image_size, image_size),
        "image_embedding_size": (grid_size, grid_size),
        "mask_input_size": (4 * grid_size, 4 * grid_size),
    }
    for name, size in sizes.items():
        setattr(prompt_encoder, name, size)
    return prompt_encoder


def _check_adaptor(radio: RadioModel, adaptor: str, width: int) -> None:
    """Refuse an adaptor that is not there or does not fit SAM's neck."""
    if adaptor not in radio.adaptors:
        known = ", ".join(radio.adaptors) or "none"
        raise ValueError(f"the RADIO model has no adaptor {adaptor!r}; its adaptors: {known}")
    module = radio.adaptors[adaptor]
    given = module.config.feature_dim if isinstance(module, Adaptor) else width
    if given != width:
        raise ValueError(
            f"adaptor {adaptor!r} gives features of width {given}, but this SAM's neck takes "
            f"{width}: use the SAM that the adaptor was trained with"
        )


def _input_width(neck: nn.Module) -> int:
    """Channels that SAM's neck takes: those of its first convolution."""
    for module in neck.modules():
        if isinstance(module, nn.Conv2d):
            return module.in_channels
    raise ValueError("this Sam's neck has no convolution; cannot tell which features it takes")
