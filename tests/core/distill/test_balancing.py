"""Balancing of loss terms against the formulas worked out by hand; teacher dropping."""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from radio_core.distill.balancing import (
    AdaLoss,
    AmtmlKd,
    Balancer,
    Uncertainty,
    kept_teachers,
)
from radio_core.distill.config import BALANCERS, StudentConfig, TrainConfig
from radio_core.distill.groups import GroupConfig, StageConfig, TeacherConfig
from radio_core.distill.run_folder import read_metrics
from radio_core.distill.trainer import train
from radio_core.models.vit import vit_config

TERMS = ("clip/summary", "clip/features", "sam/features")
NOTHING = torch.zeros(1, 4)


def scalars(**values: float) -> dict[str, torch.Tensor]:
    """clip_summary=1 -> {"clip/summary": tensor(1)}."""
    return {key.replace("_", "/"): torch.tensor(value) for key, value in values.items()}


def test_naive_balancing_changes_no_bit_and_logs_nothing() -> None:
    losses = scalars(clip_summary=0.3, sam_features=1.7)
    terms, weights = BALANCERS.load("naive")(TERMS, 4)(losses, NOTHING)
    assert terms == losses
    assert weights == {}


def test_uncertainty_by_hand() -> None:
    balancer = Uncertainty(TERMS, 4)
    start, weights = balancer(scalars(clip_summary=0.6, sam_features=2.0), NOTHING)
    assert [value.item() for value in start.values()] == pytest.approx([0.3, 1.0])
    assert [value.item() for value in weights.values()] == pytest.approx([0.5, 0.5])
    with torch.no_grad():
        balancer.log_variance["clip/summary"].fill_(math.log(4))
    terms, weights = balancer(scalars(clip_summary=0.6), NOTHING)
    assert terms["clip/summary"].item() == pytest.approx(0.6 / 8 + math.log(4) / 2)
    assert weights["clip/summary"].item() == pytest.approx(1 / 8)
    terms["clip/summary"].backward()
    gradient = balancer.log_variance["clip/summary"].grad
    assert gradient.item() == pytest.approx(-0.6 / 8 + 0.5)
    # A term that is not at hand has no gradient, so no optimizer moves it.
    assert balancer.log_variance["sam/features"].grad is None


def test_uncertainty_settles_where_the_variance_is_the_loss() -> None:
    balancer = Uncertainty(TERMS, 4)
    optimizer = torch.optim.Adam(balancer.parameters(), lr=0.1)
    for _ in range(300):
        optimizer.zero_grad()
        terms, weights = balancer(scalars(clip_summary=0.2, sam_features=3.0), NOTHING)
        torch.stack(list(terms.values())).sum().backward()
        optimizer.step()
    assert weights["clip/summary"].item() == pytest.approx(1 / (2 * 0.2), rel=1e-2)
    assert weights["sam/features"].item() == pytest.approx(1 / (2 * 3.0), rel=1e-2)


def test_ada_loss_by_hand() -> None:
    balancer = AdaLoss(TERMS, 4)
    first = scalars(clip_summary=0.5, clip_features=2.0)
    terms, weights = balancer(first, NOTHING)
    assert terms == first  # nothing is known yet
    balancer.observe(first)
    terms, weights = balancer(first, NOTHING)
    # 1 / 0.5 and 1 / 2 with mean 1: 1.6 and 0.4; both terms then count the same.
    assert weights["clip/summary"].item() == pytest.approx(1.6)
    assert [value.item() for value in terms.values()] == pytest.approx([0.8, 0.8])
    balancer.observe(scalars(clip_summary=1.0, clip_features=2.0))
    average = (0.99 * 0.5 + 1.0) / 1.99  # the bias-corrected moving average
    wanted = 2 / average / (1 / average + 1 / 2.0)
    _, weights = balancer(first, NOTHING)
    assert weights["clip/summary"].item() == pytest.approx(wanted)
    assert sum(value.item() for value in weights.values()) == pytest.approx(2)


def test_ada_loss_forgets_at_the_papers_pace() -> None:
    balancer = AdaLoss(TERMS, 4)
    values = [0.1 + (7 * step % 13) for step in range(500)]
    for value in values:
        balancer.observe(scalars(clip_summary=value))
    shares = [0.99 ** (len(values) - 1 - step) for step in range(len(values))]
    wanted = sum(s * v for s, v in zip(shares, values, strict=True)) / sum(shares)
    assert balancer.average[0].item() == pytest.approx(wanted, rel=1e-4)


