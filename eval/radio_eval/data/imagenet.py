"""What is known of ImageNet-1k: its WordNet ids and the names that people give its classes."""

import re
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from radio_core.data.folder import FolderError
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
