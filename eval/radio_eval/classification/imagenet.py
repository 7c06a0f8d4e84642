"""What is known of ImageNet-1k: its WordNet ids and the names that people give its classes."""

import re
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from radio_core.data.folder import IMAGE_EXTENSIONS, FolderError
from radio_core.data.images import printable
from radio_core.extras import require

_WORDNET_ID = re.compile(r"n\d{8}")
_OFFICIAL = ("ILSVRC/Data/CLS-LOC", "Data/CLS-LOC")


@cache
def imagenet_wnids() -> tuple[str, ...]:
    """The 1,000 WordNet ids in label order, as timm has them."""
    data: Any = import_module("timm.data")
    return tuple(data.ImageNetInfo("imagenet-1k").label_names())


def readable_names(class_names: Sequence[str]) -> tuple[str, ...]:
    """open_clip's names of ImageNet's classes in the place of their WordNet ids.

    Args:
        class_names: left as they are unless all are WordNet ids of ImageNet-1k.

    Raises:
        ImportError: open_clip is missing; the message names the extra.
        FolderError: WordNet ids that ImageNet-1k does not have.
    """
    if not all(_WORDNET_ID.fullmatch(name) for name in class_names):
        return tuple(class_names)
    names = require("open_clip", extra="clip").IMAGENET_CLASSNAMES
    name_of = dict(zip(imagenet_wnids(), names, strict=True))
    strange = [wnid for wnid in class_names if wnid not in name_of]
    if strange:
        raise FolderError(
            f"class {strange[0]} is not one of ImageNet-1k's: add a classnames.json "
            "{class folder: name} beside the folders train and val"
        )
    return tuple(name_of[wnid] for wnid in class_names)


def find_split_root(root: Path, split: str) -> Path:
    """The folder that has the split: the given one, or ImageNet's own folders below it."""
    candidates = [root, *(root / folder for folder in _OFFICIAL)]
    return next((folder for folder in candidates if (folder / split).is_dir()), root)


def check_class_folders(folder: Path) -> None:
    """Refuse a split whose images lie in no class folders, and say how to make them.

    Raises:
        FolderError: images directly in the folder, or a folder that cannot be read.
    """
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
