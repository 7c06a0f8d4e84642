"""Statistics of teacher outputs, standardised features and their way back through saved heads."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from radio_core.distill.config import StudentConfig, TargetsConfig, TrainConfig
from radio_core.distill.groups import GroupConfig, StageConfig, TeacherConfig
from radio_core.distill.hadamard import hadamard, spreading_rotation
from radio_core.distill.normalization import (
    TOKENS_PER_IMAGE,
    FeatureStatistics,
    OutputStatistics,
    PhiS,
    Standardizer,
    normalizations,
    sample_tokens,
)
from radio_core.models.vit import vit_config
from radio_core.vision import ModelSpec, Output


def measured(features: torch.Tensor, covariance: bool = False) -> FeatureStatistics:
    statistics = FeatureStatistics(features.shape[1], covariance)
    statistics.update(features)
    return statistics


def fitted(features: torch.Tensor, shared_scale: bool = False) -> Standardizer:
    standardizer = Standardizer(features.shape[1], shared_scale)
    standardizer.fit(measured(features))
    return standardizer


def test_statistics_of_batches_are_those_of_all_values() -> None:
    values = np.random.default_rng(0).normal([5, -300, 0], [2, 0.5, 1e-3], (7, 4, 6, 3))
    features = torch.from_numpy(values).permute(0, 3, 1, 2).float()
    flat = features.double().transpose(0, 1).flatten(1).numpy()
    for covariance in (False, True):
        statistics = FeatureStatistics(3, covariance)
        for part in features.split(3):
            statistics.update(part)
        mean, variance = statistics.mean_and_variance()
        np.testing.assert_allclose(mean.numpy(), flat.mean(1), rtol=1e-9)
        np.testing.assert_allclose(variance.numpy(), flat.var(1), rtol=1e-3)
        assert mean.dtype == variance.dtype == torch.float64
    np.testing.assert_allclose(
        statistics.covariance().numpy(), np.cov(flat, bias=True), rtol=1e-3, atol=1e-9
    )


REDUCE = """
import torch
from radio_core.distill.normalization import FeatureStatistics
from radio_core.processes import join_processes

with join_processes() as processes:
    features = torch.load(f"{folder}/features.pt", weights_only=True)
    statistics = FeatureStatistics(features.shape[1], True)
    first = 2 * processes.rank
    statistics.update(features[first : first + 2 + processes.rank])
    processes.sum([statistics.count, statistics.total, statistics.squares])
    sums = (statistics.count, *statistics.mean_and_variance())
    torch.save(sums, f"{folder}/sums{processes.rank}.pt")
