"""Hadamard matrices, and PHI-S: equal variances, one scale, and the exact way back."""

import numpy as np
import pytest
import torch
from torch import nn

from radio_core.distill.hadamard import hadamard, spreading_rotation
from radio_core.distill.normalization import FeatureStatistics
from radio_core.distill.phi_s import PhiS

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


def fitted(features: torch.Tensor) -> tuple[PhiS, str | None]:
    statistics = FeatureStatistics(features.shape[1], covariance=True)
    for part in features.split(10):
        statistics.update(part)
    phi_s = PhiS(features.shape[1])
    return phi_s, phi_s.fit(statistics)


@pytest.mark.parametrize(("channels", "rank"), [(12, None), (20, None), (48, 5), (28, 1)])
def test_all_channels_have_variance_1_and_mean_0(channels: int, rank: int | None) -> None:
    features = teacher_features(channels, rank)
    phi_s, note = fitted(features)
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
    phi_s, _ = fitted(teacher_features(channels, rank))
    # Also for what the statistics have never seen.
    others = torch.randn(3, channels, 4, 5) * 10
    torch.testing.assert_close(phi_s.inverse(phi_s(others)), others, rtol=1e-4, atol=1e-4)
    vectors = torch.randn(6, channels)
    torch.testing.assert_close(phi_s.inverse(phi_s(vectors)), vectors, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(phi_s(vectors), phi_s(vectors[..., None, None])[..., 0, 0])


def test_distances_only_change_by_one_factor() -> None:
    features = teacher_features(20)
    phi_s, _ = fitted(features)
    one, other = torch.randn(2, 7, 20, 3, 3).unbind(0)
    before = (one - other).square().mean(dim=1)
    after = (phi_s(one) - phi_s(other)).square().mean(dim=1)
    torch.testing.assert_close(after * phi_s.scale.square(), before)
    variances = features.transpose(0, 1).flatten(1).var(1, correction=0)
    torch.testing.assert_close(phi_s.scale.square().squeeze(), variances.mean())


def test_without_a_hadamard_matrix_the_spread_is_measured_and_reported() -> None:
    features = teacher_features(10)
    phi_s, note = fitted(features)
    assert note is not None
    assert "no Hadamard matrix of order 10" in note
    variances = phi_s(features).transpose(0, 1).flatten(1).var(1, correction=0)
    low, high = f"{variances.min():.2f}", f"{variances.max():.2f}"
    assert f"{low} to {high} times the mean variance" in note
    assert variances.mean().item() == pytest.approx(1, rel=1e-3)


def test_constant_features_and_an_unfitted_one() -> None:
    features = torch.full((3, 12, 4, 4), 7.5)
    phi_s, _ = fitted(features)
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
    phi_s, _ = fitted(features)
    with torch.autocast("cpu", torch.bfloat16):
        inside = phi_s(features)
    assert torch.equal(inside, phi_s(features))


@pytest.mark.parametrize("copies", [1, 4])
def test_a_folded_layer_gives_the_inverse_of_what_it_gave(copies: int) -> None:
    phi_s, _ = fitted(teacher_features(12))
    layer, inputs = nn.Linear(7, copies * 12), torch.randn(3, 7)
    before = layer(inputs).view(-1, 12)
    phi_s.fold_into(layer)
    after = layer(inputs).view(-1, 12)
    torch.testing.assert_close(after, phi_s.inverse(before), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(after, before)
