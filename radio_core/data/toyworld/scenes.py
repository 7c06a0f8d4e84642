"""Procedural scenes: (seed, index) → image with exact ground truth.

A scene shows one large main object and up to three small ones on a varied background, some with
a short word in a corner. Everything follows from the two integers, so a data set needs no files.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from radio_core.data.storage import Storage

SCENE_SIZE = 128
SHAPES: tuple[str, ...] = ("circle", "square", "triangle", "star", "cross", "ring")
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (205, 40, 40),
    "yellow": (230, 200, 40),
    "green": (45, 165, 60),
    "blue": (45, 85, 210),
    "purple": (150, 55, 180),
    "white": (238, 238, 238),
}
TEXTURES: tuple[str, ...] = ("plain", "striped", "dotted")
CLASS_NAMES: tuple[str, ...] = tuple(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES)
SEMANTIC_NAMES: tuple[str, ...] = ("background", *SHAPES)
TEMPLATES: tuple[str, ...] = (
    "a {}",
    "a photo of a {}",
    "a picture of a large {}",
    "a drawing of a {}",
    "there is a {}",
)
WORDS: tuple[str, ...] = (
    *("CAT", "DOG", "SUN", "SKY", "BUS", "CAR", "BOX", "CUP", "HAT", "KEY"),
    *("MAP", "PEN", "RED", "TEA", "TOY", "ZOO", "EXIT", "GOLD", "JAZZ", "LAMP"),
    *("MILK", "OPEN", "PARK", "ROAD", "SALE", "SHOP", "STOP", "TAXI", "WEST", "ZERO"),
)

_MAIN_RADIUS = (27.0, 40.0)
_SMALL_RADIUS = (11.0, 17.0)
_TILT = (-0.35, 0.35)  # radians
_SUPERSAMPLE = 2
_TEXT_PROBABILITY = 0.3

Point = tuple[float, float]
Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class ToyObject:
    """One object of a scene; `mask` and `bbox` (x, y, width, height) are of its visible pixels."""

    shape: str
    colour: str
    texture: str
    mask: Mask
    bbox: tuple[int, int, int, int]

    @property
    def name(self) -> str:
        """Colour and shape, e.g. "red star"."""
        return f"{self.colour} {self.shape}"


@dataclass(frozen=True, kw_only=True)
class Scene:
    """An image and all that is known of it.

    Attributes:
        image: [128, 128, 3] uint8 RGB.
        objects: the main object first.
        semantic: [128, 128] uint8, index into `SEMANTIC_NAMES`.
        text: the word in the picture, "" without one.
    """

    image: Pixels
    objects: tuple[ToyObject, ...]
    semantic: Pixels
    text: str

    @property
    def label(self) -> int:
        """Index of the main object's class in `CLASS_NAMES`."""
        return CLASS_NAMES.index(self.objects[0].name)

    @property
    def caption(self) -> str:
        """A full description, the main object first."""
        parts = [f"{o.texture} {o.name}" for o in self.objects]
        caption = f"a large {parts[0]}"
        if len(parts) > 1:
            caption += " and " + " and ".join(f"a small {part}" for part in parts[1:])
        return caption


class _Placement(NamedTuple):
    """Where an object lies before it is drawn: pixels and radians."""

    x: float
    y: float
    radius: float
    angle: float


def render_scene(seed: int, index: int) -> Scene:
    """Render scene number `index` of world `seed`; the same pair always gives the same scene."""
    rng = np.random.default_rng((seed, index))
    canvas = _background(rng)
    kinds: list[tuple[str, str, str]] = []
    owner = np.full((SCENE_SIZE, SCENE_SIZE), -1, dtype=np.int8)
    for number, placement in enumerate(_place(rng)):
        kind = (
            SHAPES[int(rng.integers(len(SHAPES)))],
            list(COLOURS)[int(rng.integers(len(COLOURS)))],
            TEXTURES[int(rng.integers(len(TEXTURES)))],
        )
        kinds.append(kind)
        _draw(canvas, owner, number, kind, placement, rng)
    text = _write_word(canvas, owner, rng) if rng.random() < _TEXT_PROBABILITY else ""
    canvas += rng.normal(0.0, 5.0, canvas.shape[:2]).astype(np.float32)[..., None]
    image = canvas.clip(0, 255).astype(np.uint8)
    semantic = np.zeros((SCENE_SIZE, SCENE_SIZE), dtype=np.uint8)
    objects = []
    for number, (shape, colour, texture) in enumerate(kinds):
        mask = owner == number
        ys, xs = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if len(ys) == 0:
            continue  # hidden by others
        semantic[mask] = 1 + SHAPES.index(shape)
        box = (int(xs[0]), int(ys[0]), int(xs[-1] - xs[0] + 1), int(ys[-1] - ys[0] + 1))
        objects.append(ToyObject(shape=shape, colour=colour, texture=texture, mask=mask, bbox=box))
    return Scene(image=image, objects=tuple(objects), semantic=semantic, text=text)


