"""One way to load any model: by name, from a file or directory, or from the hub."""

import dataclasses
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from radio_core.models.config import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    Checkpoint,
    RadioConfig,
    read_config,
    read_weights,
)
from radio_core.models.radio import RadioModel
from radio_core.models.weight_files import read_json
from radio_core.zoo.hf_native import is_native, load_native
from radio_core.zoo.hf_remote import is_remote_code, load_remote_code
from radio_core.zoo.hub import fetch_release, fetch_repository
from radio_core.zoo.official import load_official
from radio_core.zoo.releases import BUNDLED, RELEASES, find_release, unknown_model

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")


def load_model(
    source: str | Path,
    *,
    adaptors: str | Sequence[str] | None = (),
    window_size: int | None = None,
    num_windowed: int | None = None,
    num_global: int | None = None,
    pos_align_corners: bool | None = None,
    text_towers: Mapping[str, str | Path] | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
) -> RadioModel:
    """Load a model in eval mode. Nothing in its files is ever executed.

    Args:
        source: a model that comes with the package ("toy"), a release ("c-radio_v4-h") or its
            short name ("radio_h"), a file (.pth.tar, or .safetensors with config.json beside it),
            a directory (ours, or Hugging Face's older or native layout), or a hub id
            ("nvidia/C-RADIOv4-H"). A file that has the name of a release's file is that release.
        adaptors: names of the adaptors that `forward` runs besides the backbone.
        window_size: side in patches of the attention windows; None for global attention.
        num_windowed: windowed layers between two global ones, instead of the model's own schedule.
        num_global: number of global layers, instead of the model's own schedule.
        pos_align_corners: how the position grid is resized to other sizes than its own. None for
            what the model says, which is False for all releases, as the official code has it
            today; those up to C-RADIOv3 were trained and first released with True.
        text_towers: adaptor -> local weights of its text tower, so that none is downloaded.
        device: where the model goes.
        dtype: dtype of the backbone; None for the one that the checkpoint names. Adaptors stay
            float32.

    Raises:
        ValueError: unknown name or adaptor, or windows for a model without them; the known ones
            are listed. A damaged, malicious or inconsistent file; missing and unexpected tensors
            are listed.
        FileNotFoundError: the directory has no model in it.
        OSError: the file cannot be downloaded; the message says where to put it.
    """
    read = _read(source)
    window_size = _checked_window(read.config, window_size)
    changes: dict[str, Any] = {}
    if num_windowed is not None or num_global is not None:
        changes |= {"num_windowed": num_windowed, "num_global": num_global}
    if pos_align_corners is not None:
        changes["pos_align_corners"] = pos_align_corners
    config = dataclasses.replace(read.config, backbone=read.config.backbone.with_fields(**changes))
    model = RadioModel.from_state(config, read.state, read.where, dtype)
    names = (adaptors,) if isinstance(adaptors, str) else tuple(adaptors or ())
    for name in (*names, *(text_towers or {})):
        if name in read.absent:
            raise ValueError(f"{read.where} has no usable adaptor {name!r}: {read.absent[name]}")
    model.active_adaptors = model.check_adaptors(names)
    model.check_adaptors(tuple(text_towers or {}))
    model.text_towers.paths = {name: Path(path) for name, path in (text_towers or {}).items()}
    model.window_size = window_size
    return model.to(device)


def _read(source: str | Path) -> Checkpoint:
    """Find and read what a user calls a model."""
    name = str(source)
    if name in BUNDLED:
        return _read_directory(BUNDLED[name])
    path, release = Path(source), find_release(name)
    if path.is_dir():
        return _read_directory(path)
    if path.is_file() and path.suffix != ".safetensors":
        released = [card for card in RELEASES.values() if card.file == path.name]
        return load_official(path, released[0] if released else None)
    if path.is_file():
        if path.name != WEIGHTS_FILE or not (path.parent / CONFIG_FILE).is_file():
            raise FileNotFoundError(
                f"{path} holds tensors alone: it must be called {WEIGHTS_FILE}, with its "
                f"{CONFIG_FILE} beside it"
            )
        return _read_directory(path.parent)
    if release is not None:
        return load_official(fetch_release(release), release)
    if path.suffix in (".safetensors", ".tar", ".pth", ".pt"):
        raise FileNotFoundError(f"no file {path}")
    if _HUB_ID.fullmatch(name) and not path.parent.is_dir():
        return _read_directory(fetch_repository(name))
    raise unknown_model(name)


def _read_directory(path: Path) -> Checkpoint:
    """A directory in whichever layout its config.json has."""
    if not (path / CONFIG_FILE).is_file():
        raise FileNotFoundError(f"no {CONFIG_FILE} in {path}: not a saved model")
    data = read_json(path / CONFIG_FILE)
    if is_remote_code(data):
        return load_remote_code(path)
    if is_native(data):
        return load_native(path)
    return Checkpoint(read_config(path), read_weights(path), str(path))


def _checked_window(config: RadioConfig, window_size: int | None) -> int | None:
    """The window size to use, if the model may have one."""
    if window_size is None:
        return None
    if window_size < 1:
        raise ValueError(f"window_size {window_size}: must be at least 1")
    if config.backbone.own_windows:
        warnings.warn(
            f"{config.backbone.label} attends in windows of its own: window_size is ignored",
            stacklevel=3,
        )
        return None
    if not (config.supports_windows and config.backbone.supports_windows):
        raise ValueError(f"window_size {window_size}: this model has no windowed mode")
    return window_size
