"""What readers of evaluation data share: label of ignored pixels, states of files, kept images."""

import os
from pathlib import Path

import numpy as np
from PIL import Image

from radio_core.data.images import UnreadableImage
from radio_core.data.sources import ImageSource

IGNORED = 255
"""Label of pixels that count nowhere."""


def file_stamp(path: Path) -> bytes:
    """Size and time of change of a file, which tell it from a later version; empty without file."""
    try:
        status = os.stat(path)
    except OSError:
        return b""
    return b"%d %d" % (status.st_size, status.st_mtime_ns)


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
