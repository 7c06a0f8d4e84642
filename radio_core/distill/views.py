"""Views: random crops of the training images, shared by the student and all teachers."""

import signal
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import torch
import torch.nn.functional as F
from rich.console import Console
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from radio_core.data.images import UnreadableImage
from radio_core.data.order import order_of
from radio_core.data.sources import ImageSource, RemoteSource, open_source
from radio_core.data.storage import GIGABYTE, Storage, cache_folder
from radio_core.data.transforms import apply_crop, sample_crop
from radio_core.distill.config import DataConfig
from radio_core.distill.groups import Size
from radio_core.distill.schedule import BatchPlan
from radio_core.progress import rich_progress
from radio_core.streams import Stream

Skipped = tuple[str, str]
"""(path, reason) of an unreadable file."""
ViewKey = tuple[int, Size]
"""(view id, (height, width))."""
RATIO = (3 / 4, 4 / 3)
"""Lowest and highest aspect ratio of a crop, relative to that of the view."""
MOST_ATTEMPTS = 1000
"""Unreadable images in a row after which the data counts as lost."""

_AHEAD = 8192  # views ahead of their turn that remote shards are fetched, while others are read


@dataclass(frozen=True)
class Batch:
    """A batch as the data loader gives it.

    Attributes:
        plan: what it is a batch of.
        images: [B, 3, H, W] uint8, RGB.
        skipped: unreadable files whose place others took.
    """

    plan: BatchPlan
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
        self.source, self.crop_scale, self.seed = source, crop_scale, seed
        self.order = order_of(source, seed)

    def __getitem__(self, key: ViewKey) -> tuple[Tensor, list[Skipped]]:
        """The view for a key, and which files were skipped on the way."""
        view, (height, width) = key
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

    def loader(self, plans: Iterator[tuple[BatchPlan, Size]], workers: int) -> Iterator[Batch]:
        """Batches of views of these sizes, in order, read by `workers` processes ahead of time."""
        under_way: deque[BatchPlan] = deque()

        def keys() -> Iterator[list[ViewKey]]:
            for plan, size in plans:
                under_way.append(plan)
                yield [(view, size) for view in plan.views]

        for images, skipped in self.read(keys(), workers):
            yield Batch(under_way.popleft(), images, skipped)

    def read(
        self, keys: Iterable[list[ViewKey]], workers: int
    ) -> Iterator[tuple[Tensor, list[Skipped]]]:
        """Batches [B, 3, H, W] of the views of these keys, and the files skipped for them."""
        yield from DataLoader(
            self,
            batch_sampler=keys,
            num_workers=workers,
            collate_fn=_collate,
            worker_init_fn=_ignore_interrupts,
        )


def open_views(config: DataConfig, seed: int, console: Console) -> Views:
    """Open the images of a run; tells of kept indexes, and of long listings how far they are.

    Raises:
        ValueError: as `radio_core.data.sources.open_source`.
    """
    with rich_progress(console) as progress:
        storage = Storage(
            config.cache or cache_folder(),
            int(config.cache_gb * GIGABYTE),
            config.refresh_index,
            lambda message: console.print(message, markup=False, highlight=False),
            progress,
        )
        source = open_source(config.sources, config.weights, scenes=config.scenes, storage=storage)
    return Views(source, config.crop_scale, seed)


def to_unit(images: Tensor, size: Size | None = None) -> Tensor:
    """uint8 [B, 3, H, W] to float32 in [0, 1], resized (bilinear, antialiased) to `size`."""
    unit = images.float() / 255
    if size is None or images.shape[-2:] == size:
        return unit
    return F.interpolate(
        unit, size=size, mode="bilinear", align_corners=False, antialias=True
    ).clamp(0, 1)


def _ignore_interrupts(_worker: int) -> None:
    """Ctrl-C and SIGTERM may reach every process; only the main one decides when to stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _collate(items: list[tuple[Tensor, list[Skipped]]]) -> tuple[Tensor, list[Skipped]]:
    images = torch.stack([image for image, _ in items])
    return images, [entry for _, skipped in items for entry in skipped]
