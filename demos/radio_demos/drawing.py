"""Pictures: the examples, and maps that can be laid beside the visitor's own."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import gradio as gr
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from radio_core.data.toyworld import render_scene
from radio_core.pictures import PcaColours, foreground, heat_map

Captioned = tuple[Image.Image, str]

_SIDE = 448  # pixels of a shown map's longer side, unless the image itself is larger
_LARGEST = 1024
_BACKGROUND = (44, 44, 52)
_HEAT = 0.7  # opacity over the grey picture
_COLUMNS = 3  # of a sheet
_MARGIN = 12
_TEXT = 18
_EXAMPLE_WORLD = 2024
_EXAMPLES = (7, 3, 11, 42, 9)
_BESIDE = (5, 26)
_LARGER = 3


def picture_input(chosen: int = 0, **options: Any) -> Any:
    """A `gr.Image` for the visitor's picture, with the examples below it; `chosen` is there at
    first."""
    examples = example_pictures()
    picture = gr.Image(
        examples[chosen],
        label="Picture",
        type="filepath",
        format="png",
        sources=["upload", "clipboard"],
        buttons=["fullscreen"],
        height=320,
        **options,
    )
    gr.Examples([[image] for image in examples], picture, label="Examples")
    return picture


@cache
def example_pictures() -> tuple[Image.Image, ...]:
    """Scenes of the toy world, magnified to be seen well; the last is twice as wide as high."""
    scenes = [render_scene(_EXAMPLE_WORLD, index).image for index in _EXAMPLES]
    wide = [render_scene(_EXAMPLE_WORLD, index).image for index in _BESIDE]
    pictures = [Image.fromarray(pixels) for pixels in (*scenes, np.concatenate(wide, axis=1))]
    method = Image.Resampling.BICUBIC
    return tuple(p.resize((_LARGER * p.width, _LARGER * p.height), method) for p in pictures)


def shown_size(image: Image.Image) -> tuple[int, int]:
    """(width, height) at which maps of an image are shown."""
    longest = max(image.size)
    scale = max(_SIDE, min(longest, _LARGEST)) / longest
    return max(1, round(image.width * scale)), max(1, round(image.height * scale))


def colour_picture(
    features: Tensor, colours: PcaColours, size: tuple[int, int], masked: bool, smooth: bool
) -> Image.Image:
    """A map [C, h, w] in its colours, (width, height) large, its background dark where asked."""
    width, height = size
    picture = Image.fromarray(colours.render(features, (height, width) if smooth else None))
    picture = picture.resize(size, Image.Resampling.NEAREST)
    if masked:
        mask = Image.fromarray(foreground(features).numpy().astype(np.uint8) * 255)
        method = Image.Resampling.BILINEAR if smooth else Image.Resampling.NEAREST
        back = Image.new("RGB", size, _BACKGROUND)
        picture = Image.composite(picture, back, mask.resize(size, method))
    return picture


def heat_picture(
    values: Tensor,
    image: Image.Image,
    size: tuple[int, int],
    *,
    low: float | None = None,
    high: float | None = None,
    smooth: bool = True,
) -> Image.Image:
    """A map of numbers [h, w] as a heat map over the grey image, (width, height) large."""
    width, height = size
    hot = Image.fromarray(heat_map(values, (height, width) if smooth else None, low, high))
    grey = image.resize(size).convert("L").convert("RGB")
    return Image.blend(grey, hot.resize(size, Image.Resampling.NEAREST), _HEAT)


def mark(picture: Image.Image, x: float, y: float) -> None:
    """Draw a ring around a place, given as shares of width and height, into the picture."""
    centre = (x * picture.width, y * picture.height)
    draw = ImageDraw.Draw(picture)
    for radius, colour, pen in ((11, "black", 5), (10, "white", 3)):
        box = [centre[0] - radius, centre[1] - radius, centre[0] + radius, centre[1] + radius]
        draw.ellipse(box, outline=colour, width=pen)


def sheet(pictures: Sequence[Captioned]) -> Image.Image:
    """All pictures, of one size, with their captions on one sheet."""
    width, height = pictures[0][0].size
    columns = min(_COLUMNS, len(pictures))
    rows = -(-len(pictures) // columns)
    step = (width + _MARGIN, height + _TEXT + 2 * _MARGIN)
    page = Image.new("RGB", (columns * step[0] + _MARGIN, rows * step[1] + _MARGIN), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(size=_TEXT)
    for number, (picture, caption) in enumerate(pictures):
        left = _MARGIN + number % columns * step[0]
        top = _MARGIN + number // columns * step[1]
        page.paste(picture, (left, top))
        draw.text((left, top + height + 4), caption, fill="black", font=font)
    return page


def spread(values: Tensor) -> tuple[float, float]:
    """Least and greatest value of a map."""
    low, high = torch.aminmax(values)
    return float(low), float(high)
