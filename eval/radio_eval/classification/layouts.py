"""Find out in which layout a classification data set is, and read it."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

from radio_core.data.folder import FolderError
from radio_core.data.images import printable
from radio_eval.classification.blocks import ClassificationSet
from radio_eval.classification.imagenet import find_split_root, readable_names
from radio_eval.classification.tar_shards import TarShards, find_tar_shards, read_tar_shards
from radio_eval.data import LabelledImages, read_classification

Layout = Literal["auto", "folders", "webdataset"]


def read_split(
    root: Path,
    split: str,
    layout: Layout = "auto",
    *,
    imagenet_labels: bool = False,
    readable: bool = False,
) -> ClassificationSet:
    """Read a split of a classification data set.

    Args:
        root: the data set's folder.
        split: "train" or "val".
        layout: "folders" (SPLIT/CLASS/*.jpg), "webdataset" (*SPLIT*.tar), or "auto" for what is
            there.
        imagenet_labels: see `read_tar_shards`.
        readable: give classes that are called by their WordNet ids the names of `readable_names`.

    Raises:
        FolderError: the split is not there, or cannot be used.
    """
    if layout == "auto":
        place = find_split_root(root, split) / split
        sorted_in = place.is_dir() and any(path.is_dir() for path in place.iterdir())
        layout = "webdataset" if not sorted_in and find_tar_shards(root, split) else "folders"
    data: TarShards | LabelledImages
    if layout == "webdataset":
        data = read_tar_shards(root, split, imagenet=imagenet_labels)
    else:
        data = read_classification(root, split)
    return replace(data, class_names=readable_names(data.class_names)) if readable else data


def read_train_and_val(
    root: Path, layout: Layout = "auto", *, imagenet_labels: bool = False
) -> tuple[ClassificationSet, ClassificationSet]:
    """Read both splits; arguments as for `read_split`.

    Raises:
        FolderError: as `read_split`, and for splits whose classes differ.
    """
    train, val = (
        read_split(root, split, layout, imagenet_labels=imagenet_labels)
        for split in ("train", "val")
    )
    if train.class_names != val.class_names:
        one, other = set(train.class_names), set(val.class_names)
        details = [
            f"{', '.join(map(printable, sorted(names)[:3]))} {'is' if len(names) == 1 else 'are'} "
            f"only in {split}"
            for split, names in (("train", one - other), ("val", other - one))
            if names
        ]
        raise FolderError(
            f"the class folders of {printable(root / 'train')} and {printable(root / 'val')} "
            f"differ: {'; '.join(details)}. Add a classnames.json that lists all classes"
        )
    return train, val
