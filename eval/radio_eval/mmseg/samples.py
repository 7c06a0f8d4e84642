"""Samples of the linear probe, read and augmented in worker processes, in a fixed order.

Sample number n is the same in every run of one seed, whoever reads it: its image follows from the
seed's order of the images, its augmentation from the seed and n. So a run that goes on later, and
one that several processes share, sees what an uninterrupted single one sees.
"""

import itertools
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from radio_core.data.folder import FolderError
from radio_core.data.images import UnreadableImage
from radio_eval.data.preprocess import Preprocess
from radio_eval.data.segmentation import SegmentationImages
from radio_eval.mmseg.protocol import LinearSegParameters
from radio_eval.mmseg.transforms import augment, rescaled_size, resize_image

Problem = tuple[str, str]
"""A file that could not be read, and why."""
Transform = Callable[[Image.Image, Tensor, int], tuple[Tensor, Tensor]]
"""(8-bit RGB, label map [H, W], sample number) -> (image [3, h, w], label map [H, W] uint8)."""


class Key(NamedTuple):
    """Which image is wanted for which sample."""

    sample: int
    image: int


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What a worker hands over.

    Attributes:
        index: number of the image.
        pair: image [3, h, w], float32 in [0, 1] or uint8, and label map [H, W] uint8; None if
            there is none.
        problems: the files that could not be read on the way.
        error: a mistake in the data set that ends the run.
    """

    index: int
    pair: tuple[Tensor, Tensor] | None = None
    problems: tuple[Problem, ...] = ()
    error: FolderError | None = None


class SampleReader(Dataset[Sample]):
    """Reads and transforms images by `Key`; with `replace` the next image takes the place of an
    unreadable one, as a train batch needs."""

    def __init__(self, data: SegmentationImages, transform: Transform, *, replace: bool) -> None:
        self._data = data
        self._transform = transform
        self._tries = len(data) if replace else 1

    def __getitem__(self, key: Key) -> Sample:
        """The sample; errors are handed over too, for in a worker nobody would see them."""
        problems = []
        for offset in range(self._tries):
            index = (key.image + offset) % len(self._data)
            try:
                pair = self._transform(*self._data.read(index), key.sample)
            except FolderError as error:
                return Sample(index=index, error=error)
            except UnreadableImage as error:
                problems.append((str(error.path), error.reason))
            else:
                return Sample(index=index, pair=pair, problems=tuple(problems))
        return Sample(index=key.image, problems=tuple(problems))


def random_crop(
    parameters: LinearSegParameters, image: Image.Image, label: Tensor, sample: int
) -> tuple[Tensor, Tensor]:
    """A random train sample [3, crop, crop] uint8, [crop, crop] uint8; see `augment`."""
    p = parameters
    assert p.scale is not None
    assert p.crop is not None
    assert p.augmentation is not None
    rng = np.random.default_rng((p.seed, sample))
    return augment(
        pixels(image), label, scale=p.scale, crop=p.crop, augmentation=p.augmentation, rng=rng
    )


def whole_image(
    scale: tuple[int, int] | None,
    preprocess: Preprocess,
    image: Image.Image,
    label: Tensor,
    sample: int,
) -> tuple[Tensor, Tensor]:
    """An image as the test sees it: uint8 at the protocol's scale, or float32 at the model's own
    size if there is none; and the label map as it is."""
    if scale is None:
        return preprocess.whole(image), label
    size = rescaled_size(image.height, image.width, scale)
    return resize_image(pixels(image), size), label


def pixels(image: Image.Image) -> Tensor:
    """8-bit RGB -> [3, H, W] uint8."""
    return torch.from_numpy(np.array(image, dtype=np.uint8)).permute(2, 0, 1).contiguous()


def to_unit(images: Tensor) -> Tensor:
    """uint8 or float32 in [0, 1] -> float32 in [0, 1]."""
    return images.float() / 255 if images.dtype == torch.uint8 else images


def image_order(count: int, seed: int) -> Iterator[int]:
    """Image numbers without end: every image once in random order, then again in another."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield from torch.randperm(count, generator=generator).tolist()


def chunk_bounds(batch_size: int, images_per_forward: int) -> list[tuple[int, int]]:
    """How a batch is cut for the backbone: first and last (excluded) place of each chunk.

    It depends on nothing else, so that all bits of a result are the same however many processes
    share the chunks.
    """
    starts = range(0, batch_size, images_per_forward)
    return [(start, min(start + images_per_forward, batch_size)) for start in starts]


def train_keys(
    count: int, parameters: LinearSegParameters, first_step: int, chunks: Sequence[int]
) -> Iterator[list[Key]]:
    """The keys of the wanted chunks of every step, from `first_step` on, of `count` images."""
    p = parameters
    bounds = chunk_bounds(p.batch_size, p.images_per_forward)
    order = itertools.islice(image_order(count, p.seed), first_step * p.batch_size, None)
    for step in range(first_step, p.iterations):
        keys = [Key(step * p.batch_size + place, next(order)) for place in range(p.batch_size)]
        for chunk in chunks:
            start, end = bounds[chunk]
            yield keys[start:end]


def sample_loader(
    reader: SampleReader, keys: Iterator[list[Key]], workers: int
) -> Iterator[list[Sample]]:
    """Lists of samples for lists of keys, in order, read by `workers` processes ahead of time.

    Raises:
        FolderError: a mistake in the data set; the message names the file.
    """
    loader = DataLoader(
        reader,
        batch_sampler=keys,
        num_workers=workers,
        collate_fn=list,
        worker_init_fn=_ignore_interrupts,
    )
    for samples in loader:
        for sample in samples:
            if sample.error is not None:
                raise sample.error
        yield samples


def _ignore_interrupts(_worker: int) -> None:
    # Ctrl-C reaches every process; only the main one decides when to stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
