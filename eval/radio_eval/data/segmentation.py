"""Images with a label map each, in the layouts of ADE20K, VOC2012 and CamVid."""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from radio_core.data.folder import FolderError, ImageFiles
from radio_core.data.images import UnreadableImage, load_rgb, printable
from radio_eval.data.files import file_stamp

IGNORED = 255
"""Label of pixels that count nowhere."""
MAX_CLASSES = 254
"""Most classes: label maps are kept as bytes, and 255 counts nowhere."""
VOC_CLASSES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat"),
    *("chair", "cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant"),
    *("sheep", "sofa", "train", "tvmonitor"),
)
_VOC_LISTS = Path("ImageSets") / "Segmentation"
_GREY_STEP = {"L;2": 85, "L;4": 17}
"""Pillow spreads the values of grey PNGs of 2 and 4 bits over 0 to 255 by these factors."""


@dataclass(frozen=True, kw_only=True)
class SegmentationImages:
    """Images with a label map each, read when they are asked for.

    Attributes:
        images: N files.
        labels: a PNG of one channel for each.
        class_names: names of the classes 0, 1, ...
        layout: name of the layout that they were read from.
        reduce_zero_label: stored values are shifted: 0 -> 255 (ignored), k -> k - 1 (ADE20K).
        ignore_index: another stored value than 255 that counts nowhere.

    Raises:
        FolderError: no class, too many, or a label map that is missing.
    """

    images: tuple[Path, ...]
    labels: tuple[Path, ...]
    class_names: tuple[str, ...]
    layout: str
    reduce_zero_label: bool = False
    ignore_index: int = IGNORED

    def __post_init__(self) -> None:
        if not 1 <= len(self.class_names) <= MAX_CLASSES:
            raise FolderError(
                f"{len(self.class_names)} classes; label maps take 1 to {MAX_CLASSES}"
            )
        missing = [path for path in self.labels if not path.is_file()]
        if missing:
            raise FolderError(
                f"label map {printable(missing[0])} is missing ({len(missing)} of "
                f"{len(self.labels)} are)"
            )

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int) -> tuple[Image.Image, Tensor]:
        """The image as 8-bit RGB, and its label map [H, W] uint8 in [0, K) or 255.

        Raises:
            UnreadableImage: one of the two files cannot be read.
            FolderError: they differ in size, or a class lies outside the range.
        """
        # Not turned as the camera says: label maps count the pixels as they are stored.
        image, label = load_rgb(self.images[index], upright=False), self.label(index)
        if (image.height, image.width) != tuple(label.shape):
            raise FolderError(
                f"label map {printable(self.labels[index])} has {label.shape[1]} x "
                f"{label.shape[0]} pixels, but its image {printable(self.images[index])} "
                f"{image.width} x {image.height}: replace or remove the pair"
            )
        return image, label

    def label(self, index: int) -> Tensor:
        """The label map alone; see `read`."""
        path, classes, shift = self.labels[index], len(self.class_names), self.reduce_zero_label
        try:
            stored = read_label_map(path)  # [H, W] int64
        except FolderError as error:
            raise UnreadableImage(path, str(error)) from error
        ignored = (stored == IGNORED) | (stored == self.ignore_index)
        labels = stored
        if shift:
            ignored, labels = ignored | (stored == 0), stored - 1
        outside = stored[~ignored & ((labels < 0) | (labels >= classes))]
        if outside.numel():
            raise FolderError(
                f"label map {printable(path)} holds value {int(outside.max())}, but the data set "
                f"has {classes} classes: values are {int(shift)} to {classes - 1 + int(shift)}, "
                f"and {'0 or ' if shift else ''}{IGNORED} where a pixel is ignored"
            )
        return labels.masked_fill(ignored, IGNORED).to(torch.uint8)

    def identity(self) -> dict[str, str | int]:
        """What tells this data from other data, as JSON types: layout, counts, hash of the files.

        The hash is over names of classes, and the files' paths, sizes and times of change.
        """
        digest = hashlib.sha256("\n".join(self.class_names).encode())
        digest.update(b"%d" % self.ignore_index)
        for path in (*self.images, *self.labels):
            digest.update(b"%s %s\n" % (os.fsencode(path.absolute()), file_stamp(path)))
        return {
            "layout": self.layout,
            "images": len(self),
            "classes": len(self.class_names),
            "reduce_zero_label": int(self.reduce_zero_label),
            "files": digest.hexdigest()[:32],
        }


def _read_ade(root: Path, split: str) -> SegmentationImages:
    table = root / "objectInfo150.txt"
    if table.is_file() and not (root / "classes.json").is_file():
        lines = _read_text(table).splitlines()[1:]
        names = tuple(line.rpartition("\t")[2].strip() for line in lines if line.strip())
        ignore_index = IGNORED
    else:
        names, ignore_index = _read_classes(root)
    part = {"train": "training", "val": "validation"}[split]
    return SegmentationImages(
        **_paired(root / "images" / part, root / "annotations" / part),
        class_names=names,
        layout="ade20k",
        reduce_zero_label=True,
        ignore_index=ignore_index,
    )


def _read_voc(root: Path, split: str) -> SegmentationImages:
    folder = _voc_folder(root) or root
    path = folder / _VOC_LISTS / f"{split}.txt"
    names = _read_text(path).split()
    if not names:
        raise FolderError(f"{printable(path)} lists no images")
    return SegmentationImages(
        images=tuple(folder / "JPEGImages" / f"{name}.jpg" for name in names),
        labels=tuple(folder / "SegmentationClass" / f"{name}.png" for name in names),
        class_names=VOC_CLASSES,
        layout="voc2012",
    )


