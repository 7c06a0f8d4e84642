"""One way to load any model: by name, or from a directory."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch

from radio_core.models.checkpoint import read_config
from radio_core.models.config import RadioConfig
from radio_core.models.radio import RadioModel
from radio_core.zoo.registry import BUNDLED, unknown_model


def load_model(
    source: str | Path,
    *,
    adaptors: str | Sequence[str] = (),
    window_size: int | None = None,
    num_windowed: int | None = None,
    num_global: int | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
) -> RadioModel:
    """Load a model in eval mode.

    Args:
        source: a known name ("toy"), or a directory written by `RadioModel.save_pretrained`.
        adaptors: names of the adaptors that `forward` runs besides the backbone.
        window_size: side in patches of the attention windows; None for global attention.
        num_windowed: windowed layers between two global ones, instead of the model's own schedule.
        num_global: number of global layers, instead of the model's own schedule.
        device: where the model goes.
        dtype: dtype of the backbone, float32 when None; adaptors stay float32.

    Raises:
        ValueError: unknown name, adaptor, or windows for a model without them; the known ones
            are listed. A damaged or inconsistent file.
        FileNotFoundError: the directory has no model in it.
    """
    directory = _directory(source)
    config = _with_windows(read_config(directory), window_size, num_windowed, num_global)
    model = RadioModel.from_pretrained(directory, config)
    names = (adaptors,) if isinstance(adaptors, str) else adaptors
    model.active_adaptors = model.check_adaptors(names)
    model.window_size = window_size
    model.backbone.to(dtype=dtype)
    return model.to(device)


def _directory(source: str | Path) -> Path:
    if source in BUNDLED:
        return BUNDLED[str(source)]
    if Path(source).is_dir():
        return Path(source)
    raise unknown_model(str(source))


def _with_windows(
    config: RadioConfig, window_size: int | None, num_windowed: int | None, num_global: int | None
) -> RadioConfig:
    """The configuration with another window schedule, where one was asked for."""
    if window_size is not None and (window_size < 1 or not config.supports_windows):
        raise ValueError(
            f"window_size {window_size}: "
            + ("must be at least 1" if window_size < 1 else "this model has no windowed mode")
        )
    if num_windowed is None and num_global is None:
        return config
    backbone = dataclasses.replace(
        config.backbone, num_windowed=num_windowed, num_global=num_global
    )
    return dataclasses.replace(config, backbone=backbone)
