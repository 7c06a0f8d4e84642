"""The order of the samples: which image comes at which place of a sequence without end.

Everything is a pure function of (seed, position), so a resumed run goes on exactly where it was,
whatever the number of worker processes. A position names a view (a number that also seeds the
random crop), and a view names an image:

- small sources: every epoch has its own permutation of all images;
- huge sources: the same, by a permutation that is computed place by place in O(1) memory;
- sources in blocks (shards): `BlockOrder` shuffles the blocks, then samples in a moving window;
- mixtures: `MixtureOrder` deals the positions out, each source goes through its own epochs.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from typing import TypeVar

import numpy as np

from radio_core.data.sources import BlockSource, ImageSource, Mixture
from radio_core.streams import Stream

WINDOW_BLOCKS = 16
"""Blocks that samples are drawn from at a time."""

HUGE = 2**22
"""Images from which on the order of an epoch is computed place by place."""

_DEAL = 4096  # positions that a mixture deals out at a time
_UNIT = 2**32  # shares of a mixture are rounded to this part
K = TypeVar("K")
V = TypeVar("V")


class SampleOrder:
    """Base class: a sequence of images without end."""

    def view(self, position: int) -> int:
        """The view at a position: another one at every position, of any size."""
        return position

    def indices(self, view: int) -> Iterator[int]:
        """The index of a view's image in the source, then those that may take its place."""
        raise NotImplementedError


def order_of(source: ImageSource, seed: int) -> SampleOrder:
    """The order that suits a source."""
    if isinstance(source, Mixture):
        seeds = [Stream.MIXED_SOURCES.number(seed, number) for number in range(len(source.sources))]
        orders = [order_of(*pair) for pair in zip(source.sources, seeds, strict=True)]
        return MixtureOrder(orders, source.starts[:-1], source.shares, seed)
    if isinstance(source, BlockSource):
        return BlockOrder(source.block_lengths(), seed)
    return PlainOrder(len(source), seed) if len(source) < HUGE else HugeOrder(len(source), seed)


class EpochShuffle:
    """A permutation of range(count) for every epoch, by (seed, epoch)."""

    def __init__(self, count: int, seed: int) -> None:
        self.count, self.seed = count, seed
        self._permutations: dict[int, np.ndarray] = {}

    def __call__(self, epoch: int, place: int) -> int:
        """Where the epoch's permutation takes a place."""
        permutation = remember(
            self._permutations,
            epoch,
            lambda: Stream.VIEWS.rng(self.seed, epoch).permutation(self.count),
            keep=2,
        )
        return int(permutation[place])


class PlainOrder(SampleOrder):
    """Images in a fixed random order are the first views; every epoch visits new views of them.

    The first views so are a sample of a source that is sorted by class.
    """

    def __init__(self, count: int, seed: int) -> None:
        self.count = count
        self._images = Stream.IMAGES.rng(seed).permutation(count)
        self._shuffle = EpochShuffle(count, seed)

    def view(self, position: int) -> int:
        """See `SampleOrder`."""
        epoch, place = divmod(position, self.count)
        return epoch * self.count + self._shuffle(epoch, place)

    def indices(self, view: int) -> Iterator[int]:
        """See `SampleOrder`: all images, each once."""
        for attempt in range(self.count):
            yield int(self._images[(view + attempt) % self.count])


class HugeOrder(SampleOrder):
    """As `PlainOrder`, with views in the order of positions, and nothing kept in memory."""

    def __init__(self, count: int, seed: int) -> None:
        self.count, self.seed = count, seed

    def indices(self, view: int) -> Iterator[int]:
        """See `SampleOrder`."""
        for position in range(view, view + self.count):
            epoch, place = divmod(position, self.count)
            yield scrambled(place, self.count, self.seed, Stream.HUGE, epoch)


