"""Atomic checkpoints of a run: safetensors and JSON, no pickles.

checkpoints/step-00000500/ holds model.safetensors, optimizer.safetensors and state.json. A folder
appears under its final name only when it is complete, so a run killed at any moment resumes from
the newest complete one. Random numbers need no state: they follow from (seed, step).
"""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

_PREFIX, _PARTIAL = "step-", ".partial-"


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint on disk.

    Attributes:
        path: its folder.
        step: optimizer steps done.
    """

    path: Path
    step: int


def find_checkpoints(folder: Path) -> list[Checkpoint]:
    """Complete checkpoints in `folder`, oldest first."""
    found = []
    for path in folder.glob(f"{_PREFIX}*"):
        number = path.name.removeprefix(_PREFIX)
        if number.isdigit() and (path / "state.json").is_file():
            found.append(Checkpoint(path, int(number)))
    return sorted(found, key=lambda checkpoint: checkpoint.step)


def save_checkpoint(
    folder: Path, step: int, model: nn.Module, optimizer: torch.optim.Optimizer, keep: int
) -> Checkpoint:
    """Write the state after `step` steps and remove all but the newest `keep` checkpoints."""
    final = folder / f"{_PREFIX}{step:08d}"
    for left_behind in folder.glob(f"{_PARTIAL}*"):
        shutil.rmtree(left_behind)
    if not final.exists():
        partial = folder / f"{_PARTIAL}{step:08d}"
        partial.mkdir(parents=True)
        tensors, fields = _split_optimizer(optimizer.state_dict())
        _save(model.state_dict(), partial / "model.safetensors")
        _save(tensors, partial / "optimizer.safetensors")
        (partial / "state.json").write_text(json.dumps({"step": step, "optimizer": fields}))
        for path in (*partial.iterdir(), partial):
            _sync(path)
        partial.rename(final)
        _sync(folder)
    for old in find_checkpoints(folder)[:-keep]:
        shutil.rmtree(old.path.rename(folder / f"{_PARTIAL}{old.step:08d}"))
    return Checkpoint(final, step)


def load_checkpoint(
    checkpoint: Checkpoint, model: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    """Restore model and optimizer bit for bit.

    Raises:
        ValueError: the checkpoint does not fit the model, or a file in it is damaged.
    """
    try:
        model.load_state_dict(load_file(checkpoint.path / "model.safetensors"))
        fields = json.loads((checkpoint.path / "state.json").read_text())["optimizer"]
        tensors = load_file(checkpoint.path / "optimizer.safetensors")
        optimizer.load_state_dict(_join_optimizer(tensors, fields))
    except Exception as error:
        raise ValueError(f"cannot resume from {checkpoint.path}: {error}") from error


def _split_optimizer(state: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimizer's state dict as tensors "<parameter>.<name>" and plain groups."""
    tensors = {
        f"{parameter}.{name}": value
        for parameter, values in state["state"].items()
        for name, value in values.items()
    }
    return tensors, {"groups": state["param_groups"]}


def _join_optimizer(tensors: dict[str, Tensor], fields: dict[str, Any]) -> dict[str, Any]:
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        parameter, _, name = key.partition(".")
        state.setdefault(int(parameter), {})[name] = value
    return {"state": state, "param_groups": fields["groups"]}


def _save(tensors: dict[str, Tensor], path: Path) -> None:
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path)


def _sync(path: Path) -> None:
    """Make sure that a file or folder is on disk before the rename that publishes it."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
