"""How long `load_model` takes for a checkpoint file, against reading its tensors at all."""

import argparse
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file

from radio_core.bench.timing import Activity, Timing, time_in_turns
from radio_core.progress import Progress, silent
from radio_core.zoo.load import load_model


def bench_load(path: Path, repeats: int, progress: Progress = silent) -> dict[str, Timing]:
    """Time `load_model` on a file, and mapping it and summing every tensor of it, in turns.

    Both read from memory: the file was read before.

    Args:
        path: a `.safetensors` file or one written by `torch.save`, that `load_model` takes.
        repeats: measured turns, at least 2.
        progress: listener.

    Returns:
        "load" and "floor" -> times.

    Raises:
        FileNotFoundError: no such file.
        ValueError: `load_model` does not take it.
    """
    load_model(path)  # refuses a wrong file before the floor reads it, and fills the page cache
    activities: dict[str, Activity] = {
        "load": partial(load_model, path),
        "floor": partial(read_and_touch, path),
    }
    return time_in_turns(activities, repeats, progress=progress)


def read_and_touch(path: Path) -> float:
    """Map the tensors of a file, read every byte of them, and return the sum of their values."""
    if path.suffix == ".safetensors":
        tensors = load_file(path)
    else:
        with torch.serialization.safe_globals([argparse.Namespace]):
            tensors = torch.load(path, map_location="cpu", mmap=True, weights_only=True)[
                "state_dict"
            ]
    return sum(float(tensor.sum()) for tensor in tensors.values())
