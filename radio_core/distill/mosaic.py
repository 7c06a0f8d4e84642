"""Mosaics: several images side by side in one input of a high-resolution teacher.

The student sees the images one by one at a low resolution; the teacher's feature map is cut into
the tiles again (RADIOv2.5). One pass of the teacher so serves k x k images.
"""

from torch import Tensor

from radio_core.distill.shapes import Size
from radio_core.distill.views import to_unit
from radio_core.teachers import Teacher
from radio_core.vision import Output


def run_teacher(teacher: Teacher, views: Tensor, size: Size, side: int = 1) -> Output:
    """A teacher's answer on each of a batch of views.

    Args:
        teacher: on the views' device.
        views: [B, 3, H, W] uint8, RGB; B a multiple of side**2.
        size: (height, width) in pixels of the teacher's input.
        side: k for mosaics of k x k views in one input; 1 for one view an input.

    Returns:
        Summary [B, D] (None for mosaics, whose summary is that of no view) and features
        [B, F, h, w], for mosaics those of the view's tile.
    """
    if side == 1:
        whole: Output = teacher(to_unit(views), size)
        return whole
    height, width = size
    tiles = to_unit(views, (height // side, width // side))
    return Output(None, cut(teacher(tile(tiles, side), size).features, side))


def tile(images: Tensor, side: int) -> Tensor:
    """Put side x side consecutive images into one picture, row by row.

    Args:
        images: [B, C, h, w], B a multiple of side**2.
        side: k, tiles along each edge of a picture.

    Returns:
        [B / k**2, C, k * h, k * w].

    Raises:
        ValueError: B is not a multiple of side**2.
    """
    if len(images) % side**2:
        raise ValueError(
            f"{len(images)} images do not fill mosaics of {side} x {side}: the batch size must be "
            f"a multiple of {side**2}"
        )
    tiles = images.unflatten(0, (-1, side, side))  # [P, k, k, C, h, w]
    pictures: Tensor = tiles.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)
    return pictures


def cut(features: Tensor, side: int) -> Tensor:
    """The tiles of the feature maps of mosaics, in the order of the images; inverse of `tile`.

    Args:
        features: [P, F, k * h, k * w].
        side: k.

    Returns:
        [P * k**2, F, h, w].

    Raises:
        ValueError: the map's sides are no multiples of k.
    """
    rows, cols = features.shape[-2:]
    if rows % side or cols % side:
        raise ValueError(f"a map of {rows} x {cols} cells cannot be cut into {side} x {side} tiles")
    grid = features.unflatten(3, (side, -1)).unflatten(2, (side, -1))  # [P, F, k, h, k, w]
    tiles: Tensor = grid.permute(0, 2, 4, 1, 3, 5).flatten(0, 2)
    return tiles
