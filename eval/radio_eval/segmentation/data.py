"""Images with a label map each, in the layouts of ADE20K, VOC2012 and CamVid."""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from radio_core.data.folder import FolderError, ImageFiles
from radio_core.data.images import UnreadableImage, load_rgb, printable
from radio_eval.data import IGNORED, file_stamp
from radio_eval.segmentation.files import read_label_map

MAX_CLASSES = 254
"""Most classes: label maps are kept as bytes, and 255 counts nowhere."""

VOC_CLASSES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat"),
    *("chair", "cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant"),
    *("sheep", "sofa", "train", "tvmonitor"),
)
_ADE_SPLITS = {"train": "training", "val": "validation"}
_ADE_NAMES = "objectInfo150.txt"
_CLASSES = "classes.json"
_VOC_LISTS = Path("ImageSets") / "Segmentation"


class ListedImages:
    """Image files as they are stored (no EXIF rotation, as label maps count stored pixels).

    Satisfies `ImageSource`.

    Args:
        paths: the files.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = tuple(paths)

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, index: int) -> Image.Image:
        """The image at `index`, 8-bit RGB. Raises UnreadableImage and records nothing."""
        return load_rgb(self.paths[index], upright=False)


class LabelMaps:
    """PNG label maps, read when they are asked for.

    Args:
        paths: one PNG of one channel an image.
        num_classes: classes K, at most `MAX_CLASSES`.
        reduce_zero_label: stored values are shifted: 0 -> 255 (ignored), k -> k - 1 (ADE20K).
        ignore_index: another stored value than 255 that counts nowhere.

    Raises:
        FolderError: too many classes.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        num_classes: int,
        *,
        reduce_zero_label: bool = False,
        ignore_index: int = IGNORED,
    ) -> None:
        if not 1 <= num_classes <= MAX_CLASSES:
            raise FolderError(f"{num_classes} classes; label maps take 1 to {MAX_CLASSES}")
        self.paths = tuple(paths)
        self.num_classes = num_classes
        self.reduce_zero_label = reduce_zero_label
        self.ignore_index = ignore_index

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        """[H, W] uint8 in [0, K) or 255.

        Raises:
            UnreadableImage: no file, or no label map.
            FolderError: it holds a class outside the range.
        """
        path = self.paths[index]
        try:
            stored = read_label_map(path)  # [H, W] int64
        except FolderError as error:
            raise UnreadableImage(path, str(error)) from error
        ignored = (stored == IGNORED) | (stored == self.ignore_index)
        labels = stored
        if self.reduce_zero_label:
            ignored, labels = ignored | (stored == 0), stored - 1
        outside = stored[~ignored & ((labels < 0) | (labels >= self.num_classes))]
        if outside.numel():
            first, last = int(self.reduce_zero_label), self.num_classes - 1
            raise FolderError(
                f"label map {printable(path)} holds value {int(outside.max())}, but the data set "
                f"has {self.num_classes} classes: values are {first} to {last + first}, and "
                f"{'0 or ' if self.reduce_zero_label else ''}{IGNORED} where a pixel is ignored"
            )
        return labels.masked_fill(ignored, IGNORED).to(torch.uint8)


@dataclass(frozen=True, kw_only=True)
class SegmentationImages:
    """Images with a label map each.

    Attributes:
        images: N images.
        labels: N label maps.
        class_names: names of the classes 0, 1, ...
        layout: name of the layout that they were read from.
        kept: pairs by number that were read once, where they are kept; see `keep`.
    """

    images: ListedImages
    labels: LabelMaps
    class_names: tuple[str, ...]
    layout: str
    kept: dict[int, tuple[Image.Image, Tensor]] | None = None

    def __len__(self) -> int:
        return len(self.images)

    def keep(self) -> "SegmentationImages":
        """The same images, each decoded once and then kept in memory, 4 bytes a pixel."""
        return replace(self, kept={})

    def read(self, index: int) -> tuple[Image.Image, Tensor]:
        """The image as 8-bit RGB, and its label map [H, W] uint8 in [0, K) or 255.

        Raises:
            UnreadableImage: one of the two files cannot be read.
            FolderError: they differ in size, or a class lies outside the range.
        """
        if self.kept is not None and index in self.kept:
            return self.kept[index]
        image, label = self.images.read(index), self.labels[index]
        if (image.height, image.width) != tuple(label.shape):
            raise FolderError(
                f"label map {printable(self.labels.paths[index])} has {label.shape[1]} x "
                f"{label.shape[0]} pixels, but its image {printable(self.images.paths[index])} "
                f"{image.width} x {image.height}: replace or remove the pair"
            )
        if self.kept is not None:
            self.kept[index] = image, label
        return image, label

    def identity(self) -> dict[str, str | int]:
        """What tells this data from other data, as JSON types: layout, counts, hash of the files.

        The hash is over names of classes, and the files' paths, sizes and times of change.
        """
        digest = hashlib.sha256("\n".join(self.class_names).encode())
        digest.update(b"%d" % self.labels.ignore_index)
        for path in (*self.images.paths, *self.labels.paths):
            digest.update(b"%s %s\n" % (os.fsencode(path.absolute()), file_stamp(path)))
        return {
            "layout": self.layout,
            "images": len(self),
            "classes": len(self.class_names),
            "reduce_zero_label": int(self.labels.reduce_zero_label),
            "files": digest.hexdigest()[:32],
        }


