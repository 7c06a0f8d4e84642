"""COCO's instance annotations, checked one by one: what is broken is left out and counted."""

import contextlib
import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from radio_core.data.folder import FolderError
from radio_core.data.images import MAX_PIXELS, printable
from radio_core.extras import require
from radio_core.models.fingerprint import files_fingerprint
from radio_eval.coco.masks import Rle, decode_mask, is_number, read_segmentation
from radio_eval.sam.scores import Mask

Box = tuple[float, float, float, float]


class Skipped:
    """The account of what could not be used: each thing once, by its id or place in the file."""

    def __init__(self) -> None:
        self.reasons: dict[str, str] = {}

    def add(self, name: object, reason: str) -> None:
        """Record one; recording it again changes nothing."""
        self.reasons.setdefault(str(name), reason)

    def __len__(self) -> int:
        return len(self.reasons)

    def to_json(self) -> dict[str, Any]:
        """How many, how many of each kind of reason (what stands before a colon), and each one."""
        kinds = Counter(reason.partition(":")[0] for reason in self.reasons.values())
        return {"count": len(self), "reasons": dict(kinds), "each": self.reasons}


@dataclass(frozen=True, kw_only=True)
class ImageRecord:
    """One image of the file.

    Attributes:
        file_name: its name in the image folder.
        height: in pixels.
        width: in pixels.
    """

    file_name: str
    height: int
    width: int


@dataclass(frozen=True, kw_only=True)
class Instance:
    """One annotation.

    Attributes:
        annotation_id: COCO's id.
        image_id: of its image.
        category_id: of its class; None where the file names none.
        box: x0, y0, x1, y1 in pixels, not rounded; it may lack extent or leave the image. That of
            the mask where the file has none.
        area: COCO's `area` field, square pixels.
        is_crowd: it marks a group of objects.
        rle: its mask, at the image's own size.
    """

    annotation_id: int
    image_id: int
    category_id: int | None
    box: Box
    area: float
    is_crowd: bool
    rle: Rle

    @property
    def mask(self) -> Mask:
        """Its mask [H, W] at the image's own size."""
        return decode_mask(self.rle)


class CocoAnnotations:
    """An annotation file in COCO's "instances" format.

    Args:
        path: the file.

    Attributes:
        path: the file.
        fingerprint: SHA-256 of the file.
        records: the usable images by id.
        instances_of: the usable annotations of each image that has any, crowds included, in the
            file's order.
        categories: the file's classes, those with an id.
        category_ids: their ids.
        skipped_records: images that were left out: those without id, file name or size.
        skipped: annotations that were left out: of an unknown image, with a broken box, without an
            area or a mask, or with an id that another one has.

    Raises:
        FolderError: the file is missing or has another format.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        images, annotations, categories = _parts(path)
        self.fingerprint = files_fingerprint(path)
        classes = (c for c in categories if isinstance(c, Mapping))
        self.categories = [c for c in classes if isinstance(c.get("id"), int)]
        self.category_ids = frozenset(int(category["id"]) for category in self.categories)
        self.skipped_records, self.skipped = Skipped(), Skipped()
        self.records: dict[int, ImageRecord] = {}
        self.instances_of: dict[int, list[Instance]] = {}
        for place, image in enumerate(images):
            try:
                image_id = _integer(image, "id")
                self.records[image_id] = _record(image)
            except ValueError as error:
                self.skipped_records.add(_name(image, place), str(error))
        seen: set[int] = set()
        for place, annotation in enumerate(annotations):
            try:
                instance = self._instance(annotation, seen)
            except ValueError as error:
                self.skipped.add(_name(annotation, place), str(error))
            else:
                seen.add(instance.annotation_id)
                self.instances_of.setdefault(instance.image_id, []).append(instance)

    def _instance(self, annotation: object, seen: set[int]) -> Instance:
        annotation_id = _integer(annotation, "id")
        if annotation_id in seen:
            raise ValueError("id of another annotation")
        image_id = _integer(annotation, "image_id")
        if image_id not in self.records:
            raise ValueError(f"unknown image: {image_id}")
        assert isinstance(annotation, Mapping)
        record, category = self.records[image_id], annotation.get("category_id")
        area = annotation.get("area")
        if not is_number(area) or area < 0:
            raise ValueError("no area")
        rle = read_segmentation(annotation.get("segmentation"), record.height, record.width)
        box = annotation.get("bbox")
        if "bbox" not in annotation:  # as in files for scores of masks, which need none
            box = require("pycocotools.mask", extra="eval").toBbox(rle).tolist()
        return Instance(
            annotation_id=annotation_id,
            image_id=image_id,
            category_id=category if isinstance(category, int) else None,
            box=read_box(box),
            area=float(area),
            is_crowd=bool(annotation.get("iscrowd")),
            rle=rle,
        )

    def instances(self, image_id: int) -> list[Instance]:
        """The annotations of an image, crowds included, in the file's order."""
        return self.instances_of.get(image_id, [])

    def by_id(self) -> dict[int, Instance]:
        """Every annotation by its id, in the order of images and annotations in the file."""
        groups = self.instances_of.values()
        return {instance.annotation_id: instance for group in groups for instance in group}


