"""Labelled images of any number, in class folders or tar shards, in blocks read one by one."""

import hashlib
import itertools
import json
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

from PIL import Image

from radio_core.data.folder import IMAGE_EXTENSIONS, FolderError, ImageFiles
from radio_core.data.images import UnreadableImage, decode_rgb, printable
from radio_core.data.shards import read_samples
from radio_eval.data.files import file_stamp
from radio_eval.data.imagenet import find_split_root, imagenet_wnids, readable_names

Layout = Literal["auto", "folders", "webdataset"]

CLASS_NAMES_FILE = "classnames.json"
_IMAGE_KEYS = ("jpg", "jpeg", "png", "webp")
_LABEL_KEY = "cls"
_LONGEST_LABEL = 16


@dataclass(frozen=True, kw_only=True)
class LabelledItem:
    """One image that has not been decoded yet.

    Attributes:
        name: path or key, for people.
        label: index of its class.
        read: the image as 8-bit RGB; raises `UnreadableImage` if that cannot be done.
    """

    name: str
    label: int
    read: Callable[[], Image.Image]


@dataclass(frozen=True, kw_only=True)
class Block:
    """Some images of a split, always the same ones in the same order.

    One process computes a whole block: what comes out depends neither on how many processes there
    are nor on where a run was interrupted.

    Attributes:
        count: number of images, the unreadable ones included; None if only reading them tells.
        items: gives the images; raises `UnreadableImage` where the rest cannot be read.
    """

    count: int | None
    items: Callable[[], Iterator[LabelledItem]]


class ClassificationSet(Protocol):
    """A split of a classification data set."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Name of every class, also of those without an image; a label is an index into it."""

    def blocks(self, size: int) -> Sequence[Block]:
        """All images in blocks of `size`, where the layout leaves a choice."""

    def named(self, names: Collection[str]) -> Iterator[LabelledItem]:
        """The images of some names, as far as they are there; in any order."""

    def identity(self) -> dict[str, Any] | None:
        """What tells this data from other data, as JSON types; None for data without files."""


class FolderSplit:
    """A split in the ImageFolder layout, ROOT/SPLIT/CLASS/*; a `ClassificationSet`.

    Attributes:
        images: N images.
        labels: N indices into `class_names`.
        class_names: of all classes.
    """

    def __init__(self, root: Path, split: str) -> None:
        root = find_split_root(root, split)
        if (root / split).is_dir():
            _check_class_folders(root / split)
        self.images = ImageFiles(root / split)
        folders = [name.split(os.sep)[0] for name in self.images.names]
        path = root / CLASS_NAMES_FILE
        names = _read_json(path) if path.is_file() else dict(zip(folders, folders, strict=True))
        if not isinstance(names, dict) or not all(isinstance(n, str) for n in names.values()):
            raise FolderError(f"{printable(path)} must map class folders to names, as strings")
        classes = sorted(names or set(folders))
        strangers = sorted(set(folders) - set(classes))
        if strangers:
            raise FolderError(
                f"{printable(self.images.root)}: {', '.join(map(printable, strangers[:5]))} "
                f"{'is' if len(strangers) == 1 else 'are'} not among the {len(classes)} classes"
            )
        label_of = {folder: label for label, folder in enumerate(classes)}
        self.labels = [label_of[folder] for folder in folders]
        self.class_names = tuple(names.get(folder, folder) for folder in classes)

    def blocks(self, size: int) -> list[Block]:
        """The images in blocks of `size`, in their order."""
        every = range(len(self.images))
        parts = [every[start : start + size] for start in every[::size]]
        return [Block(count=len(part), items=partial(self._items, part)) for part in parts]

    def named(self, names: Collection[str]) -> Iterator[LabelledItem]:
        """The images at some paths."""
        wanted = set(names)
        return self._items(i for i in range(len(self.images)) if self._name(i) in wanted)

    def identity(self) -> dict[str, Any]:
        """Counts, and a hash of the files' paths, sizes, times of change and labels."""
        digest = hashlib.sha256(str(self.images.root.absolute()).encode("utf-8", "surrogateescape"))
        for index, label in enumerate(self.labels):
            name = self.images.names[index].encode("utf-8", "surrogateescape")
            digest.update(b"%s %d %s\n" % (name, label, file_stamp(self.images.path(index))))
        return {
            "images": len(self.images),
            "classes": len(self.class_names),
            "files": digest.hexdigest()[:32],
        }

    def _items(self, indices: Iterator[int] | Sequence[int]) -> Iterator[LabelledItem]:
        for index in indices:
            read = partial(self.images.read, index)
            yield LabelledItem(name=self._name(index), label=self.labels[index], read=read)

    def _name(self, index: int) -> str:
        return str(self.images.path(index))


