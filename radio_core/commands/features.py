"""Extract features of images, and see them as colours."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import numpy as np
import torch
import tyro
from PIL import Image
from rich.console import Console
from safetensors.torch import save_file
from torch import Tensor

from radio_core.commands import UsageError, parse
from radio_core.data.images import load_rgb
from radio_core.data.transforms import radio_resize, to_tensor
from radio_core.pca import fit_pca
from radio_core.teachers import TOY_TEACHERS, load_teacher
from radio_core.zoo.load import load_model

if TYPE_CHECKING:
    from radio_core.models import RadioModel

DEFAULT_RESOLUTION = 224


@dataclass(frozen=True, kw_only=True)
class FeatureOptions:
    """Run a model on images; write its summaries and features, or show the features as colours."""

    images: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Image files."""
    model: str = "toy"
    """A model of the zoo, a folder with a model, or a toy teacher."""
    adaptor: str = ""
    """Take the features of this adaptor ("clip", "dino_v2", "sam") instead of the backbone's."""
    resolution: int | None = None
    """Side in pixels to which each image's shortest side is brought; the model's own if None."""
    pca: Path | None = None
    """PNG file for a picture: each image beside its features' first three principal components."""
    out: Path | None = None
    """Safetensors file: "<number>.summary" [C] and "<number>.features" [C, h, w] of each image."""


class _Extracted(NamedTuple):
    """One image as the model saw it, with what the model said."""

    image: Image.Image
    summary: Tensor | None
    features: Tensor


def main(argv: Sequence[str]) -> int:
    """Run `radio features IMAGE ...`; returns the exit code."""
    options = parse(FeatureOptions, argv, prog="radio features")
    if not options.images:
        raise UsageError("name at least one image")
    extracted = extract(options)
    console = Console()
    for path, item in zip(options.images, extracted, strict=True):
        width = 0 if item.summary is None else len(item.summary)
        shape = " x ".join(str(side) for side in item.features.shape)
        console.print(f"{path}: summary {width}, features {shape}", markup=False, highlight=False)
    if options.out is not None:
        tensors = {}
        for number, item in enumerate(extracted):
            tensors[f"{number}.features"] = item.features.contiguous()
            if item.summary is not None:
                tensors[f"{number}.summary"] = item.summary.contiguous()
        options.out.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, options.out, {str(i): str(p) for i, p in enumerate(options.images)})
    if options.pca is not None:
        options.pca.parent.mkdir(parents=True, exist_ok=True)
        contact_sheet(extracted).save(options.pca, "PNG")
    return 0


@torch.no_grad()
def extract(options: FeatureOptions) -> list[_Extracted]:
    """Load the model and run it on every image, at the image's own aspect ratio.

    Raises:
        ValueError: unknown model or adaptor, or a file that is not a readable image.
    """
    images = [load_rgb(path) for path in options.images]
    if options.model in TOY_TEACHERS:
        if options.adaptor:
            raise UsageError(f"teacher {options.model!r} has no adaptors; leave --adaptor out")
        teacher = load_teacher(options.model)
        side = options.resolution or teacher.spec.input_size
        resized = [radio_resize(image, side, 1) for image in images]
        outputs = [teacher(to_tensor(image)[None]) for image in resized]
        return [
            _Extracted(image, None if o.summary is None else o.summary[0], o.features[0])
            for image, o in zip(resized, outputs, strict=True)
        ]
    radio = load_model(options.model)
    names = radio.check_adaptors([options.adaptor] if options.adaptor else [])
    side = options.resolution or min(radio.preferred_resolution or (DEFAULT_RESOLUTION,))
    step = radio.min_resolution_step
    return [_run(radio, radio_resize(image, side, step), names) for image in images]


def _run(radio: "RadioModel", image: Image.Image, names: tuple[str, ...]) -> _Extracted:
    outputs = radio.forward_all(to_tensor(image)[None], names)
    output = outputs[names[0] if names else "backbone"]
    summary = None if output.summary is None else output.summary[0]
    return _Extracted(image, summary, output.features[0])


def contact_sheet(items: Sequence[_Extracted]) -> Image.Image:
    """One row an image: the image, and its features as colours that mean the same in all rows."""
    colours = fit_pca([item.features for item in items])
    sizes = [(item.image.height, item.image.width) for item in items]
    sheet = np.full((sum(h for h, _ in sizes), 2 * max(w for _, w in sizes), 3), 255, np.uint8)
    top = 0
    for item, (height, width) in zip(items, sizes, strict=True):
        sheet[top : top + height, :width] = np.asarray(item.image)
        sheet[top : top + height, width : 2 * width] = colours.render(
            item.features, (height, width)
        )
        top += height
    return Image.fromarray(sheet)
