"""What happens at which step: a function of config, seed and step alone."""

import math
from collections import Counter

import pytest

from radio_core.data.order import PlainOrder
from radio_core.distill.config import GroupConfig, StageConfig, TeacherConfig, TrainConfig
from radio_core.distill.schedule import Schedule, step_seed
from radio_core.distill.shapes import step_shape
from radio_core.models.vit import vit_config

LOW = GroupConfig(teachers=("a",), batch_size=4, resolutions=(16,), rate=3.0)
HIGH = GroupConfig(
    teachers=("b",), batch_size=3, resolutions=(32,), window_sizes=(1, 2), window_probability=0.4
)


def config(
    low_steps: int = 1000, both_steps: int = 4000, cached: int = 0, seed: int = 0
) -> TrainConfig:
    return TrainConfig(
        student=vit_config("tiny"),
        teachers={"a": TeacherConfig(source="a"), "b": TeacherConfig(source="b")},
        stages=(
            StageConfig(steps=low_steps, groups=(LOW,)),
            StageConfig(steps=both_steps, groups=(LOW, HIGH)),
        ),
        cached_views=cached,
        warmup_steps=10,
        lr=2e-3,
        seed=seed,
    )


@pytest.mark.parametrize("cached", [0, 20])
def test_every_epoch_visits_each_view_once_in_an_order_of_its_own(cached: int) -> None:
    schedule = Schedule(config(20, 20, cached), PlainOrder(14, 0))
    views = [view for number in range(1, 41) for view in schedule.batches(number)[0].views]
    size = cached or 14
    epochs = [views[start : start + size] for start in range(0, len(views) - size + 1, size)]
    assert len(epochs) > 4
    for number, epoch in enumerate(epochs):
        first = 0 if cached else number * size  # without a cache every epoch has new crops
        assert sorted(epoch) == list(range(first, first + size))
    orders = {tuple(view % size for view in epoch) for epoch in epochs}
    assert len(orders) == len(epochs)


def test_groups_take_turns_by_their_rates_within_their_stage() -> None:
    schedule = Schedule(config(), PlainOrder(50, 0))
    steps = [schedule.batches(number)[0] for number in range(1, 5001)]
    assert {step.group for step in steps[:1000]} == {LOW}
    share = Counter(step.group.name for step in steps[1000:])["a@16"] / 4000
    assert share == pytest.approx(0.75, abs=0.03)
    assert all(len(step.views) == step.group.batch_size for step in steps)


def test_a_step_is_the_same_whatever_was_asked_before() -> None:
    forward, mixed = (Schedule(config(5, 25), PlainOrder(11, 0)) for _ in range(2))
    wanted = {number: forward.batches(number) for number in range(1, 31)}
    for number in (30, 1, 17, 16, 29, 2, 17):
        assert mixed.batches(number) == wanted[number]
        assert mixed.samples_before(number) == sum(
            len(wanted[earlier][0].views) for earlier in range(1, number)
        )


def test_another_seed_is_another_run() -> None:
    one, other = (Schedule(config(seed=seed), PlainOrder(100, seed)) for seed in (0, 1))
    assert one.batches(1) != other.batches(1)
    groups = [[s.batches(number)[0].group for number in range(1001, 1101)] for s in (one, other)]
    assert groups[0] != groups[1]
    assert step_seed(0, 1) != step_seed(1, 1)


def test_seeds_of_steps_differ_and_fit_torch() -> None:
    seeds = {step_seed(0, number) for number in range(1, 2001)}
    assert len(seeds) == 2000
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_learning_rate_rises_linearly_and_falls_as_a_cosine_to_zero() -> None:
    schedule = Schedule(config(50, 60), PlainOrder(10, 0))
    rates = [schedule.learning_rate(number) for number in range(1, 111)]
    assert rates[:10] == pytest.approx([2e-3 * number / 10 for number in range(1, 11)])
    assert max(rates) == rates[9] == pytest.approx(2e-3)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[59] == pytest.approx(1e-3)  # half-way between the warm-up and the end
    assert rates[34] == pytest.approx(1e-3 * (1 + math.cos(math.pi / 4)))
    assert rates[-1] == pytest.approx(0, abs=1e-12)


def test_windows_are_drawn_by_their_probability_and_only_where_asked_for() -> None:
    def draw(group: GroupConfig, number: int) -> int | None:
        return step_shape(group, number, 0, vit_config("tiny")).window

    assert {draw(LOW, number) for number in range(200)} == {None}
    drawn = Counter(draw(HIGH, number) for number in range(3000))
    assert drawn[None] / 3000 == pytest.approx(0.6, abs=0.03)
    assert drawn[1] / 3000 == pytest.approx(0.2, abs=0.03)
    assert draw(HIGH, 7) == draw(HIGH, 7)