class ToyWorldImages:
    """Scenes first … first + count - 1 of world `seed`, as an `ImageSource`.

    Held-out scenes for evaluation come from far-away indices (see `export`), so they never overlap.
    """

    def __init__(self, count: int, seed: int = 0, first: int = 0) -> None:
        if count < 1:
            raise ValueError(f"toy world: count must be at least 1, not {count}")
        self.count, self.seed, self.first = count, seed, first

    def __len__(self) -> int:
        return self.count

    def read(self, index: int) -> Image.Image:
        """Scene number `index` as an RGB picture of 128×128 pixels."""
        return Image.fromarray(render_scene(self.seed, self.first + index).image)

    def layout(self) -> str:
        """See `sources.data_layout`."""
        return f"toyworld:{self.count}"


def open_toyworld(scenes: str, storage: Storage) -> ToyWorldImages:
    """Open "SCENES" of the toy world for training."""
    if not scenes.isdecimal():
        raise ValueError(f"toyworld:{scenes}: name a number of scenes, e.g. toyworld:6000")
    return ToyWorldImages(int(scenes))


def _background(rng: np.random.Generator) -> NDArray[np.float32]:
    """A muted background [128, 128, 3]: flat, gradient or cloudy."""
    first = rng.uniform(70, 150) + rng.uniform(-25, 25, 3)
    second = first + rng.uniform(-45, 45) + rng.uniform(-15, 15, 3)
    kind = int(rng.integers(3))
    if kind == 0:
        mix = np.zeros((SCENE_SIZE, SCENE_SIZE), dtype=np.float32)
    elif kind == 1:
        angle = rng.uniform(0, 2 * math.pi)
        ramp = np.linspace(-0.7, 0.7, SCENE_SIZE, dtype=np.float32)
        across, down = np.float32(math.cos(angle)), np.float32(math.sin(angle))
        mix = 0.5 + ramp[None] * across + ramp[:, None] * down
    else:
        cells = int(rng.integers(3, 9))
        noise = Image.fromarray(rng.random((cells, cells), dtype=np.float32))
        mix = np.asarray(noise.resize((SCENE_SIZE, SCENE_SIZE), Image.Resampling.BICUBIC))
    start, step = first.astype(np.float32), (second - first).astype(np.float32)
    return start + mix[..., None] * step


def _place(rng: np.random.Generator) -> list[_Placement]:
    """The main object near the centre and up to three small ones that hardly cover it."""
    radius = rng.uniform(*_MAIN_RADIUS)
    margin = max(SCENE_SIZE / 2 - radius, 0.0)
    centre = SCENE_SIZE / 2 + rng.uniform(-margin, margin, 2)
    placed = [_Placement(centre[0], centre[1], radius, rng.uniform(*_TILT))]
    for _ in range(int(rng.integers(4))):
        small = rng.uniform(*_SMALL_RADIUS)
        for _attempt in range(8):
            x, y = rng.uniform(0.6 * small, SCENE_SIZE - 0.6 * small, 2)
            if all(math.hypot(x - p.x, y - p.y) > 0.85 * (small + p.radius) for p in placed):
                placed.append(_Placement(x, y, small, rng.uniform(*_TILT)))
                break
    return placed


def _draw(
    canvas: NDArray[np.float32],
    owner: NDArray[np.int8],
    number: int,
    kind: tuple[str, str, str],
    at: _Placement,
    rng: np.random.Generator,
) -> None:
    """Paint one object over the canvas and mark its pixels as its own."""
    reach = 1.25 * at.radius + 1
    left, top = max(int(at.x - reach), 0), max(int(at.y - reach), 0)
    right, bottom = min(int(at.x + reach) + 1, SCENE_SIZE), min(int(at.y + reach) + 1, SCENE_SIZE)
    shape, colour, texture = kind
    scale = _SUPERSAMPLE
    stencil = Image.new("L", ((right - left) * scale, (bottom - top) * scale))
    pen = ImageDraw.Draw(stencil)
    centre = ((at.x - left) * scale, (at.y - top) * scale)
    for hole, polygon in enumerate(_outlines(shape, centre, at.radius * scale, at.angle)):
        pen.polygon(polygon, fill=0 if hole else 255)
    alpha = np.asarray(stencil.reduce(scale), dtype=np.float32)[..., None] / 255
    x = np.arange(left, right, dtype=np.float32)[None] - np.float32(at.x)
    y = np.arange(top, bottom, dtype=np.float32)[:, None] - np.float32(at.y)
    tint = np.asarray(COLOURS[colour], dtype=np.float32) + rng.normal(0, 9, 3).astype(np.float32)
    brightness = _shade(texture, x, y, at.radius, float(rng.uniform(0, math.pi)))
    paint = brightness[..., None] * tint * np.float32(rng.uniform(0.85, 1.05))
    window = canvas[top:bottom, left:right]
    window += alpha * (paint - window)
    owner[top:bottom, left:right][alpha[..., 0] >= 0.5] = number