class ShardSplit:
    """A split in WebDataset's tar shards (000123.jpg beside 000123.cls); a `ClassificationSet`.

    Each shard is a block. Nothing in a shard is executed or written to disk.

    Args:
        root: the data set's folder. Its classnames.json is a list of names in label order, or
            {class: name}, whose sorted keys give the label order.
        split: "train" or "val": ROOT/*SPLIT*.tar or ROOT/SPLIT/*.tar.
        imagenet: the labels are those of ImageNet-1k, and classnames.json may be missing.

    Attributes:
        paths: the shards.
        class_names: of all classes.

    Raises:
        FolderError: no shards, or nothing tells the number of classes.
    """

    def __init__(self, root: Path, split: str, *, imagenet: bool = False) -> None:
        self.paths = find_tar_shards(root, split)
        if not self.paths:
            raise FolderError(f"no *{split}*.tar in {printable(root)} or {printable(root / split)}")
        self.class_names = _shard_class_names(root, imagenet)

    def blocks(self, size: int) -> list[Block]:
        """A block a shard, whatever the size."""
        return [Block(count=None, items=partial(self._items, path)) for path in self.paths]

    def named(self, names: Collection[str]) -> Iterator[LabelledItem]:
        """The images of some names; only shards that are named in them are read."""
        for path in self.paths:
            wanted = {name for name in names if name.startswith(f"{printable(path)}/")}
            with suppress(UnreadableImage, FolderError):
                for item in self._items(path) if wanted else ():
                    if item.name in wanted:
                        wanted.discard(item.name)
                        yield item
                    if not wanted:
                        break

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

    def _items(self, path: Path) -> Iterator[LabelledItem]:
        """The images of a shard, not decoded."""
        try:
            for sample in read_samples(path, {f".{key}" for key in (*_IMAGE_KEYS, _LABEL_KEY)}):
                name = f"{printable(path)}/{sample.name}"
                key = next((key for key in _IMAGE_KEYS if key in sample.files), None)
                if key is None or _LABEL_KEY not in sample.files:
                    yield LabelledItem(name=name, label=0, read=partial(_incomplete, name))
                    continue
                label = self._label(sample.files[_LABEL_KEY], name)
                read = partial(decode_rgb, sample.files[key], f"{name}.{key}")
                yield LabelledItem(name=name, label=label, read=read)
        except OSError as error:
            raise UnreadableImage(path, f"broken: {error.strerror or error}") from error

    def _label(self, stored: bytes, name: str) -> int:
        text = stored[:_LONGEST_LABEL].decode("utf-8", "replace").strip()
        if not text.isdecimal():
            raise FolderError(f"{name}.{_LABEL_KEY} must hold the number of a class, not {text!r}")
        if int(text) >= len(self.class_names):
            raise FolderError(
                f"{name}.{_LABEL_KEY} is {text}, but there are {len(self.class_names)} classes: "
                f"labels are 0 to {len(self.class_names) - 1}; see {CLASS_NAMES_FILE}"
            )
        return int(text)


def _incomplete(name: str) -> Image.Image:
    kinds = " ".join(f".{key}" for key in _IMAGE_KEYS)
    raise UnreadableImage(name, f"not an image: it has no .cls, or no image of the kinds {kinds}")


def find_tar_shards(root: Path, split: str) -> list[Path]:
    """root/*SPLIT*.tar or root/SPLIT/*.tar in the order of their names; empty if there are none.

    ImageNet's own archives, which hold other archives, are no shards.
    """
    beside = (path for path in root.glob(f"*{split}*.tar") if not path.name.startswith("ILSVRC"))
    return sorted(beside) or sorted((root / split).glob("*.tar"))


