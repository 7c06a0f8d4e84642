"""Replace the image encoder of a Segment Anything model by a RADIO model (paper section 5.2)."""

import copy
from typing import TYPE_CHECKING, Any

from torch import nn

from radio_core.extras import require
from radio_core.models.adaptors import Adaptor
from radio_core.models.radio import RadioModel
from radio_core.models.vit import ViTConfig
from radio_sam.encoder import RadioImageEncoder, as_pair

if TYPE_CHECKING:
    from segment_anything.modeling import Sam

ImageSize = int | tuple[int, int]
SAM_WIDTHS = {"vit_b": 768, "vit_l": 1024, "vit_h": 1280}
"""Width of the features before the neck of the official models."""


def swap_image_encoder(
    sam: "Sam",
    radio: RadioModel,
    adaptor: str = "sam",
    window_size: int | None = None,
    image_size: ImageSize | None = None,
    skip_padding: bool = False,
) -> "Sam":
    """A Segment Anything model with RADIO's features in front of SAM's neck.

    The result is a real `segment_anything.modeling.Sam`: `SamPredictor` and everything else of
    that package work on it unmodified. `sam` stays as it was; `radio` is used, not copied.

    Args:
        sam: the model that gives neck, prompt encoder and mask decoder.
        radio: model with a `sam` adaptor.
        adaptor: name of that adaptor.
        window_size: side in patches of RADIO's attention windows; None for the model's own, 0 for
            global attention. A grid that windows do not fill is padded, and the padding computed:
            at 1024 pixels windows of 8 and 16 fill it.
        image_size: side in pixels of the padded input, or its (height, width), multiples of SAM's
            patch size; None for SAM's own. The feature grid keeps SAM's pixels a cell. Where it is
            no square, images are brought to its longer side and must fit into the shorter one,
            and SAM's ONNX export of the decoder, which assumes a square, does not serve it.
        skip_padding: run RADIO only on the part of the input that holds the image (rounded up to
            whole windows), and leave the rest of the features zero. Faster for images that are no
            squares; the masks differ a little, because RADIO does not see the padding.

    Returns:
        The new model, in eval mode, on `sam`'s device, to which `radio` goes as well.

    Raises:
        ValueError: no such adaptor, an adaptor of another width than SAM's neck takes, an image
            size that is not a multiple of SAM's patch size, or an option that the model lacks.
    """
    own_size = sam.prompt_encoder.input_image_size  # (height, width)
    patch_size = own_size[0] // sam.prompt_encoder.image_embedding_size[0]
    size = checked_size(own_size if image_size is None else image_size, patch_size)
    check_radio(radio, adaptor, input_width(sam.image_encoder.neck), window_size)
    grid = (size[0] // patch_size, size[1] // patch_size)
    encoder = RadioImageEncoder(
        radio,
        adaptor=adaptor,
        neck=copy.deepcopy(sam.image_encoder.neck),
        image_size=size,
        grid_size=grid,
        pixel_mean=sam.pixel_mean,
        pixel_std=sam.pixel_std,
        window_size=window_size,
        skip_padding=skip_padding,
    )
    return with_encoder(sam, encoder, size, grid)


def with_encoder(
    sam: "Sam", encoder: nn.Module, image_size: tuple[int, int], grid_size: tuple[int, int]
) -> "Sam":
    """A copy of a Segment Anything model with another image encoder.

    Args:
        sam: the model that gives prompt encoder and mask decoder; it stays as it was.
        encoder: with the attribute `img_size`, normalised images [B, 3, *image_size] to embeddings
            [B, D, *grid_size]. It is used, not copied.
        image_size: (height, width) of the padded input in pixels.
        grid_size: (rows, columns) of the embeddings.

    Returns:
        The new model, in eval mode, on `sam`'s device, to which the encoder goes as well.
    """
    swapped: Sam = _sam_class(image_size)(
        image_encoder=encoder,
        prompt_encoder=_prompt_encoder(sam, image_size, grid_size),
        mask_decoder=copy.deepcopy(sam.mask_decoder),
        pixel_mean=sam.pixel_mean.flatten().tolist(),
        pixel_std=sam.pixel_std.flatten().tolist(),
    )
    swapped.mask_threshold, swapped.image_format = sam.mask_threshold, sam.image_format
    return swapped.to(sam.device).eval()


def _sam_class(size: tuple[int, int]) -> Any:
    """SAM's own class for a square; else `CanvasSam`, whose module imports segment_anything."""
    modeling = require("segment_anything.modeling", extra="sam")
    if size[0] == size[1]:
        return modeling.Sam
    from radio_sam.canvas import CanvasSam

    return CanvasSam


def _prompt_encoder(sam: "Sam", image_size: tuple[int, int], grid: tuple[int, int]) -> nn.Module:
    """A copy of SAM's prompt encoder for another image size; its weights do not depend on it."""
    prompt_encoder: nn.Module = copy.deepcopy(sam.prompt_encoder)
    sizes = {
        "input_image_size": image_size,
        "image_embedding_size": grid,
        "mask_input_size": (4 * grid[0], 4 * grid[1]),
    }
    for name, size in sizes.items():
        setattr(prompt_encoder, name, size)
    return prompt_encoder


def checked_size(image_size: ImageSize, patch_size: int) -> tuple[int, int]:
    """The (height, width) of a padded input; ValueError unless SAM's patches fill it."""
    size = as_pair(image_size)
    if any(side < patch_size or side % patch_size for side in size):
        near = [max(1, round(side / patch_size)) * patch_size for side in size]
        raise ValueError(
            f"image_size {image_size} is not a multiple of SAM's patch size {patch_size}; the "
            f"nearest is {near[0] if isinstance(image_size, int) else tuple(near)}"
        )
    return size


def check_radio(
    radio: RadioModel, adaptor: str, width: int, window_size: int | None = None
) -> None:
    """Refuse a model without a fitting adaptor, or without the windows asked for.

    Args:
        radio: the model.
        adaptor: name of the adaptor that it needs.
        width: of the features that SAM's neck takes.
        window_size: see `swap_image_encoder`.
    """
    if adaptor not in radio.adaptors:
        known = ", ".join(radio.adaptors) or "none"
        raise ValueError(f"the RADIO model has no adaptor {adaptor!r}; its adaptors: {known}")
    module = radio.adaptors[adaptor]
    given = module.config.feature_dim if isinstance(module, Adaptor) else width
    if given != width:
        fitting = [name for name, other in SAM_WIDTHS.items() if other == given]
        advice = f"SAM {fitting[0]}" if fitting else "the SAM that the adaptor was trained with"
        raise ValueError(
            f"adaptor {adaptor!r} gives features of width {given}, but this SAM's neck takes "
            f"{width}: use {advice}"
        )
    if window_size is not None and window_size < 0:
        raise ValueError(f"window_size {window_size}: must be positive, or 0 for global attention")
    if window_size and not _has_windows(radio):
        raise ValueError(f"window_size {window_size}: this RADIO model has no windowed mode")


def _has_windows(radio: RadioModel) -> bool:
    return isinstance(radio.config.backbone, ViTConfig) and radio.config.supports_windows


def input_width(neck: nn.Module) -> int:
    """Channels that SAM's neck takes: those of its first convolution."""
    for module in neck.modules():
        if isinstance(module, nn.Conv2d):
            return module.in_channels
    raise ValueError("this Sam's neck has no convolution; cannot tell which features it takes")
