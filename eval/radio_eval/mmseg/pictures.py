"""Pictures of a segmentation: the image, its label map and the prediction, side by side."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from radio_eval.data.segmentation import IGNORED
from radio_eval.mmseg.transforms import resize_image

_IGNORED_COLOUR = (224, 224, 192)
_LINE, _WIDTH = 16, 240
"""Height of a line of the legend, and its width, in pixels."""


def palette() -> np.ndarray:
    """[256, 3] uint8: PASCAL VOC's colours; 255 (ignored) is light grey."""
    numbers = np.arange(256)
    colours = np.zeros((256, 3), dtype=np.uint8)
    for bit in range(8):  # bits 0, 1, 2 of every octal digit go to red, green, blue
        for channel in range(3):
            colours[:, channel] |= (((numbers >> (3 * bit + channel)) & 1) << (7 - bit)).astype(
                np.uint8
            )
    colours[IGNORED] = _IGNORED_COLOUR
    return colours


class Comparison(NamedTuple):
    """An image of a split with its label map and the prediction, small enough for a report.

    Attributes:
        place: of the image in its split.
        image: [h, w, 3] uint8.
        label: [h, w] uint8, classes or 255.
        prediction: [h, w] uint8, classes.
    """

    place: int
    image: NDArray[np.uint8]
    label: NDArray[np.uint8]
    prediction: NDArray[np.uint8]


def compare(
    place: int, image: Tensor, label: Tensor, prediction: Tensor, side: int = 320
) -> Comparison:
    """A comparison of at most `side` pixels.

    Args:
        place: of the image in its split.
        image: [3, h, w] uint8.
        label: [H, W] integers in [0, 255], as those of `prediction`.
        prediction: its classes.
        side: of the longer side.
    """
    height, width = label.shape
    scale = min(1.0, side / max(height, width))
    small = max(1, round(width * scale)), max(1, round(height * scale))

    def shrunk(values: Tensor, how: Image.Resampling) -> NDArray[np.uint8]:
        picture = Image.fromarray(values.cpu().numpy().astype(np.uint8))
        return np.asarray(picture.resize(small, how))

    pixels = shrunk(image.permute(1, 2, 0), Image.Resampling.LANCZOS)
    maps = (shrunk(values, Image.Resampling.NEAREST) for values in (label, prediction))
    return Comparison(place, pixels, *maps)


def save_comparison(path: Path, image: Tensor, label: Tensor, prediction: Tensor) -> None:
    """Write a PNG: the image at the size of the label map, the label map and the prediction.

    Arguments as for `compare`; the file's folder is made.
    """
    height, width = label.shape
    shown = resize_image(image.cpu(), (height, width)).permute(1, 2, 0).numpy()
    colours = palette()
    panels = [shown, colours[label.cpu().numpy()], colours[prediction.cpu().numpy()]]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(panels, axis=1)).save(path)


def save_legend(path: Path, class_names: Sequence[str]) -> None:
    """Write a PNG with the colour of every class and of ignored pixels."""
    colours = palette()
    entries = [*enumerate(class_names), (IGNORED, "ignored")]
    picture = Image.new("RGB", (_WIDTH, _LINE * len(entries)), "white")
    draw = ImageDraw.Draw(picture)
    for row, (number, name) in enumerate(entries):
        top = row * _LINE
        colour = tuple(int(level) for level in colours[number])
        draw.rectangle((0, top, 2 * _LINE, top + _LINE - 1), fill=colour)
        draw.text((2 * _LINE + 6, top + 2), name.encode("latin-1", "replace").decode("latin-1"), 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)
