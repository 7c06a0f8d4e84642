"""COCO's segmentations (polygons and run lengths, compressed or not) as masks, and back.

pycocotools reads all of them but checks nothing: a polygon with a NaN takes all memory, and run
lengths that do not fill the image give random pixels. So everything is checked here before.
"""

from collections.abc import Mapping
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from radio_core.extras import require

FARTHEST = 100_000
"""Pixels from the origin; pycocotools walks along a polygon's edges, so they must not be endless.
"""
Rle = dict[str, Any]
"""A mask as run lengths down the columns: "size" [height, width], and "counts", the lengths of
background and foreground in turn, compressed to ASCII."""


class BrokenMask(ValueError):
    """A segmentation that is no mask of its image; the message says why in a few words."""


def read_mask(segmentation: object, height: int, width: int) -> Rle:
    """A checked mask from what a COCO file has under "segmentation".

    Args:
        segmentation: a list of polygons [x0, y0, x1, y1, ...], {"size", "counts"} with a list of
            run lengths, or the same with a compressed string.
        height: of the image in pixels.
        width: of the image in pixels.

    Raises:
        BrokenMask: anything else, another size than the image's, or run lengths that do not fill
            the image. Polygons of fewer than three points have no area; they are ignored where
            there are others.
    """
    mask = require("pycocotools.mask", extra="eval")
    if not isinstance(segmentation, Mapping):
        polygons = _polygons(segmentation)
        return _readable(mask.merge(mask.frPyObjects(polygons, height, width)))
    counts, size = segmentation.get("counts"), [height, width]
    if segmentation.get("size") != size:
        raise BrokenMask(f"mask of size {segmentation.get('size')}, not {size}")
    if isinstance(counts, list):
        if not all(isinstance(count, int) and 0 <= count < 2**31 for count in counts):
            raise BrokenMask("run lengths that are no whole numbers")
        lengths = np.array(counts, dtype=np.int64)
    elif isinstance(counts, str) and counts.isascii():
        lengths = _uncompress(counts)
    else:
        raise BrokenMask("mask without run lengths")
    if lengths.size and lengths.min() < 0:
        raise BrokenMask("negative run lengths")
    if lengths.sum() != height * width:
        raise BrokenMask(
            f"run lengths of {lengths.sum()} pixels, but the image has {height * width}"
        )
    coded = {"size": size, "counts": counts}
    return _readable(mask.frPyObjects(coded, height, width) if isinstance(counts, list) else coded)


def decode_mask(rle: Rle) -> NDArray[np.bool_]:
    """The mask [H, W] of run lengths that `read_mask` or `radio_sam.objects.encode_mask` gave."""
    mask = require("pycocotools.mask", extra="eval")
    pixels: NDArray[np.bool_] = mask.decode(rle).astype(bool)
    return pixels


def is_number(value: object, limit: float = 1e30) -> TypeGuard[float]:
    """True for a number that is neither NaN nor beyond the limit on either side."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return abs(value) <= limit


def _readable(coded: Mapping[str, Any]) -> Rle:
    """pycocotools' dictionary with its counts as text, as JSON needs it."""
    counts = coded["counts"]
    text = counts.decode("ascii") if isinstance(counts, bytes) else str(counts)
    return {"size": [int(side) for side in coded["size"]], "counts": text}


def _polygons(segmentation: object) -> list[list[float]]:
    """The polygons that have an area."""
    if not isinstance(segmentation, list) or not segmentation:
        raise BrokenMask("no segmentation")
    for polygon in segmentation:
        if not isinstance(polygon, list) or not all(is_number(v, FARTHEST) for v in polygon):
            raise BrokenMask("polygon that is no list of finite numbers near its image")
        if len(polygon) % 2:
            raise BrokenMask("polygon of an odd number of coordinates")
    polygons = [polygon for polygon in segmentation if len(polygon) >= 6]
    if not polygons:
        raise BrokenMask("polygon of fewer than three points")
    return polygons


def _uncompress(text: str) -> NDArray[np.int64]:
    """COCO's compressed run lengths.

    Each character carries five bits (from code 48 on) and a sixth that says that the number goes
    on; the highest bit of its last five is the sign. From the fourth number on they are
    differences from the number two places before.
    """
    codes = np.frombuffer(text.encode("ascii"), dtype=np.uint8).astype(np.int64) - 48
    if not codes.size or codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        raise BrokenMask("compressed run lengths that end early or are none")
    last = np.flatnonzero((codes & 32) == 0)  # [numbers]
    first = np.concatenate(([0], last[:-1] + 1))
    digits = last - first + 1
    if digits.max() > 7:  # 35 bits; an image has fewer pixels
        raise BrokenMask("run lengths that are too large")
    place = np.arange(codes.size) - np.repeat(first, digits)
    lengths = np.add.reduceat((codes & 31) << (5 * place), first)
    lengths -= np.where(codes[last] & 16, 1 << (5 * digits), 0)
    lengths[1::2] = np.cumsum(lengths[1::2])
    lengths[2::2] = np.cumsum(lengths[2::2])
    return lengths
