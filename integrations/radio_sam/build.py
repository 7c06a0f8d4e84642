"""A RADIO-SAM from an official SAM checkpoint, without SAM's own encoder."""

import pickle
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from radio_core.models.radio import RadioModel
from radio_core.teachers.segment_anything import SamConfig, build_sam
from radio_sam.swap import SAM_WIDTHS, ImageSize, check_radio, swap_image_encoder

if TYPE_CHECKING:
    from segment_anything.modeling import Sam

SamType = Literal["vit_h", "vit_l", "vit_b"]
_PARTS = ("image_encoder.neck.", "prompt_encoder.", "mask_decoder.")
_NECK = "image_encoder.neck.0.weight"


def build_radio_sam(
    radio: RadioModel,
    sam_checkpoint: str | Path,
    model_type: SamType | str = "vit_h",
    adaptor: str = "sam",
    window_size: int | None = None,
    image_size: ImageSize = 1024,
    skip_padding: bool = False,
) -> "Sam":
    """`swap_image_encoder` for an official SAM checkpoint.

    Only the neck, the prompt encoder and the mask decoder are read; SAM's own encoder is neither
    read nor built. Nothing in the file is executed.

    Args:
        radio: model with a `sam` adaptor.
        sam_checkpoint: the .pth file.
        model_type: which SAM the file holds.
        adaptor: see `swap_image_encoder`.
        window_size: see `swap_image_encoder`.
        image_size: see `swap_image_encoder`.
        skip_padding: see `swap_image_encoder`.

    Raises:
        ValueError: an unknown type, a file that is no such checkpoint (missing and ill-shaped
            tensors are listed), or whatever `swap_image_encoder` refuses.
        OSError: the file cannot be read.
    """
    if model_type not in SAM_WIDTHS:
        known = ", ".join(SAM_WIDTHS)
        raise ValueError(f"unknown SAM model type {model_type!r}; known: {known}")
    check_radio(radio, adaptor, SAM_WIDTHS[model_type], window_size)
    tensors = _read_parts(Path(sam_checkpoint))
    held = _type_of(tensors, sam_checkpoint)
    if held != model_type:
        raise ValueError(f"{sam_checkpoint} is a SAM {held}, not {model_type}")
    sam = _without_blocks(model_type)
    _load(sam, tensors, f"{sam_checkpoint} (SAM {model_type})")
    return swap_image_encoder(sam, radio, adaptor, window_size, image_size, skip_padding)


def recognise_sam(sam_checkpoint: str | Path) -> str:
    """The model type of an official checkpoint, by the width that its neck takes.

    Raises:
        ValueError: the file is no official SAM checkpoint.
        OSError: the file cannot be read.
    """
    return _type_of(_read_parts(Path(sam_checkpoint)), sam_checkpoint)


def _read_parts(path: Path) -> dict[str, Tensor]:
    """The tensors that a RADIO-SAM needs of a checkpoint, under their names there."""
    try:
        # A mapped file costs no memory for the tensors that are left alone; old files have no map.
        state = torch.load(
            path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
        )
    except (pickle.UnpicklingError, EOFError, KeyError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{path} is not a plain weights file: {reason}") from error
    if not isinstance(state, dict):
        raise ValueError(f"{path} is not a SAM checkpoint: it holds a {type(state).__name__}")
    return {
        name: value
        for name, value in state.items()
        if isinstance(name, str) and name.startswith(_PARTS) and isinstance(value, Tensor)
    }


def _type_of(tensors: dict[str, Tensor], path: str | Path) -> str:
    """The model type, by the width that the neck takes."""
    if _NECK not in tensors or tensors[_NECK].ndim != 4:
        raise ValueError(f"{path} is not an official SAM checkpoint: it has no {_NECK}")
    width = tensors[_NECK].shape[1]
    for name, known in SAM_WIDTHS.items():
        if known == width:
            return name
    raise ValueError(
        f"the neck in {path} takes features of width {width}; those of the official SAMs: "
        + ", ".join(f"{known} ({name})" for name, known in SAM_WIDTHS.items())
    )


def _without_blocks(model_type: str) -> "Sam":
    """A Sam of that type whose encoder has no blocks: good for what stands behind them."""
    return build_sam(SamConfig(embed_dim=SAM_WIDTHS[model_type], depth=0, global_blocks=()))


def _load(sam: "Sam", tensors: dict[str, Tensor], where: str) -> None:
    """Fill all parts of `sam` but the encoder before the neck, strictly."""
    wanted = {n: t.shape for n, t in sam.state_dict().items() if n.startswith(_PARTS)}
    missing = sorted(wanted.keys() - tensors.keys())
    unknown = sorted(tensors.keys() - wanted.keys())
    wrong = sorted(n for n in wanted.keys() & tensors.keys() if wanted[n] != tensors[n].shape)
    problems = {"missing": missing, "unexpected": unknown, "of another shape": wrong}
    found = [f"{kind}: {', '.join(names)}" for kind, names in problems.items() if names]
    if found:
        raise ValueError(f"the weights do not fit {where}; {'; '.join(found)}")
    sam.load_state_dict(tensors, strict=False)  # the rest is the encoder, checked above