def read_ade(root: Path, split: str) -> SegmentationImages:
    """Read the ADE20K layout: {images,annotations}/{training,validation}.

    Names of the classes 1, 2, ... come from classes.json (a list) or ADE20K's own
    objectInfo150.txt; 0 is ignored.

    Args:
        root: the data set's folder.
        split: "train" or "val".

    Raises:
        FolderError: missing folders or files, an image without its label map.
    """
    names_file = root / _ADE_NAMES
    if (root / _CLASSES).is_file() or not names_file.is_file():
        names, ignore_index = _read_classes(root / _CLASSES)
    else:
        names, ignore_index = _read_object_info(names_file), IGNORED
    images, labels = _paired(
        root / "images" / _ADE_SPLITS[split], root / "annotations" / _ADE_SPLITS[split]
    )
    return SegmentationImages(
        images=ListedImages(images),
        labels=LabelMaps(labels, len(names), reduce_zero_label=True, ignore_index=ignore_index),
        class_names=names,
        layout="ade20k",
    )


def read_voc(root: Path, split: str) -> SegmentationImages:
    """Read VOC2012: JPEGImages, SegmentationClass, ImageSets/Segmentation/{train,val}.txt.

    21 classes, the background among them; 255 (the objects' borders) is ignored.

    Args:
        root: the folder VOC2012, or one that holds VOC2012 or VOCdevkit/VOC2012.
        split: "train" or "val".

    Raises:
        FolderError: missing folders or files, an image without its label map.
    """
    folder = _voc_folder(root) or root
    path = folder / _VOC_LISTS / f"{split}.txt"
    try:
        names = path.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise FolderError(f"cannot read the list {printable(path)}: {error}") from error
    if not names:
        raise FolderError(f"{printable(path)} lists no images")
    labels = [folder / "SegmentationClass" / f"{name}.png" for name in names]
    _require(labels)
    return SegmentationImages(
        images=ListedImages([folder / "JPEGImages" / f"{name}.jpg" for name in names]),
        labels=LabelMaps(labels, len(VOC_CLASSES)),
        class_names=VOC_CLASSES,
        layout="voc2012",
    )


def read_folders(root: Path, split: str) -> SegmentationImages:
    """Read {train,val}/{images,masks} and classes.json, where values are classes from 0 on.

    Args:
        root: the data set's folder; its classes.json is a list of names, or an object with
            "classes" and perhaps "ignore_index".
        split: "train" or "val".

    Raises:
        FolderError: missing folders or files, an image without its label map.
    """
    names, ignore_index = _read_classes(root / _CLASSES)
    images, labels = _paired(root / split / "images", root / split / "masks")
    return SegmentationImages(
        images=ListedImages(images),
        labels=LabelMaps(labels, len(names), ignore_index=ignore_index),
        class_names=names,
        layout="folders",
    )


LAYOUTS: dict[str, Callable[[Path, str], SegmentationImages]] = {
    "ade20k": read_ade,
    "voc2012": read_voc,
    "folders": read_folders,
}


def read_segmentation(root: Path, split: str, layout: str = "auto") -> SegmentationImages:
    """Read a split of a data set in any of the known layouts.

    Args:
        root: the data set's folder.
        split: "train" or "val".
        layout: a key of `LAYOUTS`, or "auto" to tell it from the folders.

    Raises:
        FolderError: none of the layouts; or as the reader of the layout.
    """
    if layout == "auto":
        layout = _recognise(root)
    if layout not in LAYOUTS:
        raise FolderError(f"unknown layout {layout!r}; known: auto, {', '.join(LAYOUTS)}")
    return LAYOUTS[layout](root, split)


def _recognise(root: Path) -> str:
    if not root.is_dir():
        raise FolderError(f"cannot read folder {printable(root)}: no such folder")
    if (root / "images" / "training").is_dir():
        return "ade20k"
    if _voc_folder(root) is not None:
        return "voc2012"
    if (root / "train" / "images").is_dir():
        return "folders"
    raise FolderError(
        f"{printable(root)} has none of the known layouts: images/training (ADE20K), "
        "ImageSets/Segmentation (VOC2012), train/images (folders with classes.json)"
    )


def _voc_folder(root: Path) -> Path | None:
    candidates = (root, root / "VOC2012", root / "VOCdevkit" / "VOC2012")
    return next((folder for folder in candidates if (folder / _VOC_LISTS).is_dir()), None)


def _paired(images: Path, labels: Path) -> tuple[list[Path], list[Path]]:
    """Every image below a folder, and the PNG of the same name below the other."""
    files = ImageFiles(images)
    names = list(files.names)
    paths = [labels / f"{os.path.splitext(name)[0]}.png" for name in names]
    _require(paths)
    return [images / name for name in names], paths


def _require(paths: Sequence[Path]) -> None:
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise FolderError(
            f"label map {printable(missing[0])} is missing ({len(missing)} of {len(paths)} are)"
        )


def _read_classes(path: Path) -> tuple[tuple[str, ...], int]:
    """Names, and the stored value that is ignored: a list, or {"classes", "ignore_index"}."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise FolderError(f"cannot read {printable(path)}: {error.strerror}") from error
    except ValueError as error:
        raise FolderError(f"{printable(path)} is not valid JSON: {error}") from error
    described = content if isinstance(content, dict) else {"classes": content}
    names, ignored = described.get("classes"), described.get("ignore_index", IGNORED)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise FolderError(f"{printable(path)} must hold a list of class names")
    if not isinstance(ignored, int):
        raise FolderError(f"{printable(path)}: ignore_index must be a number, not {ignored!r}")
    return tuple(names), ignored


def _read_object_info(path: Path) -> tuple[str, ...]:
    """ADE20K's table of classes: the last column of every line after the first."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()[1:]
    except (OSError, UnicodeDecodeError) as error:
        raise FolderError(f"cannot read {printable(path)}: {error}") from error
    return tuple(line.rpartition("\t")[2].strip() for line in lines if line.strip())
