"""Masks and prompts drawn over an image."""

import colorsys
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from radio_sam.objects import FoundMask, Mask, ObjectPrompt, Pixels

SMALLEST, LARGEST = 640, 2048
"""Pixels of a picture's longer side: smaller images are magnified, larger ones are reduced."""

_OPACITY = 0.4
_SHADOW = (0, 0, 0)
_ON, _OFF = (20, 160, 60), (210, 30, 40)

Colour = tuple[int, int, int]


def object_colour(number: int) -> Colour:
    """The colour of an object, RGB; neighbouring numbers get hues far apart."""
    hue = (0.58 + number * (math.sqrt(5) - 1) / 2) % 1
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.85 if number % 2 else 0.7, 1.0)
    return round(red * 255), round(green * 255), round(blue * 255)


def draw_overlay(image: Pixels, masks: Sequence[FoundMask], *, prompts: bool = True) -> Image.Image:
    """An image with translucent masks, their outlines and what was asked for.

    Args:
        image: [H, W, 3] RGB.
        masks: of this image, at most one an object; smaller ones are drawn over larger ones.
        prompts: draw boxes, points ("+" on the object, "-" on the background) and, of several
            objects, their numbers.

    Returns:
        The picture, magnified a whole number of times if the image is small, or reduced.
    """
    side = max(image.shape[:2])
    scale = math.ceil(SMALLEST / side) if side < SMALLEST else min(1.0, LARGEST / side)
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    method = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS
    pixels = np.array(Image.fromarray(image).resize((width, height), method))
    pen = max(2, round(max(height, width) / 400))
    for found in sorted(masks, key=lambda found: -found.area):
        mask = Image.fromarray(found.mask).resize((width, height), Image.Resampling.NEAREST)
        _paint(pixels, np.asarray(mask), object_colour(found.number), pen)
    picture = Image.fromarray(pixels)
    if prompts:
        draw = ImageDraw.Draw(picture)
        for found in masks:
            _draw_prompt(draw, found.prompt, object_colour(found.number), scale, pen)
        for found in masks if len(masks) > 1 else ():
            _draw_number(draw, found, scale, pen)
    return picture


def side_by_side(pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures of one size in a row, with a white gap between them."""
    width, height = pictures[0].size
    gap = max(4, width // 60)
    row = Image.new("RGB", ((width + gap) * len(pictures) - gap, height), "white")
    for index, picture in enumerate(pictures):
        row.paste(picture, (index * (width + gap), 0))
    return row


def _paint(pixels: Pixels, mask: Mask, colour: Colour, pen: int) -> None:
    """Lay a mask [H, W] over pixels [H, W, 3], in place: a tint, and an outline within it."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return
    window = tuple(
        slice(max(0, int(line[0]) - 2 * pen), int(line[-1]) + 2 * pen + 1)
        for line in (rows, columns)
    )
    area, inside = pixels[window], mask[window]
    # The mean over a square is full just where the whole square is, and zero where none of it is.
    picture = Image.fromarray(inside.astype(np.uint8) * 255)
    interior = np.asarray(picture.filter(ImageFilter.BoxBlur(pen))) == 255
    around = np.asarray(picture.filter(ImageFilter.BoxBlur(max(1, pen // 2)))) > 0
    tinted = (1 - _OPACITY) * area[inside] + _OPACITY * np.array(colour)
    area[inside] = tinted.round().astype(np.uint8)
    area[around & ~inside] //= 2
    area[inside & ~interior] = colour


def _draw_prompt(
    draw: ImageDraw.ImageDraw, prompt: ObjectPrompt, colour: Colour, scale: float, pen: int
) -> None:
    """A frame for the box, and a disc with a sign for each point, so that it needs no colours."""
    if prompt.box is not None:
        corners = [round(value * scale) for value in prompt.box]
        corners[2:] = [max(low, high - 1) for low, high in zip(corners, corners[2:], strict=False)]
        draw.rectangle(corners, outline=_SHADOW, width=pen + 2)
        draw.rectangle(corners, outline=colour, width=pen)
    radius, arm = 4 * pen, 2 * pen
    for point, label in zip(prompt.points, prompt.labels, strict=True):
        x, y = ((value + 0.5) * scale for value in point)
        disc = (x - radius, y - radius, x + radius, y + radius)
        draw.ellipse(disc, fill=_ON if label else _OFF, outline="white", width=pen)
        draw.line((x - arm, y, x + arm, y), fill="white", width=pen)
        if label:
            draw.line((x, y - arm, x, y + arm), fill="white", width=pen)


def _draw_number(draw: ImageDraw.ImageDraw, found: FoundMask, scale: float, pen: int) -> None:
    """The object's number on its colour, in the corner of its box or beside its first point."""
    prompt = found.prompt
    x, y = prompt.points[0] if prompt.box is None else prompt.box[:2]
    shift = 5 * pen if prompt.box is None else 0
    place = (x * scale + shift, y * scale + shift)
    font = ImageFont.load_default(size=8 * pen)
    _, top, right, bottom = draw.textbbox(place, str(found.number), font=font)
    tag = (place[0], place[1], right + 2 * pen, bottom + (top - place[1]))
    draw.rectangle(tag, fill=object_colour(found.number), outline=_SHADOW)
    draw.text((place[0] + pen, place[1]), str(found.number), fill="black", font=font)
