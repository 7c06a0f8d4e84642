"""Boxes and points as they are written on a command line."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from radio_core.cli import UsageError

Box = tuple[float, float, float, float]
Point = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class ObjectPrompt:
    """What points at one object, in pixels of the image.

    Attributes:
        box: x0, y0, x1, y1, or None.
        points: x, y of each point.
        labels: of each point: 1 on the object, 0 on the background.
    """

    box: Box | None = None
    points: tuple[Point, ...] = ()
    labels: tuple[int, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The parts that there are, as JSON takes them."""
        content: dict[str, Any] = {}
        if self.box is not None:
            content["box"] = list(self.box)
        if self.points:
            content["points"] = [list(point) for point in self.points]
            content["labels"] = list(self.labels)
        return content


def read_prompts(boxes: Sequence[str], points: Sequence[str]) -> list[ObjectPrompt]:
    """The objects that boxes "x0,y0,x1,y1" and points "x,y" or "x,y,LABEL" ask for.

    Every box is an object. The points together belong to the box if there is exactly one, and
    are one more object, the last, if there is none or several.

    Raises:
        UsageError: no prompt, one that is no such text, a box without area, or an object of
            background points alone.
    """
    if not boxes and not points:
        raise UsageError("name an object: --box x0,y0,x1,y1 or --point x,y (or both)")
    objects = [ObjectPrompt(box=_read_box(text)) for text in boxes]
    if not points:
        return objects
    read = [_read_point(text) for text in points]
    places, labels = tuple(place for place, _ in read), tuple(label for _, label in read)
    if len(objects) == 1:
        return [replace(objects[0], points=places, labels=labels)]
    if 1 not in labels:
        raise UsageError(
            "background points alone point at no object: add a --point x,y on it, or exactly one "
            "--box that the points refine"
        )
    return [*objects, ObjectPrompt(points=places, labels=labels)]


def place_prompts(
    objects: Sequence[ObjectPrompt], width: int, height: int, warn: Callable[[str], None]
) -> list[ObjectPrompt]:
    """The prompts within an image: boxes that stick out are clipped, and `warn` is told.

    Raises:
        UsageError: a box or a point that lies outside of the image.
    """
    size = f"the image has {width} x {height} pixels (width x height)"
    placed = []
    for item in objects:
        for x, y in item.points:
            if not (0 <= x < width and 0 <= y < height):
                raise UsageError(f"--point {_text((x, y))} is outside of the image; {size}")
        box = item.box
        if box is not None:
            x0, y0, x1, y1 = box
            box = (max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height)))
            if box[0] >= box[2] or box[1] >= box[3]:
                raise UsageError(f"--box {_text((x0, y0, x1, y1))} is outside of the image; {size}")
            if box != item.box:
                warn(f"--box {_text((x0, y0, x1, y1))} is clipped to {_text(box)}; {size}")
        placed.append(replace(item, box=box))
    return placed


def _read_box(text: str) -> Box:
    numbers = _numbers(text)
    if len(numbers) != 4:
        raise UsageError(f"--box {text!r} must be four numbers x0,y0,x1,y1, in pixels")
    x0, y0, x1, y1 = numbers
    if x1 <= x0 or y1 <= y0:
        raise UsageError(
            f"--box {text!r} has no area: its corners are x0,y0 (top left) and x1,y1 (bottom "
            "right), so x1 must be above x0, and y1 above y0"
        )
    return x0, y0, x1, y1


def _read_point(text: str) -> tuple[Point, int]:
    numbers = _numbers(text)
    if len(numbers) not in (2, 3) or (len(numbers) == 3 and numbers[2] not in (0, 1)):
        raise UsageError(
            f"--point {text!r} must be x,y in pixels, or x,y,1 (on the object) or x,y,0 (on the "
            "background)"
        )
    return (numbers[0], numbers[1]), int(numbers[2]) if len(numbers) == 3 else 1


def _numbers(text: str) -> list[float]:
    """The finite numbers between the commas; none if anything else is there."""
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        return []
    return numbers if all(map(math.isfinite, numbers)) else []


def _text(numbers: Sequence[float]) -> str:
    return ",".join(f"{number:g}" for number in numbers)