def test_ada_loss_knows_terms_of_other_steps_and_spares_new_ones() -> None:
    balancer = AdaLoss(TERMS, 4)
    balancer.observe(scalars(clip_summary=0.5))
    balancer.observe(scalars(clip_features=2.0))
    _, alone = balancer(scalars(clip_summary=0.5), NOTHING)
    assert alone["clip/summary"].item() == pytest.approx(1.6)
    _, fresh = balancer(scalars(sam_features=9.0), NOTHING)
    assert fresh["sam/features"].item() == 1
    balancer.observe(scalars(sam_features=0.0))  # learnt to the last bit
    _, weights = balancer(scalars(sam_features=0.0), NOTHING)
    assert math.isfinite(weights["sam/features"].item())


def test_ada_loss_state_is_in_checkpoints_and_needs_no_gradient() -> None:
    balancer, again = AdaLoss(TERMS, 4), AdaLoss(TERMS, 4)
    for step in range(3):
        balancer.observe(scalars(clip_summary=1.0 + step, sam_features=0.2))
    again.load_state_dict(balancer.state_dict())
    loss = torch.tensor(0.7, requires_grad=True)
    terms, weights = again({"clip/summary": loss}, NOTHING)
    assert weights == balancer({"clip/summary": loss}, NOTHING).weights
    terms["clip/summary"].backward()
    assert loss.grad is not None
    assert loss.grad.item() == weights["clip/summary"].item()


def test_amtml_by_hand() -> None:
    balancer = AmtmlKd(TERMS, 2)
    with torch.no_grad():
        balancer.shared.copy_(torch.tensor([1.0, 2.0]))
        balancer.latent[0].copy_(torch.tensor([1.0, -1.0]))  # clip
        balancer.latent[1].copy_(torch.tensor([0.0, 0.5]))  # sam
    representation = torch.tensor([[1.0, 1.0], [2.0, 0.0]])
    # Scores: clip 1 - 2 = -1 and 2; sam 1 and 0.
    clip = torch.tensor([1 / (1 + math.exp(2)), 1 / (1 + math.exp(-2))])
    losses = {
        "clip/summary": torch.tensor([1.0, 2.0]),
        "clip/features": torch.tensor([0.5, 0.1]),
        "sam/features": torch.tensor([3.0, 4.0]),
    }
    terms, weights = balancer(losses, representation)
    for term, loss in losses.items():
        share = 1 - clip if term == "sam/features" else clip
        torch.testing.assert_close(terms[term], (share * loss).mean())
    torch.testing.assert_close(weights, {"clip": clip.mean(), "sam": 1 - clip.mean()})
    alone = balancer({"sam/features": losses["sam/features"]}, representation)
    assert alone.terms["sam/features"].item() == pytest.approx(3.5)
    assert alone.weights["sam"].item() == 1


def test_amtml_starts_equal_and_collapses_onto_the_easier_teacher() -> None:
    torch.manual_seed(0)
    balancer = AmtmlKd(TERMS, 8)
    optimizer = torch.optim.Adam(balancer.parameters(), lr=0.05)
    losses = {"clip/features": torch.full((16,), 0.2), "sam/features": torch.full((16,), 1.0)}
    logged = []
    for _ in range(100):
        optimizer.zero_grad()
        terms, weights = balancer(losses, torch.randn(16, 8) + 1)
        torch.stack(list(terms.values())).sum().backward()
        optimizer.step()
        logged.append(weights["clip"].item())
    assert logged[0] == 0.5
    assert logged[-1] > 0.95


@pytest.mark.parametrize("kind", BALANCERS.entries)
def test_parameters_are_vectors_so_that_no_weight_decay_touches_them(kind: str) -> None:
    balancer = BALANCERS.load(kind)(TERMS, 4)
    assert all(p.numel() == max(p.shape) for p in balancer.parameters())
    learned = {"uncertainty", "amtml_kd"}
    assert any(True for _ in balancer.parameters()) == (kind in learned)


@pytest.mark.parametrize("kind", BALANCERS.entries)
def test_parts_of_a_batch_add_up_to_the_whole(kind: str) -> None:
    torch.manual_seed(1)
    balancer = BALANCERS.load(kind)(TERMS, 4)
    balancer.observe(scalars(clip_summary=0.3, sam_features=2.0))
    for parameter in balancer.parameters():
        torch.nn.init.normal_(parameter)
    by_sample = {term: torch.rand(6) for term in ("clip/summary", "sam/features")}
    representation = torch.randn(6, 4)

    def total(balancer: Balancer, first: int, last: int) -> torch.Tensor:
        losses = {term: loss[first:last] for term, loss in by_sample.items()}
        if not balancer.per_sample:
            losses = {term: loss.mean() for term, loss in losses.items()}
        terms = balancer(losses, representation[first:last]).terms
        return torch.stack(list(terms.values())).sum()

    parts = total(balancer, 0, 2) / 3 + total(balancer, 2, 6) * 2 / 3
    torch.testing.assert_close(parts, total(balancer, 0, 6))