def read_box(bbox: object) -> Box:
    """COCO's x, y, width, height -> x0, y0, x1, y1, not rounded.

    Raises:
        ValueError: no four finite numbers, or a negative extent.
    """
    if not isinstance(bbox, Sequence) or len(bbox) != 4 or not all(map(is_number, bbox)):
        raise ValueError("no box of four finite numbers")
    x, y, width, height = (float(value) for value in bbox)
    if width < 0 or height < 0:
        raise ValueError("box of negative extent")
    return x, y, x + width, y + height


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        FolderError: it is missing, or no JSON.
    """
    if not path.is_file():
        raise FolderError(f"{printable(path)} is missing")
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise FolderError(f"{printable(path)} is not valid JSON: {error}") from error


def pycocotools_coco(
    images: Mapping[int, ImageRecord],
    annotations: Sequence[Mapping[str, Any]],
    categories: Sequence[Any],
) -> Any:
    """`pycocotools.coco.COCO` of given parts, silent."""
    coco = require("pycocotools.coco", extra="eval").COCO()
    coco.dataset = {
        "info": {},
        "images": [
            {"id": i, "file_name": r.file_name, "height": r.height, "width": r.width}
            for i, r in images.items()
        ],
        "annotations": [dict(annotation) for annotation in annotations],
        "categories": list(categories),
    }
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


def _parts(path: Path) -> tuple[list[Any], list[Any], list[Any]]:
    """Images, annotations and categories of an annotation file."""
    data = read_json(path)
    content = data if isinstance(data, Mapping) else {}
    images, annotations = content.get("images"), content.get("annotations")
    if not isinstance(images, list) or not isinstance(annotations, list):
        raise FolderError(
            f"{printable(path)} is not a COCO annotation file: "
            "it must be an object with the lists 'images' and 'annotations'"
        )
    categories = content.get("categories")
    return images, annotations, categories if isinstance(categories, list) else []


def _integer(value: object, name: str) -> int:
    number = value.get(name) if isinstance(value, Mapping) else None
    if not isinstance(number, int) or isinstance(number, bool):
        raise ValueError(f"no {name}")
    return number


def _record(image: Any) -> ImageRecord:
    name, height, width = (
        image.get("file_name"),
        _integer(image, "height"),
        _integer(image, "width"),
    )
    if not isinstance(name, str) or not name:
        raise ValueError("no file_name")
    if height < 1 or width < 1 or height * width > MAX_PIXELS:
        raise ValueError(f"size of {height} x {width} pixels")
    return ImageRecord(file_name=name, height=height, width=width)


def _name(item: object, place: int) -> str:
    """The id of a skipped thing, or where it stands."""
    identity = item.get("id") if isinstance(item, Mapping) else None
    return str(identity) if isinstance(identity, int) else f"at {place}"
