from collections.abc import Callable
from typing import Any

import pytest
import torch

from radio_core.zoo.official_tensors import plain_weights, text_tower_source


def test_a_values_chunk_without_vectors_stays_as_it_is() -> None:
    torch.manual_seed(0)
    weight = torch.randn(6, 4)
    name = "attn.qkv.parametrizations.weight."
    state = {f"{name}original": weight}
    for part in range(2):
        prefix = f"{name}0.parts.{part}."
        state |= {f"{prefix}scale": torch.ones(1, 1), f"{prefix}_u": torch.randn(2)}
        state |= {f"{prefix}_v": torch.randn(4), f"{prefix}_sn_version": torch.tensor(2)}
    folded = plain_weights(state, {"eps": 1e-6, "n_power_iterations": 60})["attn.qkv.weight"]
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
    plain_weights(state)
    change(state)
    with pytest.raises(ValueError, match=message):
        plain_weights(state)


def test_spectral_options_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="out of range"):
        plain_weights({}, {"n_power_iterations": 10**9})


@pytest.mark.parametrize(
    ("teacher", "wanted"),
    [
        (
            {"type": "open_clip", "model": "ViT-H-14-378-quickgelu", "pretrained": "dfn5b"},
            "open_clip:ViT-H-14-378-quickgelu/dfn5b",
        ),
        (
            {"type": "open_clip", "model": "ViT-L/14", "pretrained": "openai"},
            "open_clip:ViT-L-14/openai",
        ),
        ({"type": "open_clip", "model": "hf-hub:org/repo"}, "open_clip:hf-hub:org/repo"),
        ({"type": "open_clip", "model": "ViT-L-14", "pretrained": None}, None),
        ({"type": "open_clip", "pretrained": "openai"}, None),
        (
            {"type": "siglip2", "model": "siglip2-g-384"},
            "siglip2:google/siglip2-giant-opt-patch16-384",
        ),
        (
            {"type": "siglip2", "model": "siglip2-so400m", "name": "siglip2"},
            "siglip2:google/siglip2-so400m-patch16-naflex",
        ),
        ({"type": "siglip2", "model": "siglip2-b"}, None),
        ({"type": "siglip2"}, None),
        ({"type": "siglip", "model": "siglip2-g-384"}, None),
        ({"type": "dino_v2", "model": "dinov2_vitg14_reg"}, None),
        ({}, None),
    ],
)
def test_text_tower_of_a_teacher_entry(teacher: dict[str, Any], wanted: str | None) -> None:
    assert text_tower_source(teacher) == wanted
