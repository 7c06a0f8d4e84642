"""One way to the Segment Anything that a user names: with RADIO inside, or as it is."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from radio_core.models.radio import RadioModel
from radio_core.models.weight_files import read_checkpoint
from radio_core.teachers.load import toy_teacher_folder
from radio_core.teachers.segment_anything import CONFIG_FILE, SamConfig, build_sam, load_sam
from radio_core.zoo.load import load_model
from radio_sam.swap import SAM_WIDTHS, ImageSize, check_radio, swap_image_encoder

if TYPE_CHECKING:
    from segment_anything.modeling import Sam

SamType = Literal["vit_h", "vit_l", "vit_b"]
ORIGINAL = "sam"
"""In the place of a model's name: the SAM with its own encoder."""
TOY_SAM = "toy-sam"
_PARTS = ("image_encoder.neck.", "prompt_encoder.", "mask_decoder.")
_NECK = "image_encoder.neck.0.weight"


def load_radio_sam(
    model: str | RadioModel = "toy",
    sam: str = TOY_SAM,
    adaptor: str = "sam",
    window_size: int | None = None,
    image_size: ImageSize | None = None,
    skip_padding: bool = False,
    device: str | torch.device | None = None,
) -> "Sam":
    """A Segment Anything model in eval mode, by names and files.

    Args:
        model: a RADIO model, or whatever `radio_core.load_model` takes; "sam" for SAM's own
            encoder.
        sam: whose neck and mask decoder serve: "toy-sam", which comes with the package, an
            official checkpoint as "vit_h:CHECKPOINT" or as the file alone (.pth; the tensors tell
            its type), or a directory with sam_config.json.
        adaptor: see `swap_image_encoder`, as `window_size`, `image_size` and `skip_padding`.
        device: where it goes; None for the CPU, or for where a given model is.

    Raises:
        ValueError: unknown names (the known ones are listed), parts that do not fit each other, or
            options that SAM's own encoder does not have.
        OSError: a file that cannot be read.
    """
    kind, checkpoint = sam.partition(":")[::2]
    if kind not in SAM_WIDTHS or not checkpoint:
        is_official = Path(sam).suffix in (".pth", ".pt")
        kind, checkpoint = (recognise_sam(sam), sam) if is_official else ("", "")
    if model == ORIGINAL:
        if window_size is not None or image_size is not None or skip_padding:
            raise ValueError(
                "SAM's own encoder takes no window_size, image_size or skip_padding; "
                "those are for RADIO models"
            )
        whole = load_sam(kind, checkpoint) if checkpoint else _load_folder(sam)
        return whole.to(device or "cpu")
    radio = load_model(model) if isinstance(model, str) else model
    if device is None:
        device = next(radio.parameters()).device
    if checkpoint:
        size = 1024 if image_size is None else image_size
        built = build_radio_sam(radio, checkpoint, kind, adaptor, window_size, size, skip_padding)
        return built.to(device)
    options = (adaptor, window_size, image_size, skip_padding)
    return swap_image_encoder(_load_folder(sam), radio, *options).to(device)


def _load_folder(sam: str) -> "Sam":
    """The bundled Sam, or one of a directory with a config."""
    folder = toy_teacher_folder(sam) if sam == TOY_SAM else Path(sam)
    if not (folder / CONFIG_FILE).is_file():
        known = ", ".join((TOY_SAM, *(f"{name}:CHECKPOINT" for name in SAM_WIDTHS)))
        raise ValueError(
            f"unknown SAM {sam!r}; known: {known}, an official .pth file, "
            f"or a directory with {CONFIG_FILE}"
        )
    return load_sam(str(folder))


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
        adaptor: see `swap_image_encoder`, as the next three.

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
    # Without blocks the encoder is no encoder, but all that stands behind the blocks is there.
    sam = build_sam(SamConfig(embed_dim=SAM_WIDTHS[model_type], depth=0, global_blocks=()))
    wanted = {n: t.shape for n, t in sam.state_dict().items() if n.startswith(_PARTS)}
    problems = {
        "missing": sorted(wanted.keys() - tensors.keys()),
        "unexpected": sorted(tensors.keys() - wanted.keys()),
        "of another shape": sorted(
            n for n in wanted.keys() & tensors.keys() if wanted[n] != tensors[n].shape
        ),
    }
    found = [f"{what}: {', '.join(names)}" for what, names in problems.items() if names]
    if found:
        where = f"{sam_checkpoint} (SAM {model_type})"
        raise ValueError(f"the weights do not fit {where}; {'; '.join(found)}")
    sam.load_state_dict(tensors, strict=False)  # the rest is the encoder, checked above
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
    state = read_checkpoint(path)
    if not isinstance(state, dict):
        raise ValueError(f"{path} is not a SAM checkpoint: it holds a {type(state).__name__}")
    return {
        name: value
        for name, value in state.items()
        if isinstance(name, str) and name.startswith(_PARTS) and isinstance(value, Tensor)
    }


def _type_of(tensors: dict[str, Tensor], path: str | Path) -> str:
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
