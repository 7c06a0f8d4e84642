"""The order of samples: a pure function of (seed, position), every sample once an epoch."""

import pickle
from collections import Counter
from itertools import islice, pairwise

import numpy as np
import pytest
from PIL import Image

from radio_core.data import order
from radio_core.data.order import (
    BlockOrder,
    HugeOrder,
    MixtureOrder,
    PlainOrder,
    SampleOrder,
    order_of,
    scrambled,
)
from radio_core.data.sources import Mixture

BLOCKS = np.array([40, 1, 25, 33, 0, 60, 18, 40])
TOTAL = int(BLOCKS.sum())


class Source:
    """As many images as it is told, in blocks where they are given."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def read(self, index: int) -> Image.Image:
        return Image.new("RGB", (1, 1), (index, 0, 0))


class Blocks(Source):
    def block_lengths(self) -> np.ndarray:
        return BLOCKS


def sequence(samples: SampleOrder, first: int, last: int) -> list[int]:
    return [next(samples.indices(samples.view(position))) for position in range(first, last)]


ORDERS = {
    "plain": lambda: PlainOrder(TOTAL, 3),
    "huge": lambda: HugeOrder(TOTAL, 3),
    "blocks": lambda: BlockOrder(BLOCKS, 3, window=4),
    "one block": lambda: BlockOrder(np.array([TOTAL]), 3),
}


@pytest.mark.parametrize("name", ORDERS)
def test_every_epoch_shows_each_sample_once_in_an_order_of_its_own(name: str) -> None:
    samples = ORDERS[name]()
    epochs = [sequence(samples, epoch * TOTAL, (epoch + 1) * TOTAL) for epoch in range(3)]
    assert all(sorted(epoch) == list(range(TOTAL)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    views = [samples.view(position) for position in range(3 * TOTAL)]
    assert len(set(views)) == 3 * TOTAL


@pytest.mark.parametrize("name", [*ORDERS, "mixture"])
def test_a_position_is_the_same_whatever_was_asked_before(name: str) -> None:
    def make() -> SampleOrder:
        return ORDERS[name]() if name in ORDERS else order_of(mixture(), 3)

    wanted = sequence(make(), 0, 2 * TOTAL)
    jumping = make()
    for position in np.random.default_rng(0).permutation(2 * TOTAL).tolist():
        assert next(jumping.indices(jumping.view(position))) == wanted[position]
    sent = pickle.loads(pickle.dumps(jumping))  # as to a worker process
    assert sequence(sent, 0, 2 * TOTAL) == wanted


def test_the_plain_order_is_the_one_that_earlier_runs_had() -> None:
    samples, seed, count = PlainOrder(20, 7), 7, 20
    images = np.random.default_rng((seed, 6)).permutation(count)
    for epoch in range(3):
        views = np.random.default_rng((seed, 2, epoch)).permutation(count) + epoch * count
        for place, view in enumerate(views.tolist()):
            assert samples.view(epoch * count + place) == view
            turn = [int(images[(view + attempt) % count]) for attempt in range(count)]
            assert list(samples.indices(view)) == turn


def test_samples_come_from_a_moving_window_of_blocks() -> None:
    lengths, window = np.full(30, 50), 4
    samples = BlockOrder(lengths, 0, window)
    blocks = [index // 50 for index in sequence(samples, 0, 1500)]
    stages = [set(blocks[start : start + 50]) for start in range(0, 1500, 50)]
    assert all(len(stage) == window for stage in stages)
    assert all(len(one - other) == 1 for one, other in pairwise(stages))  # one leaves, one enters
    entered = [next(iter(other - one)) for one, other in pairwise(stages)]
    assert sorted(entered) != entered
    within = [index % 50 for index in sequence(samples, 0, 1500) if index // 50 == blocks[0]]
    assert within != sorted(within)


def test_replacements_follow_in_the_order_and_reach_every_sample() -> None:
    for samples in (make() for make in ORDERS.values()):
        tried = list(islice(samples.indices(samples.view(5)), TOTAL))
        assert len(set(tried)) > 0.6 * TOTAL
    whole = HugeOrder(TOTAL, 0)
    assert list(whole.indices(0)) == sequence(whole, 0, TOTAL)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 64, 65, 1000])
def test_scrambling_is_a_permutation_by_its_key(count: int) -> None:
    taken = [scrambled(place, count, 1, 2) for place in range(count)]
    assert sorted(taken) == list(range(count))
    if count >= 64:
        assert taken != [scrambled(place, count, 1, 3) for place in range(count)]
        correlation = np.corrcoef(np.arange(count), taken)[0, 1]
        assert abs(correlation) < 4 / count**0.5


def test_a_billion_samples_need_no_permutation() -> None:
    samples = order_of(Source(10**9), 0)
    assert isinstance(samples, HugeOrder)
    seen = sequence(samples, 10**12, 10**12 + 2000)
    assert len(set(seen)) == 2000
    assert np.mean(seen) == pytest.approx(5e8, rel=0.1)
    shards = BlockOrder(np.full(10**5, 10**4), 0)
    assert len(set(sequence(shards, 3 * 10**9 - 500, 3 * 10**9 + 500))) == 1000


def mixture() -> Mixture:
    return Mixture([Source(70), Blocks(TOTAL), Source(5)], [0.6, 0.35, 0.05])


def test_sources_are_mixed_by_their_weights_exactly() -> None:
    samples = order_of(mixture(), 0)
    assert isinstance(samples, MixtureOrder)
    turns = [samples.turn(position)[0] for position in range(40_000)]
    shares = np.array([0.6, 0.35, 0.05])
    for last, slack in ((500, 60), (4096, 2), (9 * 4096, 2)):  # exact at the end of each deal
        count = Counter(turns[:last])
        assert np.abs([count[number] for number in range(3)] - last * shares).max() <= slack
    assert len(set(turns[:60])) == 3
    gaps = np.diff([place for place, turn in enumerate(turns) if turn == 2])
    assert len(set(gaps.tolist())) > 10  # no fixed rhythm that batches could fall into


def test_each_source_of_a_mixture_has_its_own_epochs() -> None:
    source = mixture()
    indices = np.array(sequence(order_of(source, 0), 0, 8_000))
    for number, part in enumerate(source.sources):
        first, last = source.starts[number], source.starts[number + 1]
        own = indices[(indices >= first) & (indices < last)] - first
        epochs = [own[at : at + len(part)] for at in range(0, len(own), len(part))][:-1]
        assert len(epochs) >= 1
        assert all(sorted(epoch) == list(range(len(part))) for epoch in epochs)


def test_replacements_in_a_mixture_come_from_the_same_source() -> None:
    source, samples = mixture(), order_of(mixture(), 0)
    for view in range(50):
        number, _ = samples.turn(view)
        for index in islice(samples.indices(view), 5):
            assert source.starts[number] <= index < source.starts[number + 1]


@pytest.mark.parametrize("weights", [[1.0], [1.0, 0.0], [1.0, -1.0], [float("nan"), 1.0]])
def test_weights_that_do_not_fit_are_refused(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="one positive number for each of 2 sources"):
        Mixture([Source(3), Source(3)], weights)


def test_small_sources_keep_numpy_permutations(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(order_of(Source(100), 0), PlainOrder)
    assert isinstance(order_of(Blocks(TOTAL), 0), BlockOrder)
    monkeypatch.setattr(order, "HUGE", 100)
    assert isinstance(order_of(Source(100), 0), HugeOrder)
