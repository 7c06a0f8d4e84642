"""A model on disk: a directory with model.safetensors and config.json, and nothing executable."""

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from radio_core.config_file import from_mapping, to_mapping
from radio_core.models.config import RadioConfig
from radio_core.models.weight_files import read_json, read_safetensors

FORMAT = "radio-toolkit"
FORMAT_VERSION = 2
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"


def write_checkpoint(
    directory: Path, config: RadioConfig, state: dict[str, Tensor], dtype: torch.dtype
) -> None:
    """Write `directory`/model.safetensors and config.json, each through a temporary file.

    Args:
        directory: created when missing.
        config: goes to config.json.
        state: name -> tensor.
        dtype: floating tensors are stored in it.

    Raises:
        ValueError: a weight is not finite in `dtype`; nothing is written.
    """
    stored = {}
    for name, tensor in state.items():
        stored[name] = tensor.detach().to("cpu", dtype if tensor.is_floating_point() else None)
        stored[name] = stored[name].clone(memory_format=torch.contiguous_format)
    _check_finite(stored, f"cannot save as {dtype}")
    text: dict[str, Any] = {"format": FORMAT, "format_version": FORMAT_VERSION}
    text |= to_mapping(config)
    directory.mkdir(parents=True, exist_ok=True)
    temporary = directory / f".{WEIGHTS_FILE}.{os.getpid()}.tmp"
    save_file(stored, temporary)
    _publish(temporary, directory / WEIGHTS_FILE)
    temporary = directory / f".{CONFIG_FILE}.{os.getpid()}.tmp"
    temporary.write_text(json.dumps(text, indent=2) + "\n", encoding="utf-8")
    _publish(temporary, directory / CONFIG_FILE)


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
    stored = read_safetensors(directory / WEIGHTS_FILE)
    return {name: t.float() if t.is_floating_point() else t for name, t in stored.items()}


def load_strictly(module: torch.nn.Module, state: dict[str, Tensor], where: str) -> None:
    """Give `module` exactly the tensors of `state`, taking them over without a copy.

    Raises:
        ValueError: missing or unexpected names, wrong shapes, NaN or infinite values; they are
            listed and nothing is loaded.
    """
    wanted = module.state_dict()
    problems = [f"missing {name}" for name in wanted if name not in state]
    problems += [f"unexpected {name}" for name in state if name not in wanted]
    for name in wanted.keys() & state.keys():
        have, want = tuple(state[name].shape), tuple(wanted[name].shape)
        if have != want:
            problems.append(f"{name} has shape {have} instead of {want}")
    if problems:
        raise ValueError(f"{where} does not fit its configuration: " + "; ".join(problems))
    _check_finite(state, where)
    module.load_state_dict(state, strict=True, assign=True)


def _publish(temporary: Path, path: Path) -> None:
    """Put a finished file in its place at once, after its bytes have reached the disk."""
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(path)


def _check_finite(state: dict[str, Tensor], where: str) -> None:
    bad = [n for n, t in state.items() if t.is_floating_point() and not _is_finite(t)]
    if bad:
        raise ValueError(f"{where}: NaN or infinite values in {', '.join(bad)}")


def _is_finite(tensor: Tensor) -> bool:
    # A finite sum has finite terms, and costs a third of looking at each of them.
    return bool(tensor.sum().isfinite()) or bool(tensor.isfinite().all())