@cache
def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=15)


def _write_word(
    canvas: NDArray[np.float32], owner: NDArray[np.int8], rng: np.random.Generator
) -> str:
    """Write a word in the corner with the fewest object pixels; it belongs to the background."""
    word = WORDS[int(rng.integers(len(WORDS)))]
    left, top, right, bottom = (int(v) for v in _font().getbbox(word))
    width, height = right - left + 4, bottom - top + 4
    corners = [(x, y) for x in (2, SCENE_SIZE - width - 2) for y in (2, SCENE_SIZE - height - 2)]
    covered = [int((owner[y : y + height, x : x + width] >= 0).sum()) for x, y in corners]
    x, y = corners[int(np.argmin(covered))]
    stencil = Image.new("L", (width, height))
    ImageDraw.Draw(stencil).text((2 - left, 2 - top), word, fill=255, font=_font())
    alpha = np.asarray(stencil, dtype=np.float32)[..., None] / 255
    alpha = alpha * (owner[y : y + height, x : x + width, None] < 0)
    ink = np.float32(rng.choice([15.0, 245.0]))
    window = canvas[y : y + height, x : x + width]
    window += alpha * (ink - window)
    return word


def _regular(corners: int, start: float, radii: Sequence[float] = (1.0,)) -> list[Point]:
    """Corners of a regular polygon whose radii cycle through `radii`."""
    angles = [start + 2 * math.pi * k / corners for k in range(corners)]
    return [
        (radii[k % len(radii)] * math.cos(a), radii[k % len(radii)] * math.sin(a))
        for k, a in enumerate(angles)
    ]


def _cross(arm: float = 0.38) -> list[Point]:
    quarter = [(arm, 1.0), (arm, arm), (1.0, arm)]
    turns = [(1, 0), (0, -1), (-1, 0), (0, 1)]  # cosine and sine
    return [(x * cos - y * sin, x * sin + y * cos) for cos, sin in turns for x, y in quarter]


_OUTLINES: dict[str, list[list[Point]]] = {
    "circle": [_regular(48, 0.0)],
    "square": [_regular(4, math.pi / 4, (1.15,))],
    "triangle": [_regular(3, -math.pi / 2, (1.15,))],
    "star": [_regular(10, -math.pi / 2, (1.15, 0.575))],
    "cross": [_cross()],
    "ring": [_regular(48, 0.0), _regular(48, 0.0, (0.5,))],
}


def _outlines(shape: str, centre: Point, radius: float, angle: float) -> list[list[Point]]:
    """Polygons of a shape in pixels: the outline first, then a hole if it has one."""
    cos, sin = radius * math.cos(angle), radius * math.sin(angle)
    return [
        [(centre[0] + x * cos - y * sin, centre[1] + x * sin + y * cos) for x, y in polygon]
        for polygon in _OUTLINES[shape]
    ]


def _shade(
    texture: str, x: NDArray[np.float32], y: NDArray[np.float32], radius: float, angle: float
) -> NDArray[np.float32]:
    """Brightness factor in [0.45, 1] of a texture at pixel offsets (x, y) from the centre."""
    if texture == "plain":
        return np.ones(np.broadcast_shapes(x.shape, y.shape), dtype=np.float32)
    u = x * np.float32(math.cos(angle)) + y * np.float32(math.sin(angle))
    v = y * np.float32(math.cos(angle)) - x * np.float32(math.sin(angle))
    pitch = max(0.42 * radius, 5.0)
    wave = np.sin(np.float32(2 * math.pi / pitch) * u)
    if texture == "striped":
        dark = wave > 0
    else:
        dark = wave * np.sin(np.float32(2 * math.pi / pitch) * v) > 0.3
    return np.where(dark, np.float32(0.45), np.float32(1.0))
