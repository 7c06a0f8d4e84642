from collections.abc import Callable
from typing import Any

import pytest
import torch

from radio_core.zoo.parametrized import SpectralOptions, plain_weights


def test_a_values_chunk_without_vectors_stays_as_it_is() -> None:
    torch.manual_seed(0)
    weight = torch.randn(6, 4)
    name = "attn.qkv.parametrizations.weight."
    state = {f"{name}original": weight}
    for part in range(2):
        prefix = f"{name}0.parts.{part}."
        state |= {f"{prefix}scale": torch.ones(1, 1), f"{prefix}_u": torch.randn(2)}
        state |= {f"{prefix}_v": torch.randn(4), f"{prefix}_sn_version": torch.tensor(2)}
    folded = plain_weights(state, SpectralOptions(power_iterations=60))["attn.qkv.weight"]
    torch.testing.assert_close(folded[4:], weight[4:])
    gain = torch.nn.functional.softplus(torch.tensor(1.0)) + 0.05
    for rows in (slice(0, 2), slice(2, 4)):
        sigma = torch.linalg.matrix_norm(weight[rows], 2)
        torch.testing.assert_close(folded[rows], weight[rows] * gain / sigma, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("fc.parametrizations.weight.0._u"), "damaged"),
        (lambda s: s.pop("fc.parametrizations.weight.original"), "damaged"),
        (lambda s: s.update({"fc.weight": torch.ones(2, 2)}), "both a weight"),
        (lambda s: s.update({"fc.parametrizations.weight.0._u": torch.ones(9)}), "damaged"),
        (lambda s: s.update({"fc.parametrizations.weight.0.evil": torch.ones(9)}), "damaged"),
        (lambda s: s.update({"fc.parametrizations.weight.1.scale": torch.ones(1)}), "damaged"),
        (lambda s: s.update({"fc.parametrizations.weight.0.parts.0._u": torch.ones(3)}), "damage"),
    ],
)
def test_damaged_parametrizations(change: Callable[[Any], object], message: str) -> None:
    prefix = "fc.parametrizations.weight."
    state = {f"{prefix}original": torch.randn(3, 2), f"{prefix}0.scale": torch.ones(1, 1)}
    state |= {f"{prefix}0._u": torch.randn(3), f"{prefix}0._v": torch.randn(2)}
    plain_weights(state, SpectralOptions())
    change(state)
    with pytest.raises(ValueError, match=message):
        plain_weights(state, SpectralOptions())


def test_spectral_options() -> None:
    assert SpectralOptions.from_args(True) == SpectralOptions(1e-6, 1)
    assert SpectralOptions.from_args({"eps": 1e-4}) == SpectralOptions(1e-4, 1)
    assert SpectralOptions.from_args({"n_power_iterations": 3}) == SpectralOptions(1e-12, 3)
    with pytest.raises(ValueError, match="out of range"):
        SpectralOptions.from_args({"n_power_iterations": 10**9})