def test_dropping_is_a_function_of_seed_and_step_and_never_drops_all() -> None:
    group = ("clip", "dino_v2", "sam")
    steps = [kept_teachers(group, 0.6, 3, number) for number in range(1, 2001)]
    assert steps == [kept_teachers(group, 0.6, 3, number) for number in range(1, 2001)]
    assert steps != [kept_teachers(group, 0.6, 4, number) for number in range(1, 2001)]
    assert steps != [kept_teachers(group, 0.6, 3, number, 1) for number in range(1, 2001)]
    assert all(kept and list(kept) == [n for n in group if n in kept] for kept in steps)
    counts = Counter(name for kept in steps for name in kept)
    # Kept with probability 0.4, or as the only one of three that would all be dropped.
    for name in group:
        assert counts[name] / len(steps) == pytest.approx(0.4 + 0.6**3 / 3, abs=0.03)
    assert kept_teachers(group, 0.0, 3, 1) == group
    assert {kept_teachers(("sam",), 0.9, 3, number) for number in range(50)} == {("sam",)}


@pytest.fixture
def config() -> TrainConfig:
    group = GroupConfig(teachers=("clip", "sam"), batch_size=2, resolutions=(32,))
    return TrainConfig(
        student=StudentConfig(backbone=vit_config("tiny", embed_dim=16, depth=2, grid_size=8)),
        teachers={"clip": TeacherConfig(source="a"), "sam": TeacherConfig(source="b")},
        stages=(StageConfig(steps=5, groups=(group,)),),
    )


def test_a_choice_among_teachers_needs_a_group_with_two(config: TrainConfig) -> None:
    config.changed(loss={"teacher_dropping": 0.5, "balancing": "amtml_kd"})
    for probability in (-0.1, 1.0):
        with pytest.raises(ValueError, match=r"teacher_dropping must be in \[0, 1\)"):
            config.changed(loss={"teacher_dropping": probability})
    group = config.stages[0].groups[0]
    alone = tuple(replace(group, teachers=(name,)) for name in group.teachers)
    stages = (StageConfig(steps=5, groups=alone),)
    with pytest.raises(ValueError, match="teacher_dropping has no effect"):
        config.changed(stages=stages, loss={"teacher_dropping": 0.1})
    with pytest.raises(ValueError, match='use "naive", "uncertainty" or "ada_loss"'):
        config.changed(stages=stages, loss={"balancing": "amtml_kd"})
    config.changed(stages=stages, loss={"balancing": "uncertainty"})


@pytest.mark.parametrize("kind", ["uncertainty", "ada_loss", "amtml_kd"])
def test_a_resumed_run_weighs_and_drops_as_the_uninterrupted_one(
    kind: str, tiny_run: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    changes = {"balancing": kind, "normalization": "phi_s", "teacher_dropping": 0.3}
    config = tiny_run(**changes, checkpoint_every=4)
    quiet = Console(quiet=True)
    train(config.changed(run={"max_steps": 8}), quiet)
    part = config.changed(run={"out": tmp_path / "part", "checkpoint_every": 5})
    train(part.changed(run={"max_steps": 5}), quiet)
    train(part.changed(run={"max_steps": 8, "resume": True}), quiet)
    rows = read_metrics(config.run.out / "metrics.jsonl")
    assert rows == read_metrics(tmp_path / "part" / "metrics.jsonl")
    both = [row for row in rows if "clip" in row and "dino_v2" in row]
    assert 0 < len(both) < sum("sam" not in row["group"] for row in rows)  # some were dropped
    for row in both:
        weights = {key: value for key, value in row.items() if key.startswith("weight/")}
        if kind == "amtml_kd":
            assert set(weights) == {"weight/clip", "weight/dino_v2"}
            assert sum(weights.values()) == pytest.approx(1)
        else:
            assert len(weights) == 4
            assert "weight/dino_v2/features" in weights
    assert rows[0]["loss"] == pytest.approx(sum(rows[0].get(n, 0) for n in ("clip", "dino_v2")))
