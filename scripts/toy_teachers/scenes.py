"""Rendered toy scenes as arrays, the training set of the toy teachers.

python -m scripts.toy_teachers.scenes --count 40000 --out runs/scenes
"""

import argparse
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from radio_core.data.toyworld import COLOURS, SCENE_SIZE, SHAPES, TEXTURES, render_scene

MAX_OBJECTS = 4
_CHUNK = 500
_FILES = ("images", "owners", "kinds")


@dataclass(frozen=True)
class Scenes:
    """N scenes as memory-mapped arrays.

    Attributes:
        images: [N, 128, 128, 3] uint8.
        owners: [N, 128, 128] int8, number of the visible object, -1 for background.
        kinds: [N, 4, 3] int8: shape, colour and texture of every object, -1 where absent.
    """

    images: NDArray[np.uint8]
    owners: NDArray[np.int8]
    kinds: NDArray[np.int8]

    @classmethod
    def load(cls, folder: Path) -> "Scenes":
        """Open the arrays that `main` wrote."""
        return cls(*(np.load(folder / f"{name}.npy", mmap_mode="r") for name in _FILES))


@dataclass(frozen=True)
class Batch:
    """One training batch.

    Attributes:
        images: [B, 3, S, S] float32 in [0, 1].
        owners: [B, S, S] int64, as `Scenes.owners`.
        kinds: [B, 4, 3] int64, as `Scenes.kinds`.
    """

    images: Tensor
    owners: Tensor
    kinds: Tensor


def batches(
    scenes: Scenes, size: int, batch_size: int, steps: int, seed: int, crop: float
) -> Iterator[Batch]:
    """Random batches: one random square crop (side >= `crop` of the image) and flip for each."""
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        index = np.sort(rng.choice(len(scenes.images), batch_size, replace=False))
        side = round(SCENE_SIZE * float(rng.uniform(crop, 1)))
        top, left = rng.integers(0, SCENE_SIZE - side + 1, 2)
        window = (index, slice(top, top + side), slice(left, left + side))
        images = torch.from_numpy(scenes.images[window]).permute(0, 3, 1, 2).float() / 255
        owners = torch.from_numpy(scenes.owners[window]).long()
        images = torch.nn.functional.interpolate(
            images, size=(size, size), mode="bilinear", antialias=True, align_corners=False
        )
        rows = ((torch.arange(size) + 0.5) * side / size).long()
        owners = owners[:, rows][:, :, rows]
        if rng.random() < 0.5:
            images, owners = images.flip(-1), owners.flip(-1)
        yield Batch(images, owners, torch.from_numpy(scenes.kinds[index]).long())


def _render(first: int) -> tuple[NDArray[np.uint8], NDArray[np.int8], NDArray[np.int8]]:
    images = np.empty((_CHUNK, SCENE_SIZE, SCENE_SIZE, 3), np.uint8)
    owners = np.full((_CHUNK, SCENE_SIZE, SCENE_SIZE), -1, np.int8)
    kinds = np.full((_CHUNK, MAX_OBJECTS, 3), -1, np.int8)
    colours = list(COLOURS)
    for row in range(_CHUNK):
        scene = render_scene(0, first + row)
        images[row] = scene.image
        for number, thing in enumerate(scene.objects):
            owners[row][thing.mask] = number
            kinds[row, number] = (
                SHAPES.index(thing.shape),
                colours.index(thing.colour),
                TEXTURES.index(thing.texture),
            )
    return images, owners, kinds


def main() -> None:
    """Render the scenes on all cores and write them as .npy files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=40_000)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    count = options.count // _CHUNK * _CHUNK
    shapes = ((SCENE_SIZE, SCENE_SIZE, 3), (SCENE_SIZE, SCENE_SIZE), (MAX_OBJECTS, 3))
    arrays = [
        np.lib.format.open_memmap(
            options.out / f"{name}.npy",
            "w+",
            np.uint8 if name == "images" else np.int8,
            (count, *shape),
        )
        for name, shape in zip(_FILES, shapes, strict=True)
    ]
    firsts = range(0, count, _CHUNK)
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for first, parts in zip(firsts, pool.map(_render, firsts), strict=True):
            for array, part in zip(arrays, parts, strict=True):
                array[first : first + _CHUNK] = part


if __name__ == "__main__":
    main()
