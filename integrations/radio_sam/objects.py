"""Objects of an image: what points at them, and their masks, those asked for or all there are."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from radio_core.extras import require
from radio_core.progress import Progress, silent
from radio_sam.prompts import EncodedImage, Prompts, predict_best_masks, predict_masks

if TYPE_CHECKING:
    from segment_anything.modeling import Sam

Box = tuple[float, float, float, float]
Point = tuple[float, float]
Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Rle = dict[str, Any]
"""COCO's run-length code of a mask: "size" [height, width] and "counts" as text."""

EVERYTHING = {"points_per_side": 32, "pred_iou_thresh": 0.88, "stability_score_thresh": 0.95}
"""How `find_everything` searches, as segment_anything's generator does by default."""
TOY_EVERYTHING = {"points_per_side": 12, "pred_iou_thresh": 0.6, "stability_score_thresh": 0.75}
"""The same for toy-sam, which is less sure of itself."""
_MASK_VALUES = 2**27
"""Most logits at the image's size at any time: half a gigabyte of float32."""


@dataclass(frozen=True, kw_only=True)
class ObjectPrompt:
    """What points at one object, in pixels of the image: a box, points, or both.

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
        content: dict[str, Any] = {} if self.box is None else {"box": list(self.box)}
        if self.points:
            content |= {"points": [list(p) for p in self.points], "labels": list(self.labels)}
        return content


@dataclass(frozen=True, kw_only=True)
class FoundMask:
    """One mask of an image.

    Attributes:
        number: of the object, from 0.
        proposal: 0 for the object's best mask by predicted IoU, then 1 and 2.
        rle: its pixels.
        predicted_iou: how well the model believes the mask fits.
        prompt: what the mask answers.
        scores: what else is known of it.
    """

    number: int
    proposal: int = 0
    rle: Rle
    predicted_iou: float
    prompt: ObjectPrompt
    scores: dict[str, float] = field(default_factory=dict)

    @property
    def mask(self) -> Mask:
        """The pixels [H, W]."""
        pixels: Mask = _coco_masks().decode(self.rle).astype(np.bool_)
        return pixels

    @property
    def area(self) -> int:
        """Number of pixels."""
        return int(_coco_masks().area(self.rle))

    @property
    def bbox(self) -> tuple[float, float, float, float]:
        """x, y, width, height of the pixels; zeros for an empty mask."""
        x, y, width, height = _coco_masks().toBbox(self.rle).tolist()
        return x, y, width, height


def encode_mask(mask: Mask) -> Rle:
    """COCO's run-length code of a mask [H, W], its counts as text."""
    rle: Rle = _coco_masks().encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")}


def _coco_masks() -> Any:
    return require("pycocotools.mask", extra="eval")


def _numbers(text: str) -> list[float]:
    """The finite numbers between the commas; none if anything else is there."""
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        return []
    return numbers if all(map(math.isfinite, numbers)) else []


def read_prompts(boxes: Sequence[str], points: Sequence[str]) -> list[ObjectPrompt]:
    """The objects that boxes "x0,y0,x1,y1" and points "x,y" or "x,y,LABEL" ask for.

    Every box is an object. The points together belong to the box if there is exactly one, and
    are one more object, the last, if there is none or several.

    Raises:
        ValueError: no prompt, one that is no such text, a box without area, or an object of
            background points alone.
    """
    if not boxes and not points:
        raise ValueError("name an object: --box x0,y0,x1,y1 or --point x,y (or both)")
    objects = []
    for text in boxes:
        numbers = _numbers(text)
        if len(numbers) != 4:
            raise ValueError(f"--box {text!r} must be four numbers x0,y0,x1,y1, in pixels")
        x0, y0, x1, y1 = numbers
        if x1 <= x0 or y1 <= y0:
            raise ValueError(
                f"--box {text!r} has no area: its corners are x0,y0 (top left) and x1,y1 (bottom "
                "right), so x1 must be above x0, and y1 above y0"
            )
        objects.append(ObjectPrompt(box=(x0, y0, x1, y1)))
    if not points:
        return objects
    places, labels = [], []
    for text in points:
        numbers = _numbers(text)
        if len(numbers) == 2:
            numbers.append(1)
        if len(numbers) != 3 or numbers[2] not in (0, 1):
            raise ValueError(
                f"--point {text!r} must be x,y in pixels, or x,y,1 (on the object) or x,y,0 (on "
                "the background)"
            )
        places.append((numbers[0], numbers[1]))
        labels.append(int(numbers[2]))
    if len(objects) == 1:
        return [replace(objects[0], points=tuple(places), labels=tuple(labels))]
    if 1 not in labels:
        raise ValueError(
            "background points alone point at no object: add a --point x,y on it, or exactly one "
            "--box that the points refine"
        )
    return [*objects, ObjectPrompt(points=tuple(places), labels=tuple(labels))]


