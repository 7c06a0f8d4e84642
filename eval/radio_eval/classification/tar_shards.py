"""Labelled images in WebDataset's tar shards: 000123.jpg beside 000123.cls."""

import hashlib
import json
import os
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from radio_core.data.folder import CLASS_NAMES_FILE, FolderError
from radio_core.data.images import UnreadableImage, decode_rgb, printable
from radio_core.extras import require
from radio_eval.classification.blocks import LabelledItem
from radio_eval.data import file_stamp
from radio_eval.data.imagenet import imagenet_wnids

_IMAGE_KEYS = ("jpg", "jpeg", "png", "webp")
_LABEL_KEY = "cls"
_LONGEST_LABEL = 16


def find_tar_shards(root: Path, split: str) -> list[Path]:
    """root/*SPLIT*.tar or root/SPLIT/*.tar in the order of their names; empty if there are none.

    ImageNet's own archives, which hold other archives, are no shards.
    """
    beside = (path for path in root.glob(f"*{split}*.tar") if not path.name.startswith("ILSVRC"))
    return sorted(beside) or sorted((root / split).glob("*.tar"))


@dataclass(frozen=True, kw_only=True)
class TarShards:
    """A split in tar shards; satisfies `ClassificationSet`. Each shard is a block.

    Attributes:
        paths: the shards.
        class_names: a label in a shard is an index into it.
    """

    paths: tuple[Path, ...]
    class_names: tuple[str, ...]

    def blocks(self, size: int) -> "Sequence[TarBlock]":
        """A block a shard, whatever the size."""
        return [TarBlock(path, len(self.class_names)) for path in self.paths]

    def identity(self) -> dict[str, Any]:
        """Counts, and a hash of the shards' paths, sizes and times of change."""
        digest = hashlib.sha256()
        for path in self.paths:
            name = str(path.absolute()).encode("utf-8", "surrogateescape")
            digest.update(b"%s %s\n" % (name, file_stamp(path)))
        return {
            "shards": len(self.paths),
            "classes": len(self.class_names),
            "files": digest.hexdigest()[:32],
        }


class TarBlock:
    """The images of one shard; a `Block`.

    Args:
        path: the shard.
        num_classes: labels lie below it.
    """

    count = None

    def __init__(self, path: Path, num_classes: int) -> None:
        self._path = path
        self._num_classes = num_classes

    def __iter__(self) -> Iterator[LabelledItem]:
        """The images, not decoded. Nothing in a shard is executed or written to disk.

        Raises:
            UnreadableImage: the shard ends early or is no tar file.
            FolderError: a label that is no number, or outside the range.
        """
        for sample in self._samples():
            name = f"{printable(self._path)}/{sample['__key__']}"
            images = [key for key in _IMAGE_KEYS if key in sample]
            if _LABEL_KEY not in sample or not images:
                reason = "not an image: it has no .cls, or no image of the kinds "
                yield _unreadable(name, reason + " ".join(f".{key}" for key in _IMAGE_KEYS))
                continue
            read = partial(decode_rgb, sample[images[0]], f"{name}.{images[0]}")
            yield LabelledItem(name=name, label=self._label(sample[_LABEL_KEY], name), read=read)

    def _samples(self) -> Iterator[dict[str, Any]]:
        """What belongs to one image, as bytes: {"__key__": ..., "jpg": ..., "cls": ...}."""
        iterators = require("webdataset.tariterators", extra="train")
        try:
            with self._path.open("rb") as file:
                members = iterators.tar_file_iterator(file)
                yield from iterators.group_by_keys({**m, "__url__": ""} for m in members)
                file.seek(-min(tarfile.BLOCKSIZE, self._path.stat().st_size), os.SEEK_END)
                whole = not any(file.read())  # every tar file ends with empty blocks
        except (OSError, tarfile.TarError, EOFError, ValueError, zlib.error) as error:
            raise UnreadableImage(self._path, f"broken: {' '.join(str(error).split())}") from error
        if not whole:
            raise UnreadableImage(self._path, "truncated: the end of the tar file is missing")

    def _label(self, stored: bytes, name: str) -> int:
        text = stored[:_LONGEST_LABEL].decode("utf-8", "replace").strip()
        if not text.isdecimal():
            raise FolderError(f"{name}.{_LABEL_KEY} must hold the number of a class, not {text!r}")
        if int(text) >= self._num_classes:
            raise FolderError(
                f"{name}.{_LABEL_KEY} is {text}, but there are {self._num_classes} classes: labels "
                f"are 0 to {self._num_classes - 1}; see {CLASS_NAMES_FILE}"
            )
        return int(text)


def _unreadable(name: str, reason: str) -> LabelledItem:
    def read() -> Image.Image:
        raise UnreadableImage(name, reason)

    return LabelledItem(name=name, label=0, read=read)


def read_tar_shards(root: Path, split: str, *, imagenet: bool = False) -> TarShards:
    """Read the WebDataset layout: root/*SPLIT*.tar or root/SPLIT/*.tar, and root/classnames.json.

    Args:
        root: the data set's folder. Its classnames.json is a list of names in label order, or
            {class: name}, whose sorted keys give the label order.
        split: "train" or "val".
        imagenet: the labels are those of ImageNet-1k, and classnames.json may be missing.

    Raises:
        FolderError: no shards, or nothing tells the number of classes.
    """
    paths = find_tar_shards(root, split)
    if not paths:
        raise FolderError(f"no *{split}*.tar in {printable(root)} or {printable(root / split)}")
    return TarShards(paths=tuple(paths), class_names=_class_names(root, imagenet))


def _class_names(root: Path, imagenet: bool) -> tuple[str, ...]:
    path = root / CLASS_NAMES_FILE
    if not path.is_file():
        if imagenet:
            return imagenet_wnids()
        raise FolderError(
            f"tar shards do not say which classes there are: add {printable(path)}, a list of the "
            "classes' names in the order of their labels, or pass --imagenet-labels"
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FolderError(f"cannot read {printable(path)}: {error}") from error
    names = [content[key] for key in sorted(content)] if isinstance(content, dict) else content
    if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
        raise FolderError(f"{printable(path)} must hold a list of class names")
    return tuple(names)
