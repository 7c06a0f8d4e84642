"""Standardised teacher features and their way back through the saved heads."""

import numpy as np
import pytest
import torch

from radio_core.distill.normalization import FeatureStatistics, Standardizer
from radio_core.models.adaptors import Adaptor, AdaptorConfig
from radio_core.models.heads import HeadConfig
from radio_core.models.outputs import BackboneOutput


def fitted(features: torch.Tensor) -> Standardizer:
    statistics = FeatureStatistics(features.shape[1])
    statistics.update(features)
    standardizer = Standardizer(features.shape[1])
    standardizer.fit(statistics)
    return standardizer


def test_statistics_of_batches_are_those_of_all_values() -> None:
    values = np.random.default_rng(0).normal([5, -300, 0], [2, 0.5, 1e-3], (7, 4, 6, 3))
    features = torch.from_numpy(values).permute(0, 3, 1, 2).float()
    statistics = FeatureStatistics(3)
    for part in features.split(3):
        statistics.update(part)
    mean, std = statistics.mean_and_std()
    flat = features.double().transpose(0, 1).flatten(1).numpy()
    np.testing.assert_allclose(mean.numpy(), flat.mean(1), rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(std.numpy(), flat.std(1), rtol=1e-4)
    assert mean.dtype == std.dtype == torch.float32


def test_the_result_has_mean_0_and_variance_1() -> None:
    features = torch.randn(6, 5, 8, 8) * torch.arange(1, 6)[:, None, None] - 3
    result = fitted(features)(features).transpose(0, 1).flatten(1)
    torch.testing.assert_close(result.mean(1), torch.zeros(5), atol=1e-5, rtol=0)
    torch.testing.assert_close(result.std(1, correction=0), torch.ones(5))


@pytest.mark.parametrize("value", [0.0, 1.0, -1234.567, 3e4])
def test_a_constant_channel_becomes_zero_and_not_noise(value: float) -> None:
    features = torch.full((3, 1, 9, 9), value)
    assert fitted(features)(features).abs().max() < 0.01
    assert fitted(features).std.item() == 1


def test_without_features_or_with_broken_ones_there_are_no_statistics() -> None:
    with pytest.raises(ValueError, match="no features"):
        FeatureStatistics(2).mean_and_std()
    statistics = FeatureStatistics(2)
    statistics.update(torch.full((1, 2, 1, 1), float("nan")))
    with pytest.raises(ValueError, match="not finite"):
        statistics.mean_and_std()


def test_not_fitted_it_changes_nothing() -> None:
    features = torch.randn(2, 3, 4, 4)
    assert torch.equal(Standardizer(3)(features), features)


@pytest.mark.parametrize("upsample", [1, 2, 3])
def test_a_folded_head_speaks_in_the_teachers_own_numbers(upsample: int) -> None:
    torch.manual_seed(0)
    config = AdaptorConfig(
        name="t", features=HeadConfig(out_dim=5, hidden_dim=8), upsample=upsample
    )
    adaptor = Adaptor(config, 6)
    standardizer = fitted(
        torch.randn(2, 5, 4, 4) * torch.rand(5, 1, 1) * 9 + torch.arange(5.0)[:, None, None]
    )
    tokens = BackboneOutput(torch.randn(2, 1, 6), torch.randn(2, 6, 3, 4))
    standardised = adaptor(tokens).features
    assert standardised.shape == (2, 5, 3 * upsample, 4 * upsample)
    standardizer.fold_into(adaptor)
    folded = adaptor(tokens).features
    wanted = standardised * standardizer.std[:, None, None] + standardizer.mean[:, None, None]
    torch.testing.assert_close(folded, wanted)
    torch.testing.assert_close(standardizer(folded), standardised)
