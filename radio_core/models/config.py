"""The whole description of a RADIO model, and the folder that holds it beside the weights.

The folder has model.safetensors and config.json, and nothing executable.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from radio_core.config_file import from_mapping, to_mapping
from radio_core.models.adaptors import AdaptorConfig
from radio_core.models.backbone import BackboneConfig, check_type
from radio_core.models.normalizers import CLIP_MEAN, CLIP_STD
from radio_core.models.weight_files import (
    read_json,
    read_safetensors,
    stored,
    write_json,
    write_safetensors,
)

FORMAT = "radio-toolkit"
FORMAT_VERSION = 2
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"

DtypeName = Literal["float32", "bfloat16", "float16"]
DTYPES: dict[DtypeName, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


@dataclass(frozen=True, kw_only=True)
class RadioConfig:
    """A backbone, its adaptors, and the contract of its weights.

    Attributes:
        name: name of the model, for people.
        backbone: shape of the student.
        adaptors: every adaptor that the checkpoint has.
        summary_idxs: the summary tokens that make up the backbone's summary, side by side; of no
            effect where the backbone has a single one.
        mean: per-channel mean that the model subtracts, RGB in [0, 1].
        std: per-channel standard deviation that it divides by.
        teachers: names of the teachers that it was distilled from.
        max_resolution: longest image side in pixels that it is meant for; None if unknown.
        preferred_resolution: (height, width) in pixels; None if unknown.
        supports_windows: it was trained for windowed attention.
        feature_normalizer: the features pass a `FeatureNormalizer`.
        intermediate_normalizer: intermediate features pass an `IntermediateNormalizer`, with one
            rotation "shared" by all blocks or one "per_layer"; None if they do not.
        dtype: in which the backbone computes unless it is loaded in another; adaptors are float32.
        licence: licence of the weights.
    """

    name: str = ""
    backbone: BackboneConfig
    adaptors: tuple[AdaptorConfig, ...] = ()
    summary_idxs: tuple[int, ...] = (0,)
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD
    teachers: tuple[str, ...] = ()
    max_resolution: int | None = None
    preferred_resolution: tuple[int, int] | None = None
    supports_windows: bool = True
    feature_normalizer: bool = False
    intermediate_normalizer: Literal["shared", "per_layer"] | None = None
    dtype: DtypeName = "float32"
    licence: str = ""

    def __post_init__(self) -> None:
        check_type(self.backbone)
        names = [adaptor.name for adaptor in self.adaptors]
        if len(set(names)) != len(names):
            raise ValueError(f"adaptor names must differ: {', '.join(names)}")
        tokens = self.backbone.num_summary_tokens
        if not self.summary_idxs or min(self.summary_idxs) < 0:
            raise ValueError(f"summary_idxs {self.summary_idxs} must be token indices")
        if tokens > 1 and max(self.summary_idxs) >= tokens:
            raise ValueError(
                f"summary_idxs {self.summary_idxs} must be indices of the backbone's {tokens} "
                "summary tokens"
            )
        for adaptor in self.adaptors:
            if tokens > 1 and (adaptor.token_slot or 0) >= tokens:
                raise ValueError(
                    f"adaptor {adaptor.name}: token_slot {adaptor.token_slot}, but the backbone "
                    f"has {tokens} summary tokens"
                )
        if self.intermediate_normalizer and not self.backbone.num_blocks:
            raise ValueError("an intermediate normalizer needs a transformer backbone")
        if not all(math.isfinite(x) for x in (*self.mean, *self.std)) or min(self.std) <= 0:
            raise ValueError(f"mean {self.mean} and std {self.std} must be finite, std positive")


class Checkpoint(NamedTuple):
    """A model that has been read, whatever the format.

    Attributes:
        config: what it is.
        state: the tensors of `RadioModel` under our names, floating ones float32.
        where: what they come from, for the messages of errors.
        absent: name -> reason of the adaptors that cannot be used.
    """

    config: RadioConfig
    state: dict[str, Tensor]
    where: str
    absent: Mapping[str, str] = {}


def write_checkpoint(
    directory: Path, config: RadioConfig, state: dict[str, Tensor], dtype: torch.dtype
) -> None:
    """Write `directory`/model.safetensors and config.json.

    Args:
        directory: created when missing.
        config: goes to config.json.
        state: name -> tensor.
        dtype: floating tensors are stored in it.

    Raises:
        ValueError: a weight is not finite in `dtype`; nothing is written.
    """
    tensors = stored(state, dtype)
    text: dict[str, Any] = {"format": FORMAT, "format_version": FORMAT_VERSION}
    directory.mkdir(parents=True, exist_ok=True)
    write_safetensors(directory / WEIGHTS_FILE, tensors)
    write_json(directory / CONFIG_FILE, text | to_mapping(config))


def read_config(directory: Path) -> RadioConfig:
    """The configuration in a directory written by `write_checkpoint`.

    Raises:
        FileNotFoundError: no config.json there.
        ValueError: it is malformed; the message names the field.
    """
    path = directory / CONFIG_FILE
    data = read_json(path)
    found = (data.pop("format", None), data.pop("format_version", None))
    if found != (FORMAT, FORMAT_VERSION):
        raise ValueError(
            f"{path} has format {found}; this version reads {(FORMAT, FORMAT_VERSION)}"
        )
    try:
        return from_mapping(RadioConfig, data)
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"{path}: {error}") from None


def read_weights(directory: Path) -> dict[str, Tensor]:
    """The tensors of a directory written by `write_checkpoint`; floating ones as float32.

    Raises:
        FileNotFoundError: no model.safetensors there.
        ValueError: it is damaged.
    """
    tensors = read_safetensors(directory / WEIGHTS_FILE)
    return {name: t.float() if t.is_floating_point() else t for name, t in tensors.items()}
