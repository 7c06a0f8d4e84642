"""Masks as files: a PNG picture of each, and all of them as COCO's run-length codes in JSON."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from radio_core.extras import require
from radio_sam.cli.prompt_options import ObjectPrompt

JSON_FILE = "masks.json"

_PNG_NAME = re.compile(r"mask_\d{3,}(_\d)?\.png")

Mask = NDArray[np.bool_]
Rle = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class FoundMask:
    """One mask of an image.

    Attributes:
        number: of the object, from 0.
        proposal: 0 for the object's best mask by predicted IoU, then 1 and 2.
        rle: COCO's run-length code: "size" [height, width] and "counts" as text.
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


def write_masks(masks: Sequence[FoundMask], folder: Path, *, multimask: bool) -> list[Path]:
    """Write mask_000.png ... (0 or 255, at the image's size) and masks.json into a folder.

    The pictures that an earlier masks.json there lists are removed first. With `multimask` the
    names are mask_<object>_<proposal>.png.

    Returns:
        The picture of each mask.
    """
    _remove_earlier(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths, records = [], []
    for found in masks:
        name = f"mask_{found.number:03d}" + (f"_{found.proposal}" if multimask else "")
        paths.append(folder / f"{name}.png")
        Image.fromarray(found.mask.astype(np.uint8) * 255).save(paths[-1])
        records.append(
            {
                "file": paths[-1].name,
                "object": found.number,
                "segmentation": found.rle,
                "bbox": list(found.bbox),
                "area": found.area,
                "predicted_iou": found.predicted_iou,
                **found.scores,
                "prompt": found.prompt.to_json(),
            }
        )
    text = json.dumps(records, indent=1) + "\n"
    (folder / JSON_FILE).write_text(text, encoding="utf-8")
    return paths


def _remove_earlier(folder: Path) -> None:
    """Remove the pictures of an earlier run, so that none of them seem to belong to this one."""
    try:
        records = json.loads((folder / JSON_FILE).read_text(encoding="utf-8"))
        names = [str(record["file"]) for record in records]
    except (OSError, ValueError, TypeError, KeyError):
        return  # nothing there, or not ours
    for name in filter(_PNG_NAME.fullmatch, names):
        (folder / name).unlink(missing_ok=True)


def _coco_masks() -> Any:
    return require("pycocotools.mask", extra="eval")
