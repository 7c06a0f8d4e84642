"""Write any model that can be loaded in another layout, and prove that it computes the same."""

import shutil
import tempfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from radio_core.extras import require
from radio_core.models.radio import RadioModel
from radio_core.zoo.hf_native import write_native
from radio_core.zoo.load import load_model

Layout = Literal["radio", "hf-native"]
StoredDtype = Literal["float32", "float16", "bfloat16"]
TOLERANCES: dict[StoredDtype, float] = {"float32": 1e-4, "float16": 3e-2, "bfloat16": 2e-1}
"""Largest difference that is accepted, as a share of the largest value of the output."""

_IMAGE_SIDES = (128, 192)  # of the image on which both are compared


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """What was written.

    Attributes:
        directory: the new directory.
        adaptors: names of the adaptors in it.
        difference: largest difference between the outputs of the source and of the directory, of
            the backbone and of every adaptor, as a share of the output's largest value.
        transformers_difference: the same for the backbone as transformers' own class computes it;
            None for the layout "radio", or where no transformers with that class is installed.
    """

    directory: Path
    adaptors: tuple[str, ...]
    difference: float
    transformers_difference: float | None = None


@torch.no_grad()
def convert(
    source: str | Path,
    destination: str | Path,
    to: Layout,
    dtype: StoredDtype = "float32",
    *,
    overwrite: bool = False,
) -> Conversion:
    """Write a model in another layout and compare both on one image.

    Nothing appears at the destination before the comparison has passed.

    Args:
        source: anything that `load_model` takes.
        destination: directory to write; created when missing.
        to: "radio" for this toolkit's layout, or "hf-native" for one that plain
            `transformers.AutoModel` loads. Both keep all adaptors for `load_model`.
        dtype: the floating weights are stored in it.
        overwrite: write into a directory that has files; those with the same names are replaced.

    Raises:
        ValueError: the destination is not empty, the source cannot be loaded, the layout cannot
            express it, or the result computes something else.
    """
    destination = Path(destination)
    if destination.exists() and not destination.is_dir():
        raise ValueError(f"{destination} is a file; name a directory")
    if destination.is_dir() and any(destination.iterdir()) and not overwrite:
        raise ValueError(f"{destination} is not empty; --overwrite replaces the model in it")
    # In float32 throughout, so that layouts are compared and not roundings.
    model = load_model(source, dtype=torch.float32)
    adaptors = tuple(model.adaptors)
    size = model.nearest_supported_resolution(*_IMAGE_SIDES)
    images = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0))
    expected = _outputs(model, images)
    parent = destination.absolute().parent
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=parent, prefix=f".{destination.name}.") as folder:
        written = Path(folder) / "model"
        if to == "radio":
            model.save_pretrained(written, getattr(torch, dtype))
        else:
            write_native(model, written, getattr(torch, dtype))
        del model
        difference = _difference(
            _outputs(load_model(written, dtype=torch.float32), images), expected
        )
        _check(difference, "load_model", dtype)
        foreign = _transformers_difference(written, images, expected) if to == "hf-native" else None
        if foreign is not None:
            _check(foreign, "transformers", dtype)
        destination.mkdir(parents=True, exist_ok=True)
        for path in written.iterdir():
            target = destination / path.name
            if path.is_dir() and target.is_dir():
                shutil.rmtree(target)
            path.replace(target)
    return Conversion(
        directory=destination,
        adaptors=adaptors,
        difference=difference,
        transformers_difference=foreign,
    )


def _outputs(model: RadioModel, images: Tensor) -> dict[str, Tensor]:
    """Every output of the model by name, e.g. "backbone.features" [B, N, C]."""
    outputs = model.forward_all(images, tuple(model.adaptors), "NLC")
    return {
        f"{name}.{part}": tensor
        for name, output in outputs.items()
        for part, tensor in output._asdict().items()
        if tensor is not None
    }


def _difference(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Largest difference of the outputs in `found`, as a share of each output's largest value."""
    shares = [
        (tensor - expected[name]).abs().max() / expected[name].abs().max().clamp(min=1e-12)
        for name, tensor in found.items()
    ]
    return float(torch.stack(shares).max())


def _check(difference: float, by: str, dtype: StoredDtype) -> None:
    if not difference <= TOLERANCES[dtype]:
        raise ValueError(
            f"the result of the conversion computes something else: loaded by {by} it differs by "
            f"{difference:.1e} of the largest value; nothing was kept"
        )


def _transformers_difference(
    directory: Path, images: Tensor, expected: dict[str, Tensor]
) -> float | None:
    """`_difference` of the backbone as transformers computes it, where its class is installed."""
    if find_spec("transformers") is None:
        return None
    transformers = require("transformers", "hf")
    if not hasattr(transformers, "RadioModel"):
        return None
    model = transformers.AutoModel.from_pretrained(directory, dtype=torch.float32)
    output = model.eval()(images)
    found = {f"backbone.{part}": getattr(output, part) for part in ("summary", "features")}
    return _difference(found, expected)