def _read_folders(root: Path, split: str) -> SegmentationImages:
    names, ignore_index = _read_classes(root)
    return SegmentationImages(
        **_paired(root / split / "images", root / split / "masks"),
        class_names=names,
        layout="folders",
        ignore_index=ignore_index,
    )


LAYOUTS: dict[str, Callable[[Path, str], SegmentationImages]] = {
    "ade20k": _read_ade,
    "voc2012": _read_voc,
    "folders": _read_folders,
}


def read_segmentation(root: Path, split: str, layout: str = "auto") -> SegmentationImages:
    """Read a split of a data set in any of the known layouts.

    - "ade20k": {images,annotations}/{training,validation}; names of the classes 1, 2, ... in
      classes.json (a list) or ADE20K's own objectInfo150.txt; 0 is ignored.
    - "voc2012": JPEGImages, SegmentationClass, ImageSets/Segmentation/{train,val}.txt, in the
      folder or in its VOC2012 or VOCdevkit/VOC2012; 21 classes, the background among them; 255
      (the objects' borders) is ignored.
    - "folders": {train,val}/{images,masks} and classes.json, a list of names or an object with
      "classes" and perhaps "ignore_index"; values are classes from 0 on.

    Args:
        root: the data set's folder.
        split: "train" or "val".
        layout: one of these, or "auto" to tell it from the folders.

    Raises:
        FolderError: none of the layouts, missing folders or files, an image without its label map.
    """
    if layout == "auto":
        if not root.is_dir():
            raise FolderError(f"cannot read folder {printable(root)}: no such folder")
        found = {
            "ade20k": (root / "images" / "training").is_dir(),
            "voc2012": _voc_folder(root) is not None,
            "folders": (root / "train" / "images").is_dir(),
        }
        layout = next((name for name, there in found.items() if there), "auto")
        if layout == "auto":
            raise FolderError(
                f"{printable(root)} has none of the known layouts: images/training (ADE20K), "
                "ImageSets/Segmentation (VOC2012), train/images (folders with classes.json)"
            )
    if layout not in LAYOUTS:
        raise FolderError(f"unknown layout {layout!r}; known: auto, {', '.join(LAYOUTS)}")
    return LAYOUTS[layout](root, split)


def read_label_map(path: Path) -> Tensor:
    """The pixel values [H, W] int64 of a PNG with one channel; palette indices stay indices.

    Raises:
        FolderError: it cannot be read, or has several channels.
    """
    try:
        with Image.open(path, formats=["PNG"]) as image:
            step = _GREY_STEP.get(str(image.tile[0][3]), 1) if image.tile else 1
            stored = np.array(image)
    except Exception as error:  # decoders raise nearly everything on broken files
        raise FolderError(f"label map {path} cannot be read: {error}") from error
    if stored.ndim != 2:
        raise FolderError(
            f"{path} is a colour picture of {stored.shape[2]} channels; a label map has one, "
            "whose pixel values are class numbers"
        )
    return torch.from_numpy(stored.astype(np.int64) // step)


def pair_label_maps(predictions: Path, labels: Path) -> list[tuple[Path, Path]]:
    """The PNGs of two folders that have the same stem, as (prediction, label), in order.

    Raises:
        FolderError: a missing or empty folder, a file without its partner, two files of one stem.
    """
    found: list[dict[str, Path]] = []
    for folder in (predictions, labels):
        try:
            paths = [p for p in sorted(folder.iterdir()) if p.suffix.lower() == ".png"]
        except OSError as error:
            raise FolderError(f"cannot read the folder {folder}: {error.strerror}") from error
        if not paths:
            raise FolderError(f"{folder} holds no PNG files; label maps are PNGs, side by side")
        stems: dict[str, Path] = {}
        for path in paths:
            if path.stem in stems:
                raise FolderError(f"{stems[path.stem]} and {path} have the same name: remove one")
            stems[path.stem] = path
        found.append(stems)
    predicted, true = found
    for having, lacking, place in ((true, predicted, predictions), (predicted, true, labels)):
        alone = [path for stem, path in having.items() if stem not in lacking]
        if alone:
            raise FolderError(
                f"{len(alone)} of {len(having)} files have no partner in {place} "
                f"(the first: {alone[0]}); every stem must be in both folders"
            )
    return [(predicted[stem], path) for stem, path in true.items()]


def _voc_folder(root: Path) -> Path | None:
    candidates = (root, root / "VOC2012", root / "VOCdevkit" / "VOC2012")
    return next((folder for folder in candidates if (folder / _VOC_LISTS).is_dir()), None)


def _paired(images: Path, labels: Path) -> dict[str, Any]:
    """Every image below a folder, and the PNG of the same name below the other."""
    names = ImageFiles(images).names
    return {
        "images": tuple(images / name for name in names),
        "labels": tuple(labels / f"{os.path.splitext(name)[0]}.png" for name in names),
    }


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FolderError(f"cannot read {printable(path)}: {error}") from error


def _read_classes(root: Path) -> tuple[tuple[str, ...], int]:
    """Names, and the stored value that is ignored: a list, or {"classes", "ignore_index"}."""
    path = root / "classes.json"
    text = _read_text(path)
    try:
        content = json.loads(text)
    except ValueError as error:
        raise FolderError(f"{printable(path)} is not valid JSON: {error}") from error
    described = content if isinstance(content, dict) else {"classes": content}
    names, ignored = described.get("classes"), described.get("ignore_index", IGNORED)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise FolderError(f"{printable(path)} must hold a list of class names")
    if not isinstance(ignored, int):
        raise FolderError(f"{printable(path)}: ignore_index must be a number, not {ignored!r}")
    return tuple(names), ignored
