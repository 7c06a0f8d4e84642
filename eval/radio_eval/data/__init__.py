"""Evaluation data: labelled images in folders, and images brought to the size of a model."""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode, functional

from radio_core.data.folder import FolderError, ImageFiles, LabelledFolder
from radio_core.data.images import UnreadableImage
from radio_core.data.sources import ImageSource
from radio_core.data.transforms import radio_resize, to_tensor
from radio_eval.classification.blocks import LabelledItem
from radio_eval.data.imagenet import find_split_root
from radio_eval.eval_model import CentreCrop, EvalModel

IGNORED = 255
"""Label of pixels that count nowhere."""


class KeptImages:
    """An image source that decodes every file at most once and keeps the pixels (uint8) in memory.

    For sets that several models are evaluated on. Takes 3 bytes a pixel.
    """

    def __init__(self, source: ImageSource) -> None:
        self._source = source
        self._kept: dict[int, np.ndarray | UnreadableImage] = {}

    def __len__(self) -> int:
        return len(self._source)

    def read(self, index: int) -> Image.Image:
        """The image at `index` as 8-bit RGB. Raises UnreadableImage."""
        if index not in self._kept:
            try:
                self._kept[index] = np.array(self._source.read(index), dtype=np.uint8)
            except UnreadableImage as error:
                self._kept[index] = error
        kept = self._kept[index]
        if isinstance(kept, UnreadableImage):
            raise kept
        return Image.fromarray(kept)


@dataclass(frozen=True, kw_only=True)
class LabelledImages:
    """Images with one class each; satisfies `ClassificationSet`.

    Attributes:
        images: N images.
        labels: [N] int64, indices into `class_names`.
        class_names: readable names, as zero-shot sentences use them.
    """

    images: ImageSource
    labels: Tensor
    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.images) != len(self.labels):
            raise ValueError(f"{len(self.images)} images but {len(self.labels)} labels")

    def blocks(self, size: int) -> "Sequence[ImageBlock]":
        """The images in blocks of `size`, in their order."""
        starts = range(0, len(self.images), size)
        return [ImageBlock(self, range(len(self.images))[start : start + size]) for start in starts]

    def read(self, index: int) -> Image.Image:
        """The image at `index` as 8-bit RGB.

        Raises:
            UnreadableImage: it cannot be read.
        """
        return self.images.read(index)

    def name(self, index: int) -> str:
        """Path of the image at `index`, or its number."""
        images = self.images
        return str(images.path(index) if isinstance(images, ImageFiles) else index)

    def identity(self) -> dict[str, Any] | None:
        """Counts, and a hash of the files' paths, sizes, times of change and labels."""
        if not isinstance(self.images, ImageFiles):
            return None
        digest = hashlib.sha256(str(self.images.root.absolute()).encode("utf-8", "surrogateescape"))
        for index, label in enumerate(self.labels.tolist()):
            name = self.images.names[index].encode("utf-8", "surrogateescape")
            digest.update(b"%s %d %s\n" % (name, label, file_stamp(self.images.path(index))))
        return {
            "images": len(self.images),
            "classes": len(self.class_names),
            "files": digest.hexdigest()[:32],
        }


class ImageBlock:
    """Some of a `LabelledImages`; a `Block`.

    Args:
        images: all of them.
        indices: those of the block.
    """

    def __init__(self, images: LabelledImages, indices: range) -> None:
        self._images = images
        self._indices = indices

    @property
    def count(self) -> int:
        """Number of images, the unreadable ones included."""
        return len(self._indices)

    def __iter__(self) -> Iterator[LabelledItem]:
        """The images, not decoded."""
        for index in self._indices:
            yield LabelledItem(
                name=self._images.name(index),
                label=int(self._images.labels[index]),
                read=partial(self._images.read, index),
            )


def file_stamp(path: Path) -> bytes:
    """Size and time of change of a file, which tell it from a later version; empty without file."""
    try:
        status = os.stat(path)
    except OSError:
        return b""
    return b"%d %d" % (status.st_size, status.st_mtime_ns)


def read_classification(
    root: Path, split: str, classes: Sequence[str] | None = None
) -> LabelledImages:
    """Read the ImageFolder layout root/split/<class>/*, with or without root/classnames.json.

    The official folders of ImageNet (ILSVRC/Data/CLS-LOC/train/...) are found below `root`.

    Args:
        root: the data set's folder.
        split: "train" or "val".
        classes: the class folders in label order, as `LabelledFolder` takes them.

    Raises:
        FolderError: missing, closed or empty folders, unknown class folders, images outside of
            class folders.
    """
    root = find_split_root(root, split)
    folder = LabelledFolder(root, split, classes)
    return LabelledImages(
        images=folder.images,
        labels=torch.tensor(folder.labels, dtype=torch.long),
        class_names=tuple(folder.class_names),
    )


def read_templates(root: Path) -> tuple[str, ...] | None:
    """The zero-shot sentences of root/templates.json (a list of strings with "{}"), if it is there.

    Raises:
        FolderError: the file is not a list of strings.
    """
    path = root / "templates.json"
    if not path.is_file():
        return None
    templates = _read_json(path)
    if not isinstance(templates, list) or not all(isinstance(t, str) for t in templates):
        raise FolderError(f"{path} must hold a list of strings")
    return tuple(templates)


def _read_json(path: Path) -> object:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise FolderError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise FolderError(f"{path} is not valid JSON: {error}") from error


def prepare(image: Image.Image, model: EvalModel, *, whole: bool = False) -> Tensor:
    """Bring an 8-bit RGB image to the model's size.

    Models with a `crop` get it. Others of any shape get RADIO's resize (shortest edge, both sides
    rounded to the step); square-only models RADIO's resize to a square. With `whole` no pixel is
    cut off, for dense tasks: nothing is cropped, and square-only models see the image squeezed.

    Returns:
        float32 [3, H, W] in [0, 1].
    """
    side = model.image_size
    if model.crop is not None and not whole:
        return to_tensor(_centre_crop(image, model.crop))
    if not model.square:
        return to_tensor(radio_resize(image, side, model.resize_step))
    if whole:
        return to_tensor(image.resize((side, side), Image.Resampling.BICUBIC))
    return to_tensor(radio_resize(image, (side, side), model.resize_step))


def _centre_crop(image: Image.Image, crop: CentreCrop) -> Image.Image:
    size = [crop.resize, crop.resize] if crop.squash else [crop.resize]
    interpolation = InterpolationMode(crop.interpolation)
    resized = functional.resize(image, size, interpolation)
    return cast(Image.Image, functional.center_crop(resized, [crop.size, crop.size]))
