"""Find out in which layout a classification data set is, and read it."""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from radio_core.data.folder import FolderError
from radio_core.data.images import printable
from radio_eval.classification.blocks import ClassificationSet
from radio_eval.classification.tar_shards import TarShards, find_tar_shards, read_tar_shards
from radio_eval.data import LabelledImages, read_classification
from radio_eval.data.imagenet import find_split_root, readable_names

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


def read_splits(
    root: Path,
    splits: Sequence[str],
    layout: Layout = "auto",
    *,
    imagenet_labels: bool = False,
    readable: bool = False,
) -> dict[str, ClassificationSet]:
    """Read several splits that must have the same classes; arguments as for `read_split`.

    Raises:
        FolderError: as `read_split`, and for splits whose classes differ.
    """
    found = {
        split: read_split(root, split, layout, imagenet_labels=imagenet_labels, readable=readable)
        for split in splits
    }
    for one, other in itertools.combinations(splits, 2):
        names, others = (set(found[split].class_names) for split in (one, other))
        if found[one].class_names == found[other].class_names:
            continue
        details = [
            f"{', '.join(map(printable, sorted(alone)[:3]))} {'is' if len(alone) == 1 else 'are'} "
            f"only in {split}"
            for split, alone in ((one, names - others), (other, others - names))
            if alone
        ]
        raise FolderError(
            f"the class folders of {printable(root / one)} and {printable(root / other)} "
            f"differ: {'; '.join(details)}. Add a classnames.json that lists all classes"
        )
    return found


def read_train_and_val(
    root: Path, layout: Layout = "auto", *, imagenet_labels: bool = False
) -> tuple[ClassificationSet, ClassificationSet]:
    """Both splits as `read_splits` reads them."""
    found = read_splits(root, ("train", "val"), layout, imagenet_labels=imagenet_labels)
    return found["train"], found["val"]
