"""COCO's files, checked item by item: what is broken is left out and counted, and said why."""

import json
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from radio_core.data.folder import FolderError
from radio_core.data.images import MAX_PIXELS, UnreadableImage, load_rgb, printable
from radio_core.extras import require
from radio_core.models.fingerprint import files_fingerprint
from radio_eval.data.coco_masks import BrokenMask, Rle, decode_mask, is_number, read_mask
from radio_eval.results import Skipped

Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 in pixels, not rounded."""
Decoded = NDArray[np.uint8] | UnreadableImage
"""uint8 [H, W, 3], RGB, or why there is none."""


@dataclass(frozen=True, kw_only=True)
class ImageRecord:
    """One image of the file: its name in the image folder, and its size in pixels."""

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
        box: it may lack extent or leave the image. That of the mask where the file has none.
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
    def mask(self) -> NDArray[np.bool_]:
        """Its mask [H, W] at the image's own size."""
        return decode_mask(self.rle)


@dataclass(frozen=True, kw_only=True)
class Detection:
    """One box of a detector, of a class, with any finite number as its score."""

    image_id: int
    category_id: int
    score: float
    box: Box


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
        self.path, content = path, _read_json(path)
        parts = content if isinstance(content, Mapping) else {}
        images, annotations = parts.get("images"), parts.get("annotations")
        if not isinstance(images, list) or not isinstance(annotations, list):
            raise FolderError(
                f"{printable(path)} is not a COCO annotation file: "
                "it must be an object with the lists 'images' and 'annotations'"
            )
        categories = parts.get("categories")
        self.fingerprint = files_fingerprint(path)
        self.categories = [
            category
            for category in (categories if isinstance(categories, list) else [])
            if isinstance(category, Mapping) and isinstance(category.get("id"), int)
        ]
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

    def _instance(self, annotation: Any, seen: Collection[int]) -> Instance:
        annotation_id = _integer(annotation, "id")
        if annotation_id in seen:
            raise ValueError("id of another annotation")
        image_id = _integer(annotation, "image_id")
        if image_id not in self.records:
            raise ValueError(f"unknown image: {image_id}")
        record, category = self.records[image_id], annotation.get("category_id")
        area = annotation.get("area")
        if not is_number(area) or area < 0:
            raise ValueError("no area")
        rle = read_mask(annotation.get("segmentation"), record.height, record.width)
        box = annotation.get("bbox")
        if "bbox" not in annotation:  # as in files for scores of masks, which need none
            box = require("pycocotools.mask", extra="eval").toBbox(rle).tolist()
        return Instance(
            annotation_id=annotation_id,
            image_id=image_id,
            category_id=category if isinstance(category, int) else None,
            box=_read_box(box),
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

    def to_json(self) -> dict[str, list[Any]]:
        """What can be used of the file, in COCO's format, masks as compressed run lengths."""
        return {
            "images": [
                {"id": i, "file_name": r.file_name, "height": r.height, "width": r.width}
                for i, r in self.records.items()
            ],
            "annotations": [
                {
                    "id": i.annotation_id,
                    "image_id": i.image_id,
                    "category_id": i.category_id,
                    "segmentation": i.rle,
                    "area": i.area,
                    "bbox": [i.box[0], i.box[1], i.box[2] - i.box[0], i.box[3] - i.box[1]],
                    "iscrowd": int(i.is_crowd),
                }
                for i in self.by_id().values()
            ],
            "categories": self.categories,
        }


class CocoInstances(CocoAnnotations):
    """Images of one COCO split with their annotations.

    Args:
        root: folder with annotations/instances_<split>.json and the images in <split>/.
        split: e.g. "val2017".
        limit: only the first images with annotations, by id; None for all.

    Attributes:
        split: as given.
        limit: as given.
        image_ids: the images that have annotations, ascending, `limit` of them.

    Raises:
        FolderError: a missing or invalid annotation file, or no usable annotations in it.
        ValueError: a limit below 1.
    """

    def __init__(self, root: Path, split: str = "val2017", limit: int | None = None) -> None:
        if limit is not None and limit < 1:
            raise ValueError(f"limit must be at least 1, not {limit}")
        super().__init__(root / "annotations" / f"instances_{split}.json")
        self.split, self.limit = split, limit
        self._folder = root / split
        self.image_ids = self.first_images()
        if not self.image_ids:
            raise FolderError(
                f"no annotations of known images in instances_{split}.json of {root}"
                + (f" ({len(self.skipped)} are broken)" if self.skipped else "")
            )

    def first_images(self, also: Collection[int] = ()) -> list[int]:
        """The images that have annotations or are in `also`, ascending, `limit` of them."""
        return sorted({*self.instances_of, *also})[: self.limit]

    def image(self, image_id: int) -> NDArray[np.uint8]:
        """The image as uint8 [H, W, 3], RGB.

        Raises:
            UnreadableImage: no readable image, or one of another size than the annotations say.
        """
        record = self.records[image_id]
        path = self._folder / record.file_name
        # COCO counts the pixels as they are stored, and so do the reference evaluators.
        pixels = np.array(load_rgb(path, upright=False), dtype=np.uint8)  # [H, W, 3]
        expected = (record.height, record.width)
        if pixels.shape[:2] != expected:
            raise UnreadableImage(
                path, f"broken: {pixels.shape[:2]} pixels, but the annotations say {expected}"
            )
        return pixels

    def decoded(
        self, batches: Sequence[Sequence[int]], *, ahead: int = 2, threads: int = 4
    ) -> Iterator[dict[int, Decoded]]:
        """The images of each batch by id, in order; `ahead` batches are decoded before that."""

        def decode(image_id: int) -> Decoded:
            try:
                return self.image(image_id)
            except UnreadableImage as error:
                return error

        with ThreadPoolExecutor(threads) as pool:

            def begin(batch: Sequence[int]) -> dict[int, Future[Decoded]]:
                return {image_id: pool.submit(decode, image_id) for image_id in batch}

            remaining = iter(batches)
            begun = deque(begin(batch) for batch in islice(remaining, ahead))
            try:
                while begun:
                    begun.extend(begin(batch) for batch in islice(remaining, 1))
                    yield {image_id: image.result() for image_id, image in begun.popleft().items()}
            finally:
                pool.shutdown(cancel_futures=True)


def read_detections(path: Path, annotations: CocoAnnotations) -> tuple[list[Detection], Skipped]:
    """A detector's boxes: a JSON list of {image_id, category_id, bbox, score}, bbox xywh.

    Returns:
        The usable ones in the file's order, and an account of the others: of unknown images or
        classes, or without four finite numbers and a score.

    Raises:
        FolderError: the file is missing, has another format, or holds nothing usable.
    """
    usable: list[Detection] = []
    skipped = Skipped()
    for place, item in enumerate(_read_list(path)):
        try:
            usable.append(Detection(**_labels(item, annotations), box=_read_box(item.get("bbox"))))
        except ValueError as error:
            skipped.add(place, str(error))
    if not usable:
        reasons = ", ".join(f"{n} {why}" for why, n in skipped.to_json()["reasons"].items())
        raise FolderError(
            f"{printable(path)} has no detections that fit {printable(annotations.path)}"
            f" ({reasons or 'it is empty'}); is it of another split?"
        )
    return usable, skipped


def read_results(path: Path, annotations: CocoAnnotations) -> list[dict[str, Any]]:
    """COCO results with masks: a JSON list of {image_id, category_id, segmentation, score}.

    Raises:
        FolderError: the file is missing or has another format; or anything in it is of an unknown
            image or class, has no score, or no mask of the image's size.
    """
    results = []
    for place, item in enumerate(_read_list(path)):
        try:
            result = _labels(item, annotations)
            record = annotations.records[result["image_id"]]
            result["segmentation"] = read_mask(
                item.get("segmentation"), record.height, record.width
            )
        except ValueError as error:
            raise FolderError(f"{printable(path)}: prediction {place}: {error}") from error
        results.append(result)
    return results


def read_predictions(path: Path, annotations: CocoAnnotations) -> dict[int, Rle]:
    """One mask an annotation: a JSON list of {"annotation_id", "segmentation"}.

    Predictions for annotations that are themselves broken are left out.

    Returns:
        Annotation id -> mask.

    Raises:
        FolderError: the file is missing or has another format; an unknown or repeated annotation;
            or a mask that is none or has another size than the image. One line says which.
    """
    instances = annotations.by_id()
    masks: dict[int, Rle] = {}
    for place, item in enumerate(_read_list(path)):
        where = f"{printable(path)}: prediction {place}"
        annotation_id = item.get("annotation_id") if isinstance(item, Mapping) else None
        if not isinstance(annotation_id, int):
            raise FolderError(f"{where} is no object with annotation_id and segmentation")
        if str(annotation_id) in annotations.skipped.reasons and annotation_id not in instances:
            continue
        if annotation_id not in instances:
            raise FolderError(f"{where}: no annotation {annotation_id} in {annotations.path}")
        if annotation_id in masks:
            raise FolderError(f"{where}: a second mask for annotation {annotation_id}")
        record = annotations.records[instances[annotation_id].image_id]
        try:
            masks[annotation_id] = read_mask(item.get("segmentation"), record.height, record.width)
        except BrokenMask as error:
            raise FolderError(f"{where} (annotation {annotation_id}): {error}") from error
    return masks


def _read_json(path: Path) -> Any:
    if not path.is_file():
        raise FolderError(f"{printable(path)} is missing")
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise FolderError(f"{printable(path)} is not valid JSON: {error}") from error


def _read_list(path: Path) -> list[Any]:
    content = _read_json(path)
    if not isinstance(content, list):
        raise FolderError(f"{printable(path)} must hold a list, as COCO's results do")
    return content


def _read_box(bbox: object) -> Box:
    """COCO's x, y, width, height as a `Box`."""
    if not isinstance(bbox, Sequence) or len(bbox) != 4 or not all(map(is_number, bbox)):
        raise ValueError("no box of four finite numbers")
    x, y, width, height = (float(value) for value in bbox)
    if width < 0 or height < 0:
        raise ValueError("box of negative extent")
    return x, y, x + width, y + height


def _labels(item: object, annotations: CocoAnnotations) -> dict[str, Any]:
    """Image, class and score of a result."""
    if not isinstance(item, Mapping):
        raise ValueError("no object with image_id, category_id and score")
    image_id, category_id, score = (item.get(n) for n in ("image_id", "category_id", "score"))
    if not isinstance(image_id, int) or image_id not in annotations.records:
        raise ValueError(f"unknown image: {image_id}")
    if not isinstance(category_id, int) or category_id not in annotations.category_ids:
        raise ValueError(f"unknown category: {category_id}")
    if not is_number(score):
        raise ValueError("no finite score")
    return {"image_id": image_id, "category_id": category_id, "score": float(score)}


def _integer(value: object, name: str) -> int:
    number = value.get(name) if isinstance(value, Mapping) else None
    if not isinstance(number, int) or isinstance(number, bool):
        raise ValueError(f"no {name}")
    return number


def _record(image: Any) -> ImageRecord:
    name = image.get("file_name")
    height, width = _integer(image, "height"), _integer(image, "width")
    if not isinstance(name, str) or not name:
        raise ValueError("no file_name")
    if height < 1 or width < 1 or height * width > MAX_PIXELS:
        raise ValueError(f"size of {height} x {width} pixels")
    return ImageRecord(file_name=name, height=height, width=width)


def _name(item: object, place: int) -> str:
    """The id of a skipped thing, or where it stands."""
    identity = item.get("id") if isinstance(item, Mapping) else None
    return str(identity) if isinstance(identity, int) else f"at {place}"
