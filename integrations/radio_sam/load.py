"""One way to the Sam that a user names: with RADIO inside, or as it is."""

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from radio_core.models.radio import RadioModel
from radio_core.teachers.load import toy_teacher_folder
from radio_core.teachers.segment_anything import CONFIG_FILE, load_sam
from radio_core.zoo.load import load_model
from radio_sam.build import build_radio_sam, recognise_sam
from radio_sam.swap import SAM_WIDTHS, ImageSize, swap_image_encoder

if TYPE_CHECKING:
    from segment_anything.modeling import Sam

ORIGINAL = "sam"
"""In the place of a model's name: the SAM with its own encoder."""

TOY_SAM = "toy-sam"


def load_radio_sam(
    model: str = "toy",
    sam: str = TOY_SAM,
    adaptor: str = "sam",
    window_size: int | None = None,
    image_size: ImageSize | None = None,
    skip_padding: bool = False,
    device: str | torch.device = "cpu",
) -> "Sam":
    """A Segment Anything model in eval mode, by names and files.

    Args:
        model: whatever `radio_core.load_model` takes; or "sam" for SAM's own encoder.
        sam: whose neck and mask decoder serve: "toy-sam", which comes with the package, an
            official checkpoint as "vit_h:CHECKPOINT" or as the file alone (.pth; the tensors tell
            its type), or a directory with sam_config.json.
        adaptor: name of the model's adaptor that imitates SAM.
        window_size: see `swap_image_encoder`.
        image_size: see `swap_image_encoder`.
        skip_padding: see `swap_image_encoder`.
        device: where it goes.

    Raises:
        ValueError: unknown names (the known ones are listed), parts that do not fit each other, or
            options that SAM's own encoder does not have.
        OSError: a file that cannot be read.
    """
    if model == ORIGINAL:
        if window_size is not None or image_size is not None or skip_padding:
            raise ValueError(
                "SAM's own encoder takes no window_size, image_size or skip_padding; "
                "those are for RADIO models"
            )
        return _whole_sam(sam).to(device)
    radio = load_model(model)
    return put_into_sam(radio, sam, adaptor, window_size, image_size, skip_padding).to(device)


def put_into_sam(
    radio: RadioModel,
    sam: str = TOY_SAM,
    adaptor: str = "sam",
    window_size: int | None = None,
    image_size: ImageSize | None = None,
    skip_padding: bool = False,
) -> "Sam":
    """`load_radio_sam` for a model that is there already; see there."""
    kind, checkpoint = _official(sam)
    if checkpoint is None:
        given = _whole_sam(sam)
        return swap_image_encoder(given, radio, adaptor, window_size, image_size, skip_padding)
    size = 1024 if image_size is None else image_size
    return build_radio_sam(radio, checkpoint, kind, adaptor, window_size, size, skip_padding)


def _whole_sam(sam: str) -> "Sam":
    """The Sam of that name, its own encoder included."""
    kind, checkpoint = _official(sam)
    if checkpoint is not None:
        return load_sam(kind, checkpoint)
    if sam == TOY_SAM:
        return load_sam(str(toy_teacher_folder(sam)))
    if not (Path(sam) / CONFIG_FILE).is_file():
        known = ", ".join((TOY_SAM, *(f"{name}:CHECKPOINT" for name in SAM_WIDTHS)))
        raise ValueError(
            f"unknown SAM {sam!r}; known: {known}, an official .pth file, "
            f"or a directory with {CONFIG_FILE}"
        )
    return load_sam(sam)


def _official(sam: str) -> tuple[str, Path | None]:
    """(model type, checkpoint) of an official Sam; (the name, None) of any other."""
    kind, _, checkpoint = sam.partition(":")
    if kind in SAM_WIDTHS and checkpoint:
        return kind, Path(checkpoint)
    if Path(sam).suffix in (".pth", ".pt"):
        return recognise_sam(sam), Path(sam)
    return sam, None
