"""The sizes of a tower, known before its weights are loaded wherever that is possible."""

import math
from dataclasses import dataclass
from pathlib import Path

from radio_core.models.checkpoint import CONFIG_FILE, read_config
from radio_core.models.config import RadioConfig
from radio_core.models.radio import RadioModel
from radio_core.models.weight_files import read_json
from radio_core.zoo.hf_native import is_native
from radio_core.zoo.hf_remote import is_remote_code
from radio_core.zoo.registry import BUNDLED
from radio_core.zoo.releases import find_release
from radio_llava.features import feature_dim
from radio_llava.tower_config import TowerConfig


@dataclass(frozen=True, kw_only=True)
class TowerShape:
    """What LLaVA reads of a tower's `config`.

    Attributes:
        hidden_size: width of the features.
        patch_size: pixels of one token.
        image_size: side of a square image in pixels, a multiple of the model's step.
    """

    hidden_size: int
    patch_size: int
    image_size: int


def shape_of(radio: RadioModel, config: TowerConfig) -> TowerShape:
    """The sizes of a loaded tower.

    Raises:
        ValueError: as `feature_dim`.
    """
    step = radio.min_resolution_step
    return TowerShape(
        hidden_size=feature_dim(radio, config),
        patch_size=radio.patch_size,
        image_size=math.ceil(config.resolution / step) * step,
    )


def shape_before_loading(config: TowerConfig) -> TowerShape | None:
    """The sizes of a tower from what is known of its model; None where only the weights tell.

    Nothing is downloaded.
    """
    release = find_release(config.model)
    known = _own_config(config.model)
    if known is not None:
        patch, step = known.backbone.patch_size, known.backbone.resolution_step
        width = known.backbone.embed_dim
    elif release is not None and not release.own_windows:
        patch = step = release.patch_size
        width = release.embed_dim
    else:
        return None
    width *= len(config.layers or (0,))
    if config.adaptor:
        widths = {a.name: a.feature_dim for a in known.adaptors} if known else {}
        if config.adaptor not in widths:
            return None
        width = widths[config.adaptor]
    side = math.ceil(config.resolution / step) * step
    return TowerShape(hidden_size=width, patch_size=patch, image_size=side)


def _own_config(model: str) -> RadioConfig | None:
    """The config.json of a bundled model or of a directory in our own layout."""
    directory = BUNDLED.get(model, Path(model))
    if not (directory / CONFIG_FILE).is_file():
        return None
    data = read_json(directory / CONFIG_FILE)
    return None if is_native(data) or is_remote_code(data) else read_config(directory)
