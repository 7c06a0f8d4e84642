"""COCO instance annotations: boxes and masks of every image, crowds included."""

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from radio_core.data.folder import FolderError, SkippedFiles
from radio_core.data.images import UnreadableImage, load_rgb
from radio_core.extras import require
from radio_eval.sam_scores import Mask


@dataclass(frozen=True, kw_only=True)
class Instance:
    """One annotation.

    Attributes:
        annotation_id: COCO's id.
        box: x0, y0, x1, y1 in pixels, not rounded.
        area: COCO's `area` field, square pixels.
    """

    annotation_id: int
    box: tuple[float, float, float, float]
    area: float


class CocoInstances:
    """Images of one COCO split with their annotations.

    Args:
        root: folder with annotations/instances_<split>.json and the images in <split>/.
        split: e.g. "val2017".
        limit: only the first images with annotations, by id; None for all.

    Attributes:
        image_ids: the images that have annotations, ascending.
        skipped: images that could not be read so far.

    Raises:
        FolderError: a missing or invalid annotation file, or no annotations in it.
    """

    def __init__(self, root: Path, split: str = "val2017", limit: int | None = None) -> None:
        self.split = split
        self.skipped = SkippedFiles()
        self._folder = root / split
        self._coco = _read_coco(root / "annotations" / f"instances_{split}.json")
        annotated = sorted({int(a["image_id"]) for a in self._coco.dataset["annotations"]})
        self.image_ids = [i for i in annotated if i in self._coco.imgs][:limit]
        if not self.image_ids:
            raise FolderError(f"no annotations of known images in instances_{split}.json of {root}")
        self._kept: dict[int, np.ndarray | None] = {}

    def image(self, image_id: int) -> np.ndarray | None:
        """The image as uint8 [H, W, 3], RGB, decoded once; None if it cannot be read."""
        if image_id not in self._kept:
            path = self._folder / self._coco.imgs[image_id]["file_name"]
            try:
                self._kept[image_id] = self._read(path, self._coco.imgs[image_id])
            except UnreadableImage as error:
                self.skipped.add(error.path, error.reason)
                self._kept[image_id] = None
        return self._kept[image_id]

    @staticmethod
    def _read(path: Path, record: dict[str, Any]) -> np.ndarray:
        pixels = np.array(load_rgb(path), dtype=np.uint8)  # [H, W, 3]
        expected = (record["height"], record["width"])
        if pixels.shape[:2] != expected:
            raise UnreadableImage(
                path, f"broken: {pixels.shape[:2]} pixels, but the annotations say {expected}"
            )
        return pixels

    def instances(self, image_id: int) -> list[Instance]:
        """Every annotation of the image, crowds included, in the file's order."""
        return [
            Instance(
                annotation_id=int(annotation["id"]),
                box=_corners(annotation["bbox"]),
                area=float(annotation["area"]),
            )
            for annotation in self._coco.imgToAnns[image_id]
        ]

    def mask(self, annotation_id: int) -> Mask:
        """The annotation's mask [H, W] at the image's own size."""
        mask: Mask = self._coco.annToMask(self._coco.anns[annotation_id]).astype(bool)
        return mask


def _corners(bbox: Sequence[float]) -> tuple[float, float, float, float]:
    """COCO's x, y, width, height -> x0, y0, x1, y1."""
    x, y, width, height = (float(value) for value in bbox)
    return x, y, x + width, y + height


def _read_coco(path: Path) -> Any:
    """pycocotools' COCO, without what it prints."""
    coco_module = require("pycocotools.coco", extra="eval")
    if not path.is_file():
        raise FolderError(f"annotation file {path} is missing")
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            return coco_module.COCO(str(path))
        except (ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
            raise FolderError(f"{path} is not a COCO annotation file: {error}") from error
