"""Small pictures for reports; what can no longer be read is left out."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress

import numpy as np
from PIL import Image

from radio_core.data.folder import FolderError
from radio_core.data.images import UnreadableImage, printable
from radio_eval.classification.blocks import Block, ClassificationSet, LabelledItem
from radio_eval.classification.tar_shards import TarShards
from radio_eval.report.html import Picture

SIDE = 144
"""Longer side of small pictures in pixels."""
_BLOCK = 2048


def thumbnail(image: Image.Image, side: int = SIDE) -> Picture:
    """An 8-bit RGB image as uint8 [H, W, 3] whose longer side is at most `side` pixels."""
    small = image.copy()
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    return np.asarray(small)


def read_thumbnails(
    data: ClassificationSet, names: Collection[str], side: int = SIDE
) -> dict[str, Picture]:
    """Small pictures of some images of a split.

    Args:
        data: the split.
        names: of images, as its blocks give them.
        side: most pixels of a longer side.

    Returns:
        Name -> picture, of those that can be read.
    """
    wanted, found = set(names), {}
    for block in _blocks(data, wanted):
        if not wanted:
            break
        for item in _items(block):
            if item.name not in wanted:
                continue
            wanted.discard(item.name)
            with suppress(UnreadableImage):
                found[item.name] = thumbnail(item.read(), side)
            if not wanted:
                break
    return found


def _blocks(data: ClassificationSet, names: Collection[str]) -> Sequence[Block]:
    """The blocks that may hold the names: of tar shards, which are large, those named in them."""
    blocks = data.blocks(_BLOCK)
    if not isinstance(data, TarShards):
        return blocks
    starts = [f"{printable(path)}/" for path in data.paths]
    return [
        block
        for block, start in zip(blocks, starts, strict=True)
        if any(name.startswith(start) for name in names)
    ]


def _items(block: Block) -> Iterator[LabelledItem]:
    """The items of a block, as far as it can be read."""
    try:
        yield from block
    except (UnreadableImage, FolderError):
        return