def read_splits(
    root: Path,
    splits: Sequence[str],
    layout: Layout = "auto",
    *,
    imagenet_labels: bool = False,
    readable: bool = False,
) -> dict[str, ClassificationSet]:
    """Read splits of a classification data set, all with the same classes.

    Args:
        root: the data set's folder. ImageNet's own (ILSVRC/Data/CLS-LOC/train/...) are found in it.
        splits: of "train" and "val".
        layout: "folders" (SPLIT/CLASS/*.jpg), "webdataset" (*SPLIT*.tar), or "auto" for what is
            there.
        imagenet_labels: shards have ImageNet-1k's labels, and need no classnames.json.
        readable: give classes that are called by their WordNet ids the names of `readable_names`.

    Raises:
        FolderError: a split is not there, or cannot be used, or their classes differ.
    """
    found: dict[str, FolderSplit | ShardSplit] = {}
    for split in splits:
        if layout == "auto":
            place = find_split_root(root, split) / split
            in_folders = place.is_dir() and any(path.is_dir() for path in place.iterdir())
            in_shards = not in_folders and bool(find_tar_shards(root, split))
        else:
            in_shards = layout == "webdataset"
        found[split] = (
            ShardSplit(root, split, imagenet=imagenet_labels)
            if in_shards
            else FolderSplit(root, split)
        )
    for one, other in itertools.combinations(splits, 2):
        if found[one].class_names != found[other].class_names:
            names, others = (set(found[split].class_names) for split in (one, other))
            details = [
                f"{', '.join(map(printable, sorted(alone)[:3]))} "
                f"{'is' if len(alone) == 1 else 'are'} only in {split}"
                for split, alone in ((one, names - others), (other, others - names))
                if alone
            ]
            raise FolderError(
                f"the class folders of {printable(root / one)} and {printable(root / other)} "
                f"differ: {'; '.join(details)}. Add a classnames.json that lists all classes"
            )
    if readable:
        for data in found.values():
            data.class_names = readable_names(data.class_names)
    return dict(found)


def read_templates(root: Path) -> tuple[str, ...] | None:
    """The sentences of root/templates.json, a list of strings with "{}", if it is there."""
    path = root / "templates.json"
    if not path.is_file():
        return None
    templates = _read_json(path)
    if not isinstance(templates, list) or not all(isinstance(t, str) for t in templates):
        raise FolderError(f"{printable(path)} must hold a list of strings")
    return tuple(templates)


def _check_class_folders(folder: Path) -> None:
    """Refuse a split whose images lie in no class folders, and say how to make them."""
    try:
        files = (p for p in folder.iterdir() if p.suffix.lower() in IMAGE_EXTENSIONS)
        loose = next((path for path in files if path.is_file()), None)
    except OSError as error:
        raise FolderError(f"cannot read folder {printable(folder)}: {error.strerror}") from error
    if loose is None:
        return
    hint = "put every image into a folder named after its class"
    if loose.name.startswith("ILSVRC2012_val_"):
        hint = (
            "ImageNet's validation images come without folders: the class of each is in the "
            "development kit (ILSVRC2012_devkit_t12.tar.gz, "
            "data/ILSVRC2012_validation_ground_truth.txt, ids of data/meta.mat) or in "
            "LOC_val_solution.csv; torchvision.datasets.ImageNet sorts them into folders when it "
            "finds ILSVRC2012_img_val.tar and the kit"
        )
    raise FolderError(f"{printable(loose)} lies in no class folder: {hint}")


def _shard_class_names(root: Path, imagenet: bool) -> tuple[str, ...]:
    path = root / CLASS_NAMES_FILE
    if not path.is_file():
        if imagenet:
            return imagenet_wnids()
        raise FolderError(
            f"tar shards do not say which classes there are: add {printable(path)}, a list of the "
            "classes' names in the order of their labels, or pass --imagenet-labels"
        )
    content = _read_json(path)
    names = [content[key] for key in sorted(content)] if isinstance(content, dict) else content
    if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
        raise FolderError(f"{printable(path)} must hold a list of class names")
    return tuple(names)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise FolderError(f"cannot read {printable(path)}: {error.strerror}") from error
    except ValueError as error:
        raise FolderError(f"{printable(path)} is not valid JSON: {error}") from error
