"""Views: random crops of the training images, shared by the student and all teachers."""

import signal
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from radio_core.data.folder import ImageFiles
from radio_core.data.images import ImageSource, UnreadableImage
from radio_core.data.toyworld import ToyWorldImages
from radio_core.data.transforms import apply_crop, sample_crop
from radio_core.distill.schedule import Step

Skipped = tuple[str, str]
TOYWORLD = "toyworld"


def open_source(data: str, scenes: int) -> ImageSource:
    """The images of a run: "toyworld" (`scenes` of them), or every image under a folder.

    Raises:
        ValueError: the folder is missing, unreadable or holds no readable image.
    """
    return ToyWorldImages(scenes) if data == TOYWORLD else ImageFiles(data)


@dataclass(frozen=True)
class ViewBatch:
    """A batch as the data loader gives it.

    Attributes:
        step: the step that it belongs to.
        images: [B, 3, S, S] uint8, RGB.
        skipped: (path, reason) of unreadable files whose place others took.
    """

    step: Step
    images: Tensor
    skipped: list[Skipped]


class Views(Dataset[tuple[Tensor, list[Skipped]]]):
    """View v of size S: a crop by (seed, v) of image v mod N, as [3, S, S] uint8.

    The images are counted in a fixed random order, because folders are often sorted by class and
    the first views serve as a sample of all. An unreadable image is replaced by the next readable
    one, so that every view exists and a view is always the same.
    """

    def __init__(self, source: ImageSource, crop_scale: tuple[float, float], seed: int) -> None:
        self.source = source
        self.crop_scale = crop_scale
        self.seed = seed
        self._order = np.random.default_rng((seed, 6)).permutation(len(source))

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, list[Skipped]]:
        """The view for the key (view id, size), and which files were skipped on the way."""
        view, size = key
        skipped: list[Skipped] = []
        for attempt in range(len(self.source)):
            index = int(self._order[(view + attempt) % len(self.source)])
            try:
                image = self._read(index)
            except UnreadableImage as error:
                skipped.append((str(error.path), error.reason))
                continue
            rng = np.random.default_rng((self.seed, 4, view))
            crop = sample_crop(image.height, image.width, self.crop_scale, generator=rng)
            pixels = apply_crop(image, crop, size)
            return (pixels * 255).round().clamp(0, 255).byte(), skipped
        raise ValueError("no image of the training data can be read any more")

    def _read(self, index: int):  # type: ignore[no-untyped-def]
        # A folder's own record of skipped files would stay in a worker process: read() hands the
        # error back instead.
        if isinstance(self.source, ImageFiles):
            return self.source.read(index)
        return self.source.load(index)


def view_loader(
    views: Views, steps: Iterator[tuple[Step, int]], workers: int
) -> Iterator[ViewBatch]:
    """Batches for (step, size) pairs, in order, read by `workers` processes ahead of time."""
    under_way: deque[Step] = deque()

    def keys() -> Iterator[list[tuple[int, int]]]:
        for step, size in steps:
            under_way.append(step)
            yield [(view, size) for view in step.views]

    loader = DataLoader(
        views,
        batch_sampler=keys(),
        num_workers=workers,
        collate_fn=_collate,
        worker_init_fn=_ignore_interrupts,
    )
    for images, skipped in loader:
        yield ViewBatch(under_way.popleft(), images, skipped)


def to_unit(images: Tensor, size: int | None = None) -> Tensor:
    """uint8 [B, 3, S, S] to float32 in [0, 1], resized (bilinear, antialiased) to `size`."""
    unit = images.float() / 255
    if size is None or images.shape[-1] == size:
        return unit
    return F.interpolate(
        unit, size=(size, size), mode="bilinear", align_corners=False, antialias=True
    ).clamp(0, 1)


def data_identity(data: str, source: ImageSource) -> str:
    """A string that changes when the training images do: part of a cache's key."""
    if not isinstance(source, ImageFiles):
        return f"{TOYWORLD}:{len(source)}"
    sizes = [(source.relative_path(i), source.path(i).stat().st_size) for i in range(len(source))]
    return f"{Path(data).resolve()}:{sizes}"


def _ignore_interrupts(_worker: int) -> None:
    """Ctrl-C reaches every process; only the main one decides when to stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _collate(items: list[tuple[Tensor, list[Skipped]]]) -> tuple[Tensor, list[Skipped]]:
    images = torch.stack([image for image, _ in items])
    return images, [entry for _, skipped in items for entry in skipped]