def place_prompts(
    objects: Sequence[ObjectPrompt], width: int, height: int, warn: Callable[[str], Any]
) -> list[ObjectPrompt]:
    """The prompts within an image: boxes that stick out are clipped, and `warn` is told.

    Raises:
        ValueError: a box or a point that lies outside of the image.
    """
    size = f"the image has {width} x {height} pixels (width x height)"

    def text(numbers: Sequence[float]) -> str:
        return ",".join(f"{number:g}" for number in numbers)

    placed = []
    for item in objects:
        for x, y in item.points:
            if not (0 <= x < width and 0 <= y < height):
                raise ValueError(f"--point {text((x, y))} is outside of the image; {size}")
        box = item.box
        if item.box is not None:
            x0, y0, x1, y1 = item.box
            box = (max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height)))
            if box[0] >= box[2] or box[1] >= box[3]:
                raise ValueError(f"--box {text(item.box)} is outside of the image; {size}")
            if box != item.box:
                warn(f"--box {text(item.box)} is clipped to {text(box)}; {size}")
        placed.append(replace(item, box=box))
    return placed


def check_shape(sam: "Sam", image: Pixels, name: str = "the image") -> None:
    """Refuse an image [H, W, 3] of which no pixel would be left at the model's size.

    Raises:
        ValueError: it is too narrow.
    """
    (height, width), side = image.shape[:2], int(sam.image_encoder.img_size)
    if min(height, width) * side < max(height, width):
        raise ValueError(
            f"{name}: {width} x {height} pixels are too narrow for this model; the longer side "
            f"may be at most {side} times the shorter one"
        )


def find_objects(
    sam: "Sam", encoded: EncodedImage, objects: Sequence[ObjectPrompt], *, multimask: bool = False
) -> list[FoundMask]:
    """The masks of objects within an image that `sam` encoded: of each the best one by predicted
    IoU, or with `multimask` all three, best first."""
    at_once = _prompts_at_once(encoded.original_size, 3 if multimask else 1)
    found = []
    for with_points in (False, True):  # those decoded together have the same parts
        group = [(n, item) for n, item in enumerate(objects) if bool(item.points) == with_points]
        if not group:
            continue
        boxes = [item.box for _, item in group if item.box is not None]
        prompts = Prompts(
            boxes=torch.tensor(boxes) if boxes else None,
            points=torch.tensor([item.points for _, item in group]) if with_points else None,
            labels=torch.tensor([item.labels for _, item in group]) if with_points else None,
        )
        if multimask:
            masks, ious, _ = predict_masks(sam, encoded, prompts, prompts_per_batch=at_once)
        else:
            best, scores = predict_best_masks(sam, encoded, prompts, prompts_per_batch=at_once)
            masks, ious = best[:, None], scores[:, None]
        for row, (number, item) in enumerate(group):
            for rank, column in enumerate(ious[row].argsort(descending=True, stable=True).tolist()):
                found.append(
                    FoundMask(
                        number=number,
                        proposal=rank,
                        rle=encode_mask(masks[row, column].numpy()),
                        predicted_iou=float(ious[row, column]),
                        prompt=item,
                    )
                )
    return found


def find_everything(
    sam: "Sam",
    image: Pixels,
    options: Mapping[str, Any] = EVERYTHING,
    progress: Progress = silent,
) -> list[FoundMask]:
    """The masks of all objects that a grid of points finds, the largest first.

    Args:
        sam: the model, its encoder swapped or not.
        image: uint8 [H, W, 3], RGB.
        options: of segment_anything's `SamAutomaticMaskGenerator`.
        progress: told how many of the points are done.
    """
    generator = require("segment_anything", extra="sam").SamAutomaticMaskGenerator(
        sam,
        output_mode="coco_rle",
        **{"points_per_batch": _prompts_at_once((image.shape[0], image.shape[1]), 3), **options},
    )
    total = sum(4**layer * len(grid) for layer, grid in enumerate(generator.point_grids))
    done = 0

    def count(_module: Any, _inputs: Any, outputs: Any) -> None:
        nonlocal done
        done += len(outputs[0])  # the decoder runs once for each batch of points, a row a point
        progress("points", done, total)

    hook = sam.mask_decoder.register_forward_hook(count)
    try:
        records: list[dict[str, Any]] = generator.generate(image)
    finally:
        hook.remove()
    records.sort(key=lambda record: (-record["area"], record["bbox"]))
    found = []
    for number, record in enumerate(records):
        points = tuple((float(x), float(y)) for x, y in record["point_coords"])
        found.append(
            FoundMask(
                number=number,
                rle=record["segmentation"],
                predicted_iou=float(record["predicted_iou"]),
                prompt=ObjectPrompt(points=points, labels=(1,) * len(points)),
                scores={"stability_score": float(record["stability_score"])},
            )
        )
    return found


def _prompts_at_once(size: tuple[int, int], masks_each: int) -> int:
    """Prompts whose masks at an image's (height, width) go well into memory together."""
    return max(1, min(64, _MASK_VALUES // (masks_each * size[0] * size[1])))
