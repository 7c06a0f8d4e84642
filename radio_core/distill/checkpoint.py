"""Atomic checkpoints of a run: safetensors and JSON, no pickles.

checkpoints/step-00000500/ holds model.safetensors, optimizer.safetensors, average.safetensors when
the run averages its weights, and state.json. A folder appears under its final name only when it is
complete, so a run killed at any moment resumes from the newest complete one. Random numbers need
no state: they follow from (seed, step). Tensors are whole and go by the parameters' names, so
neither the number of processes nor the sharding matters to a checkpoint.
"""

import errno
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from radio_core.distill.engine import WeightAverage, whole

_PREFIX, _PARTIAL = "step-", ".partial-"
_MARGIN = 2**20  # bytes that a file system may take on top of the tensors


class DiskFullError(RuntimeError):
    """There is no space left for what a run has to write; the message says what to do."""


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint on disk.

    Attributes:
        path: its folder.
        step: optimizer steps done.
    """

    path: Path
    step: int


@dataclass(frozen=True)
class Snapshot:
    """The state of a run, whole and on the CPU.

    Attributes:
        model: the model's state dict.
        optimizer: "<parameter>.<name>" -> the optimizer's tensors.
        average: parameter -> moving average; empty for runs without.
    """

    model: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    average: dict[str, Tensor]


def take_snapshot(
    model: nn.Module, optimizer: torch.optim.Optimizer, average: WeightAverage | None
) -> Snapshot:
    """The state of a run; all processes that share a sharded model must call."""
    moments = {
        f"{name}.{key}": value
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }
    averages = {} if average is None else average.tensors

    def gathered(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {n: whole(tensor.detach()).cpu().contiguous() for n, tensor in tensors.items()}

    return Snapshot(gathered(model.state_dict()), gathered(moments), gathered(averages))


def find_checkpoints(folder: Path) -> list[Checkpoint]:
    """Complete checkpoints in `folder`, oldest first."""
    found = []
    for path in folder.glob(f"{_PREFIX}*"):
        number = path.name.removeprefix(_PREFIX)
        if number.isdigit() and (path / "state.json").is_file():
            found.append(Checkpoint(path, int(number)))
    return sorted(found, key=lambda checkpoint: checkpoint.step)


def save_checkpoint(folder: Path, step: int, snapshot: Snapshot, keep: int) -> Checkpoint:
    """Write the state after `step` steps and remove all but the newest `keep` checkpoints.

    Raises:
        DiskFullError: there is no space; the earlier checkpoints are intact.
    """
    final = folder / f"{_PREFIX}{step:08d}"
    _remove_partial(folder)
    if not final.exists():
        partial = folder / f"{_PARTIAL}{step:08d}"
        files = {
            "model": snapshot.model,
            "optimizer": snapshot.optimizer,
            **({"average": snapshot.average} if snapshot.average else {}),
        }
        size = sum(t.numel() * t.element_size() for part in files.values() for t in part.values())
        try:
            partial.mkdir(parents=True)
            if shutil.disk_usage(folder).free < size + _MARGIN:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            for name, tensors in files.items():
                save_file(tensors, partial / f"{name}.safetensors")
            (partial / "state.json").write_text(json.dumps({"step": step}))
            for path in (*partial.iterdir(), partial):
                _sync(path)
        except (OSError, SafetensorError) as error:
            _remove_partial(folder)
            if is_disk_full(error):
                raise DiskFullError(disk_full_message(folder, size)) from error
            raise
        partial.rename(final)
        _sync(folder)
    for old in find_checkpoints(folder)[:-keep]:
        shutil.rmtree(old.path.rename(folder / f"{_PARTIAL}{old.step:08d}"))
    return Checkpoint(final, step)


def load_model(checkpoint: Checkpoint, model: nn.Module) -> None:
    """Restore a model that is not sharded, bit for bit.

    Raises:
        ValueError: the checkpoint does not fit the model, or a file in it is damaged.
    """
    try:
        model.load_state_dict(load_file(checkpoint.path / "model.safetensors"))
    except Exception as error:
        raise ValueError(f"cannot resume from {checkpoint.path}: {error}") from error


def load_optimizer(
    checkpoint: Checkpoint,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: WeightAverage | None,
) -> None:
    """Restore optimizer and moving average bit for bit, for a model that may be sharded.

    Raises:
        ValueError: the checkpoint does not fit, or a file in it is damaged.
    """
    parameters = dict(model.named_parameters())
    try:
        state: dict[str, dict[str, Tensor]] = {}
        for key, value in load_file(checkpoint.path / "optimizer.safetensors").items():
            name, _, field = key.rpartition(".")
            state.setdefault(name, {})[field] = _as_parameter(value, parameters[name])
        optimizer.state.clear()
        optimizer.state.update({parameters[name]: values for name, values in state.items()})
        if average is not None:
            tensors = load_file(checkpoint.path / "average.safetensors")
            average.load({n: _as_parameter(t, parameters[n]) for n, t in tensors.items()})
    except Exception as error:
        raise ValueError(f"cannot resume from {checkpoint.path}: {error}") from error


def is_disk_full(error: BaseException) -> bool:
    """True if an error of writing says that there is no space, or no quota."""
    codes = (errno.ENOSPC, errno.EDQUOT)
    if isinstance(error, OSError) and error.errno in codes:
        return True
    return any(f"os error {code})" in str(error) for code in codes)  # as safetensors tells it


def disk_full_message(folder: Path, needed: int | None = None) -> str:
    """What to tell when the disk of a run's folder is full.

    Args:
        folder: of its checkpoints.
        needed: bytes that were to be written, if known.
    """
    free = shutil.disk_usage(folder if folder.exists() else folder.parent).free
    found = find_checkpoints(folder)
    last = f"the last good checkpoint is {found[-1].path}" if found else "there is no checkpoint"
    wanted = "" if needed is None else f" and {needed / 1e6:.1f} MB are needed"
    return (
        f"the disk is full: {free / 1e6:.1f} MB are free in {folder}{wanted}; {last}. Free some "
        "space (--keep-checkpoints 1 needs least), then continue with --resume"
    )


def _remove_partial(folder: Path) -> None:
    """Remove what an interrupted `save_checkpoint` has left behind."""
    for left_behind in folder.glob(f"{_PARTIAL}*"):
        shutil.rmtree(left_behind)


def _as_parameter(value: Tensor, parameter: Tensor) -> Tensor:
    """A tensor on the device of a parameter, sharded like it; counters stay as they are."""
    if value.shape != parameter.shape:
        return value
    value = value.to(parameter.device)
    if isinstance(parameter, DTensor):
        return distribute_tensor(value, parameter.device_mesh, parameter.placements)
    return value


def _sync(path: Path) -> None:
    """Make sure that a file or folder is on disk before the rename that publishes it."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