"""


def test_two_processes_have_the_statistics_of_all(
    start_ranks: Callable[..., list[Any]], tmp_path: Path
) -> None:
    features = torch.randn(5, 6, 3, 3) * 4 + 2
    torch.save(features, tmp_path / "features.pt")
    ranks = start_ranks(REDUCE, 2, folder=str(tmp_path))
    assert [rank.join() for rank in ranks] == [0, 0], ranks[0].text
    whole = measured(features, covariance=True)
    for rank in range(2):
        count, *moments = torch.load(tmp_path / f"sums{rank}.pt", weights_only=True)
        assert count == whole.count == 45
        torch.testing.assert_close(tuple(moments), whole.mean_and_variance())


def test_standard_gives_every_channel_mean_0_and_variance_1() -> None:
    features = torch.randn(6, 5, 8, 8) * torch.arange(1, 6)[:, None, None] - 3
    result = fitted(features)(features).transpose(0, 1).flatten(1)
    torch.testing.assert_close(result.mean(1), torch.zeros(5), atol=1e-5, rtol=0)
    torch.testing.assert_close(result.std(1, correction=0), torch.ones(5))


def test_global_gives_every_channel_mean_0_and_keeps_their_ratios() -> None:
    features = torch.randn(6, 2, 8, 8) * torch.tensor([3.0, 4.0])[:, None, None] - 3
    standardizer = fitted(features, shared_scale=True)
    result = standardizer(features).transpose(0, 1).flatten(1)
    torch.testing.assert_close(result.mean(1), torch.zeros(2), atol=1e-5, rtol=0)
    before = features.transpose(0, 1).flatten(1).var(1, correction=0)
    torch.testing.assert_close(result.var(1, correction=0), before / before.mean())
    assert standardizer.std[0] == standardizer.std[1]


@pytest.mark.parametrize("value", [0.0, 1.0, -1234.567, 3e4])
def test_a_constant_channel_becomes_zero_and_not_noise(value: float) -> None:
    features = torch.full((3, 1, 9, 9), value)
    assert fitted(features)(features).abs().max() < 0.01
    assert fitted(features).std.item() == 1


def test_without_features_or_with_broken_ones_there_are_no_statistics() -> None:
    with pytest.raises(ValueError, match="no features"):
        FeatureStatistics(2).mean_and_variance()
    for covariance in (False, True):
        with pytest.raises(ValueError, match="not finite"):
            measured(torch.full((1, 2, 1, 1), float("nan")), covariance).mean_and_variance()


def test_not_fitted_it_changes_nothing() -> None:
    features = torch.randn(2, 3, 4, 4)
    assert torch.equal(Standardizer(3)(features), features)
    assert torch.equal(Standardizer(3)(features[..., 0, 0]), features[..., 0, 0])


@pytest.mark.parametrize("copies", [1, 4])
@pytest.mark.parametrize("shared_scale", [False, True])
def test_a_folded_layer_gives_the_inverse_of_what_it_gave(copies: int, shared_scale: bool) -> None:
    features = torch.randn(2, 5, 4, 4) * torch.rand(5, 1, 1) * 9 + torch.arange(5.0)[:, None, None]
    standardizer = fitted(features, shared_scale)
    torch.testing.assert_close(standardizer.inverse(standardizer(features)), features)
    layer, inputs = nn.Linear(7, copies * 5), torch.randn(3, 7)
    before = layer(inputs).view(-1, 5)
    standardizer.fold_into(layer)
    after = layer(inputs).view(-1, 5)
    torch.testing.assert_close(after, standardizer.inverse(before))
    torch.testing.assert_close(after, before * standardizer.std + standardizer.mean)


def test_sampled_tokens_follow_from_seed_and_view() -> None:
    features = torch.arange(3 * 2 * 90).reshape(3, 2, 9, 10).float()
    tokens = sample_tokens(features, (4, 7, 9), seed=1)
    assert tokens.shape == (3, 2, TOKENS_PER_IMAGE)
    # Whole tokens, each at most once: the second channel lies 90 above the first.
    assert torch.equal(tokens[:, 1], tokens[:, 0] + 90)
    assert all(len(set(row.tolist())) == TOKENS_PER_IMAGE for row in tokens[:, 0])
    assert torch.equal(sample_tokens(features[1:2], (7,), seed=1), tokens[1:2])
    assert not torch.equal(sample_tokens(features, (4, 7, 9), seed=2), tokens)
    few = sample_tokens(features[..., :3, :3], (4, 7, 9), seed=1)
    assert few.shape == (3, 2, 9)


SPECS = {
    name: ModelSpec(
        name=name,
        input_size=32,
        mean=(0, 0, 0),
        std=(1, 1, 1),
        patch_size=8,
        summary_dim=summary,
        feature_dim=8,
        licence="",
    )
    for name, summary in (("clip", 6), ("dino_v2", 4), ("sam", None))
}


@pytest.fixture
def config() -> TrainConfig:
    group = GroupConfig(teachers=("clip", "dino_v2", "sam"), batch_size=2, resolutions=(32,))
    return TrainConfig(
        student=StudentConfig(backbone=vit_config("tiny", embed_dim=16, depth=2, grid_size=8)),
        teachers={
            "clip": TeacherConfig(source="a", normalization="phi_s", summary_normalization="phi_s"),
            "dino_v2": TeacherConfig(source="b", normalization="none"),
            "sam": TeacherConfig(source="c", summary_weight=0.0),
        },
        stages=(StageConfig(steps=5, groups=(group,)),),
        targets=TargetsConfig(normalization="global"),
    )


def test_a_teacher_is_normalised_as_it_says_or_else_as_the_run(config: TrainConfig) -> None:
    assert normalizations(config, SPECS) == {
        "clip/features": "phi_s",
        "clip/summary": "phi_s",
        "dino_v2/features": "none",
        "dino_v2/summary": "none",
        "sam/features": "global",
    }
    sam = replace(config.teachers["sam"], summary_normalization="standard")
    with pytest.raises(ValueError, match="teacher sam has no summary: summary_normalization"):
        normalizations(config.changed(teachers={**config.teachers, "sam": sam}), SPECS)


def test_only_what_is_normalised_is_measured(config: TrainConfig) -> None:
    statistics = OutputStatistics(config, SPECS)
    assert set(statistics.by_output) == {"clip/features", "clip/summary", "sam/features"}
    outputs = {
        "clip": Output(torch.randn(3, 6), torch.randn(3, 8, 10, 10)),
        "dino_v2": Output(torch.randn(3, 4), torch.randn(3, 8, 4, 4)),
    }
    statistics.update(outputs, (0, 1, 2))
    counts = {output: found.count for output, found in statistics.by_output.items()}
    # All of a map for variances, sampled tokens for a covariance; a teacher elsewhere adds nothing.
    assert counts == {"clip/features": 3 * 64, "clip/summary": 3, "sam/features": 0}
    sam = Output(None, torch.randn(3, 8, 10, 10))
    statistics.update({"sam": sam}, (0, 1, 2))
    assert statistics.by_output["sam/features"].count == 300


WIDTHS = (384, 576, 640, 768, 896, 1024, 1152, 1280, 1408, 1536, 1664, 1792, 2048, 3200)


def is_hadamard(matrix: np.ndarray) -> bool:
    wide, order = matrix.astype(np.float64), len(matrix)
    return bool((np.abs(wide) == 1).all() and (wide @ wide.T == order * np.eye(order)).all())


@pytest.mark.parametrize("order", [1, 2, *range(4, 92, 4)])
def test_every_small_order_has_a_hadamard_matrix(order: int) -> None:
    matrix = hadamard(order)
    assert matrix is not None
    assert matrix.shape == (order, order)
    assert is_hadamard(matrix)


@pytest.mark.parametrize("order", WIDTHS)
def test_the_widths_of_foundation_models_have_one(order: int) -> None:
    matrix = hadamard(order)
    assert matrix is not None
    assert is_hadamard(matrix)


def test_constructions_over_fields_whose_order_is_no_prime() -> None:
    # 28 = 27 + 1 (Paley I over GF(3^3)); 52 = 2 (25 + 1), 100 = 2 (49 + 1) (Paley II).
    for order in (28, 52, 100, 126 * 2, 244):
        matrix = hadamard(order)
        assert matrix is not None
        assert is_hadamard(matrix)


@pytest.mark.parametrize("order", [3, 5, 6, 10, 50, 92])
def test_other_orders_get_a_random_rotation_that_is_always_the_same(order: int) -> None:
    assert hadamard(order) is None
    rotation, exact = spreading_rotation(order)
    assert not exact
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(order), atol=1e-12)
    np.testing.assert_array_equal(rotation, spreading_rotation(order)[0])


def teacher_features(channels: int, rank: int | None = None) -> torch.Tensor:
    """[64, channels, 8, 8] with correlated channels of very different scales and means."""
    torch.manual_seed(channels)
    sources = torch.randn(64, rank or channels, 8, 8)
    mixing = torch.randn(channels, rank or channels) * torch.logspace(-2, 1, channels)[:, None]
    return torch.einsum("cr,brhw->bchw", mixing, sources) + 5 * torch.randn(channels, 1, 1)


def fitted_phi_s(features: torch.Tensor) -> tuple[PhiS, str | None]:
    statistics = FeatureStatistics(features.shape[1], covariance=True)
    for part in features.split(10):
        statistics.update(part)
    phi_s = PhiS(features.shape[1])
    return phi_s, phi_s.fit(statistics)


@pytest.mark.parametrize(("channels", "rank"), [(12, None), (20, None), (48, 5), (28, 1)])
def test_all_channels_have_variance_1_and_mean_0(channels: int, rank: int | None) -> None:
    features = teacher_features(channels, rank)
    phi_s, note = fitted_phi_s(features)
    assert note is None
    result = phi_s(features).double().transpose(0, 1).flatten(1)
    variances = result.var(1, correction=0)
    torch.testing.assert_close(variances, torch.ones_like(variances), rtol=1e-3, atol=0)
    assert result.mean(1).abs().max() < 1e-3
    # The plain features are far from that.
    before = features.transpose(0, 1).flatten(1).var(1)
    assert before.max() > 100 * before.min()


@pytest.mark.parametrize(("channels", "rank"), [(12, None), (48, 5), (10, None), (10, 3)])
def test_the_way_back_is_exact(channels: int, rank: int | None) -> None:
    phi_s, _ = fitted_phi_s(teacher_features(channels, rank))
    # Also for what the statistics have never seen.
    others = torch.randn(3, channels, 4, 5) * 10
    torch.testing.assert_close(phi_s.inverse(phi_s(others)), others, rtol=1e-4, atol=1e-4)
    vectors = torch.randn(6, channels)
    torch.testing.assert_close(phi_s.inverse(phi_s(vectors)), vectors, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(phi_s(vectors), phi_s(vectors[..., None, None])[..., 0, 0])


def test_distances_only_change_by_one_factor() -> None:
    features = teacher_features(20)
    phi_s, _ = fitted_phi_s(features)
    one, other = torch.randn(2, 7, 20, 3, 3).unbind(0)
    before = (one - other).square().mean(dim=1)
    after = (phi_s(one) - phi_s(other)).square().mean(dim=1)
    torch.testing.assert_close(after * phi_s.scale.square(), before)
    variances = features.transpose(0, 1).flatten(1).var(1, correction=0)
    torch.testing.assert_close(phi_s.scale.square().squeeze(), variances.mean())


def test_without_a_hadamard_matrix_the_spread_is_measured_and_reported() -> None:
    features = teacher_features(10)
    phi_s, note = fitted_phi_s(features)
    assert note is not None
    assert "no Hadamard matrix of order 10" in note
    variances = phi_s(features).transpose(0, 1).flatten(1).var(1, correction=0)
    low, high = f"{variances.min():.2f}", f"{variances.max():.2f}"
    assert f"{low} to {high} times the mean variance" in note
    assert variances.mean().item() == pytest.approx(1, rel=1e-3)


def test_constant_features_and_an_unfitted_one() -> None:
    features = torch.full((3, 12, 4, 4), 7.5)
    phi_s, _ = fitted_phi_s(features)
    assert phi_s(features).abs().max() < 1e-4
    assert phi_s.scale.item() == 1
    others = torch.randn(2, 12, 3, 3)
    torch.testing.assert_close(PhiS(12)(others), others)


def test_broken_features_are_refused() -> None:
    statistics = FeatureStatistics(4, covariance=True)
    statistics.update(torch.full((1, 4, 2, 2), float("inf")))
    with pytest.raises(ValueError, match="not finite"):
        PhiS(4).fit(statistics)


def test_autocast_does_not_round_the_targets() -> None:
    features = teacher_features(12)
    phi_s, _ = fitted_phi_s(features)
    with torch.autocast("cpu", torch.bfloat16):
        inside = phi_s(features)
    assert torch.equal(inside, phi_s(features))


@pytest.mark.parametrize("copies", [1, 4])
def test_a_layer_folded_with_phi_s_gives_the_inverse_and_unfolds_again(copies: int) -> None:
    phi_s, _ = fitted_phi_s(teacher_features(12))
    layer, inputs = nn.Linear(7, copies * 12), torch.randn(3, 7)
    before = layer(inputs).view(-1, 12)
    phi_s.fold_into(layer)
    after = layer(inputs).view(-1, 12)
    torch.testing.assert_close(after, phi_s.inverse(before), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(after, before)
