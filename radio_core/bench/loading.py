"""How long `load_model` takes for a checkpoint file, against reading its tensors at all."""

import argparse
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from radio_core.bench.timing import Activity, Timing, time_in_turns
from radio_core.models import RadioModel, ViTConfig
from radio_core.models.normalizers import CLIP_MEAN, CLIP_STD
from radio_core.progress import Progress, silent
from radio_core.zoo.load import load_model


@dataclass(frozen=True)
class LoadTimes:
    """Two ways to read one file, in turns and from memory (the file was read before).

    Attributes:
        file_bytes: size of the file.
        load: `load_model`.
        floor: mapping the file with torch.load or safetensors, and summing every tensor.
    """

    file_bytes: int
    load: Timing
    floor: Timing

    @property
    def ratio(self) -> float:
        """Median of `load` / median of `floor`."""
        return self.load.median / self.floor.median

    def as_json(self) -> dict[str, Any]:
        """Medians in milliseconds, spreads in percent, and the ratio."""
        row: dict[str, Any] = {"file_bytes": self.file_bytes}
        for name, timing in (("load", self.load), ("floor", self.floor)):
            row[f"{name}_ms"] = round(1000 * timing.median, 2)
            row[f"{name}_spread_percent"] = round(100 * timing.spread, 1)
        return row | {"ratio": round(self.ratio, 3)}


def bench_load(path: Path, repeats: int, progress: Progress = silent) -> LoadTimes:
    """Time `load_model` on a file of an official release, or any file that it takes.

    Args:
        path: a `.safetensors` file or one written by `torch.save`.
        repeats: measured turns, at least 2.
        progress: listener.

    Raises:
        FileNotFoundError: no such file.
        ValueError: `load_model` does not take it.
    """
    size = path.stat().st_size
    load_model(path)  # refuses a wrong file before the floor reads it, and fills the page cache
    activities: dict[str, Activity] = {
        "load": partial(load_model, path),
        "floor": partial(read_and_touch, path),
    }
    return LoadTimes(size, **time_in_turns(activities, repeats, progress=progress))


def read_and_touch(path: Path) -> float:
    """Map the tensors of a file, read every byte of them, and return the sum of their values."""
    if path.suffix == ".safetensors":
        return _total(load_file(path))
    with torch.serialization.safe_globals([argparse.Namespace]):
        checkpoint = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    return _total(checkpoint["state_dict"])


def _total(tensors: dict[str, Tensor]) -> float:
    return sum(float(tensor.sum()) for tensor in tensors.values())


def write_official_vit(model: RadioModel, path: Path) -> None:
    """Write a model as official releases are: a pickle of names, tensors and arguments.

    Args:
        model: a plain ViT with one class token, patches of 16 pixels and no registers; its
            adaptors are left out.
        path: the file.

    Raises:
        ValueError: another kind of backbone.
    """
    config = model.config.backbone
    if (
        not isinstance(config, ViTConfig)
        or config.patch_size != 16
        or config.num_prefix_tokens != 1
    ):
        raise ValueError("only a ViT with patches of 16 pixels and one prefix token can be written")
    shape = {"embed_dim": config.embed_dim, "depth": config.depth, "num_heads": config.num_heads}
    arguments = argparse.Namespace(
        model="vit_base_patch16_224",
        model_kwargs=shape | {"mlp_ratio": config.mlp_ratio},
        pretrained=False,
        initial_checkpoint="",
        in_chans=None,
        input_size=None,
        model_norm=False,
        cpe_max_size=config.grid_size * config.patch_size,
        cls_token_per_teacher=False,
        register_multiple=None,
        teachers=[{"name": "clip", "type": "generic"}],
        mlp_version="v2",
        spectral_reparam=False,
        dtype=torch.float32,
    )
    state = {f"base_model.{name}": t for name, t in model.backbone.state_dict().items()}
    state["input_conditioner.norm_mean"] = torch.tensor(CLIP_MEAN).view(3, 1, 1)
    state["input_conditioner.norm_std"] = torch.tensor(CLIP_STD).view(3, 1, 1)
    checkpoint = {"arch": arguments.model, "epoch": 0, "state_dict": state, "args": arguments}
    torch.save(checkpoint, path)
