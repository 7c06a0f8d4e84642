"""Segment Anything as a teacher: the features just before the neck of its image encoder."""

import json
import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from radio_core.config_file import from_mapping
from radio_core.extras import require
from radio_core.teachers.base import Teacher, UnknownTeacher
from radio_core.teachers.sam_build import SamConfig, build_sam
from radio_core.teachers.sources import misfit_of_torch
from radio_core.vision import ModelSpec, Output

if TYPE_CHECKING:
    from segment_anything.modeling import Sam

CONFIG_FILE, WEIGHTS_FILE = "sam_config.json", "sam.safetensors"


def load_sam(source: str, checkpoint: str | Path | None = None) -> "Sam":
    """A `segment_anything.modeling.Sam` in eval mode.

    Args:
        source: "vit_b", "vit_l" or "vit_h", or a directory with sam_config.json + sam.safetensors.
        checkpoint: the official .pth file of a vit_* model; read without unpickling objects.

    Raises:
        UnknownTeacher: neither a known model nor a directory of one.
        ValueError: a file that is no plain weights file, or weights that do not fit.
    """
    registry = require("segment_anything", extra="sam").sam_model_registry
    folder = Path(source)
    if source in registry:
        if checkpoint is None:
            raise ValueError(f"sam {source}: name its checkpoint file, e.g. sam_{source}.pth")
        sam = registry[source](checkpoint=None)
        weights = _read_weights(Path(checkpoint))
    elif (folder / CONFIG_FILE).is_file():
        fields = json.loads((folder / CONFIG_FILE).read_text())
        sam = build_sam(from_mapping(SamConfig, fields, str(folder / CONFIG_FILE)))
        weights = _read_weights(folder / WEIGHTS_FILE)
    else:
        known = ", ".join(name for name in registry if name != "default")
        raise UnknownTeacher(
            f"unknown SAM {source!r}; known: {known}, or a directory with {CONFIG_FILE}"
        )
    try:
        sam.load_state_dict(weights)
    except (RuntimeError, TypeError) as error:
        wrong = misfit_of_torch(f"sam:{source}", checkpoint or folder / WEIGHTS_FILE, error)
        raise wrong or ValueError(f"the weights do not fit SAM {source}: {error}") from error
    model: Sam = sam.eval()
    return model


def _read_weights(path: Path) -> Any:
    """What a weights file holds; nothing in it is executed."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, SafetensorError, EOFError, KeyError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{path} is not a plain weights file: {reason}") from error


class SamTeacher(Teacher):
    """No summary; features [B, F, h, w] are those that SAM's own neck takes.

    Other sizes than its own are possible: relative positions are interpolated by segment_anything
    itself, absolute ones here.

    Args:
        name: name of the teacher.
        sam: the model; kept whole because its neck and decoder serve the student later.
        licence: licence of the weights.
    """

    def __init__(self, name: str, sam: "Sam", licence: str) -> None:
        encoder = sam.image_encoder
        projection = encoder.patch_embed.proj
        super().__init__(
            ModelSpec(
                name=name,
                input_size=encoder.img_size,
                mean=_unit(sam.pixel_mean),
                std=_unit(sam.pixel_std),
                patch_size=projection.kernel_size[0],
                summary_dim=None,
                feature_dim=projection.out_channels,
                licence=licence,
                flexible=True,
            )
        )
        self.sam = sam
        self.freeze()

    def extract(self, images: Tensor) -> Output:
        """Run the encoder without its neck."""
        encoder = self.sam.image_encoder
        tokens = encoder.patch_embed(images)
        if encoder.pos_embed is not None:
            tokens = tokens + _resized(encoder.pos_embed, tokens.shape[1], tokens.shape[2])
        for block in encoder.blocks:
            tokens = block(tokens)
        return Output(None, tokens.permute(0, 3, 1, 2))


def _resized(positions: Tensor, rows: int, columns: int) -> Tensor:
    """A position embedding [1, h, w, F] for a grid of rows x columns."""
    if positions.shape[1:3] == (rows, columns):
        return positions
    grid = positions.permute(0, 3, 1, 2)
    grid = F.interpolate(grid, (rows, columns), mode="bicubic", antialias=True)
    return grid.permute(0, 2, 3, 1)


def _unit(pixels: Tensor) -> tuple[float, float, float]:
    """SAM's statistics are in 0 … 255; ours in [0, 1]."""
    red, green, blue = (float(value) / 255 for value in pixels.flatten())
    return red, green, blue
