"""Views: random crops of the training images, shared by the student and all teachers."""

import signal
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from radio_core.data.images import UnreadableImage
from radio_core.data.order import order_of
from radio_core.data.sources import ImageSource, RemoteSource
from radio_core.data.transforms import apply_crop, sample_crop
from radio_core.distill.schedule import Step
from radio_core.streams import Stream

Skipped = tuple[str, str]
ViewSize = int | tuple[int, int]
"""Pixels: the side of a square, or (height, width)."""
ViewKey = tuple[int, ViewSize]
"""(view id, size)."""
RATIO = (3 / 4, 4 / 3)
"""Lowest and highest aspect ratio of a crop, relative to that of the view."""
MOST_ATTEMPTS = 1000
"""Unreadable images in a row after which the data counts as lost."""

_AHEAD = 8192  # views ahead of their turn that remote shards are fetched, while others are read


@dataclass(frozen=True)
class ViewBatch:
    """A batch as the data loader gives it.

    Attributes:
        step: the step that it belongs to.
        images: [B, 3, H, W] uint8, RGB.
        skipped: (path, reason) of unreadable files whose place others took.
    """

    step: Step
    images: Tensor
    skipped: list[Skipped]


class Views(Dataset[tuple[Tensor, list[Skipped]]]):
    """View v of size H x W: a crop by (seed, v) of an image, as [3, H, W] uint8.

    Which image that is follows from the order of the samples (`radio_core.data.order`). A crop's
    aspect ratio is random around that of H x W. An unreadable image is replaced by the next
    readable one of that order, so that every view exists and a view is always the same.

    Args:
        source: of the images.
        crop_scale: smallest and largest share of an image's area in a crop.
        seed: of the order and the crops.

    Attributes:
        order: of the samples.
    """

    def __init__(self, source: ImageSource, crop_scale: tuple[float, float], seed: int) -> None:
        self.source = source
        self.crop_scale = crop_scale
        self.seed = seed
        self.order = order_of(source, seed)

    def __getitem__(self, key: ViewKey) -> tuple[Tensor, list[Skipped]]:
        """The view for a key, and which files were skipped on the way."""
        view, size = key
        height, width = (size, size) if isinstance(size, int) else size
        ratio = (RATIO[0] * width / height, RATIO[1] * width / height)
        skipped: list[Skipped] = []
        for index in islice(self.order.indices(view), MOST_ATTEMPTS):
            try:
                image = self.source.read(index)
            except UnreadableImage as error:
                skipped.append((error.name, error.reason))
                continue
            if isinstance(self.source, RemoteSource) and self.source.is_remote:
                self.source.prefetch(next(self.order.indices(view + _AHEAD)))
            rng = Stream.CROP.rng(self.seed, view)
            crop = sample_crop(image.height, image.width, self.crop_scale, ratio, generator=rng)
            return apply_crop(image, crop, (height, width)), skipped
        name, reason = skipped[-1]
        raise ValueError(
            f"no image of the training data can be read any more; the last one: {name}: {reason}"
        )


def view_loader(
    views: Views, steps: Iterator[tuple[Step, ViewSize]], workers: int
) -> Iterator[ViewBatch]:
    """Batches for (step, size) pairs, in order, read by `workers` processes ahead of time."""
    under_way: deque[Step] = deque()

    def keys() -> Iterator[list[ViewKey]]:
        for step, size in steps:
            under_way.append(step)
            yield [(view, size) for view in step.views]

    loader = DataLoader(
        views,
        batch_sampler=keys(),
        num_workers=workers,
        collate_fn=_collate,
        worker_init_fn=ignore_interrupts,
    )
    for images, skipped in loader:
        yield ViewBatch(under_way.popleft(), images, skipped)


def to_unit(images: Tensor, size: ViewSize | None = None) -> Tensor:
    """uint8 [B, 3, H, W] to float32 in [0, 1], resized (bilinear, antialiased) to `size`."""
    unit = images.float() / 255
    wanted = (size, size) if isinstance(size, int) else size
    if wanted is None or images.shape[-2:] == wanted:
        return unit
    return F.interpolate(
        unit, size=wanted, mode="bilinear", align_corners=False, antialias=True
    ).clamp(0, 1)


def ignore_interrupts(_worker: int) -> None:
    """Ctrl-C and SIGTERM may reach every process; only the main one decides when to stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _collate(items: list[tuple[Tensor, list[Skipped]]]) -> tuple[Tensor, list[Skipped]]:
    images = torch.stack([image for image, _ in items])
    return images, [entry for _, skipped in items for entry in skipped]