class BlockOrder(SampleOrder):
    """Blocks in random order, and samples from a moving window of `window` blocks.

    The blocks of an epoch are shuffled into a ring. Each block's samples are shuffled and cut
    into `window` parts. At stage t of the epoch the first part of block t, the second part of
    block t - 1, and so on are shuffled together: so the next block enters the window at every
    stage and the oldest leaves it. An epoch shows every sample once and has as many stages as
    blocks. Besides the blocks' numbers, memory holds the permutations of those in the window.
    """

    def __init__(self, lengths: np.ndarray, seed: int, window: int = WINDOW_BLOCKS) -> None:
        self.lengths = np.asarray(lengths, dtype=np.int64)
        self.count = int(self.lengths.sum())
        self.seed, self.window = seed, min(window, len(self.lengths))
        self._starts = np.concatenate([[0], np.cumsum(self.lengths)])
        self._epochs: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._stages: dict[tuple[int, int], np.ndarray] = {}
        self._blocks: dict[tuple[int, int], np.ndarray] = {}

    def indices(self, view: int) -> Iterator[int]:
        """See `SampleOrder`: those that follow in the sequence take an image's place."""
        for position in range(view, view + self.count):
            yield self._index(*divmod(position, self.count))

    def _index(self, epoch: int, place: int) -> int:
        ring, ends = remember(self._epochs, epoch, lambda: self._plan(epoch), keep=2)
        stage = int(np.searchsorted(ends, place, "right"))
        start = int(ends[stage - 1]) if stage else 0
        size = int(ends[stage]) - start
        make = partial(self._permutation, size, Stream.STAGES, epoch, stage)
        place = int(remember(self._stages, (epoch, stage), make, keep=4)[place - start])
        for part in range(self.window):
            block = int(ring[stage - part])  # negative places count from the ring's end
            length = int(self.lengths[block])
            first, last = length * part // self.window, length * (part + 1) // self.window
            if place < last - first:
                make = partial(self._permutation, length, Stream.BLOCK_SAMPLES, epoch, block)
                samples = remember(self._blocks, (epoch, block), make, keep=4 * self.window)
                return int(self._starts[block]) + int(samples[first + place])
            place -= last - first
        raise AssertionError("a place beyond the end of its stage")

    def _plan(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The ring of blocks, and where each stage of an epoch ends."""
        ring = self._permutation(len(self.lengths), Stream.BLOCKS, epoch)
        lengths, sizes = self.lengths[ring], np.zeros(len(ring), dtype=np.int64)
        for part in range(self.window):
            first, last = lengths * part // self.window, lengths * (part + 1) // self.window
            sizes += np.roll(last - first, part)
        return ring, np.cumsum(sizes)

    def _permutation(self, count: int, stream: Stream, *where: int) -> np.ndarray:
        return stream.rng(self.seed, *where).permutation(count)


class MixtureOrder(SampleOrder):
    """Positions dealt out to several orders by their shares.

    The counts are exact, not drawn: of the first n positions each source has its share, off by
    less than a few samples; within every 4096 positions the sources alternate at random. A
    source's samples come in its own order, with its own epochs.
    """

    def __init__(
        self,
        orders: Sequence[SampleOrder],
        starts: Sequence[int],
        shares: Sequence[float],
        seed: int,
    ) -> None:
        self.orders, self.starts, self.seed = tuple(orders), tuple(starts), seed
        # A source is split off at a time: its share of what the sources before it left.
        left = [sum(shares[number:]) for number in range(len(shares))]
        pairs = zip(shares, left, strict=True)
        self._splits = [round(_UNIT * share / rest) for share, rest in pairs]
        self._deals: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def indices(self, view: int) -> Iterator[int]:
        """See `SampleOrder`: images of the same source take an image's place."""
        number, place = self.turn(view)
        order = self.orders[number]
        for index in order.indices(order.view(place)):
            yield self.starts[number] + index

    def turn(self, position: int) -> tuple[int, int]:
        """Whose turn it is at a position, and how many turns that source had before."""
        deal, place = divmod(position, _DEAL)
        sources, turns = remember(self._deals, deal, lambda: self._deal(deal), keep=4)
        return int(sources[place]), int(turns[place])

    def _deal(self, deal: int) -> tuple[np.ndarray, np.ndarray]:
        """For the positions of a deal: the source, and its earlier turns. int64 [4096] each."""
        sources, turns = np.zeros((2, _DEAL), dtype=np.int64)
        rest, first = Stream.DEALS.rng(self.seed, deal).permutation(_DEAL), deal * _DEAL
        for number, split in enumerate(self._splits):
            # Of n positions, floor(n * split) go to this source: whole-number arithmetic.
            before, fraction = divmod(first * split, _UNIT)
            taken = np.diff((fraction + np.arange(len(rest) + 1) * split) // _UNIT).astype(bool)
            mine = np.sort(rest[taken])
            sources[mine], turns[mine] = number, before + np.arange(len(mine))
            rest, first = rest[~taken], first - before
        return sources, turns


def scrambled(place: int, count: int, *key: int) -> int:
    """Where a pseudo-random permutation of range(count), chosen by `key`, takes a place.

    A four-round Feistel network over the next even power of two; results beyond the range are
    taken through it again, which keeps it a permutation.
    """
    half = (max(count - 1, 1).bit_length() + 1) // 2
    mask = 2**half - 1
    while True:
        left, right = place >> half, place & mask
        for round_key in _round_keys(key):
            left, right = right, left ^ (_mix(right ^ round_key) & mask)
        place = left << half | right
        if place < count:
            return place


@lru_cache(maxsize=256)
def _round_keys(key: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(np.random.SeedSequence(key).generate_state(4, np.uint64).tolist())


def _mix(value: int) -> int:
    """The finalizer of SplitMix64: every bit of the result depends on all bits of the value."""
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 & (2**64 - 1)
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB & (2**64 - 1)
    return value ^ (value >> 31)


def remember(cache: dict[K, V], key: K, make: Callable[[], V], keep: int) -> V:
    """cache[key], made if it is missing; the oldest entries go when there are more than `keep`."""
    if key not in cache:
        while len(cache) >= keep:
            del cache[next(iter(cache))]
        cache[key] = make()
    return cache[key]
