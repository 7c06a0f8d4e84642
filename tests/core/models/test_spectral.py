import copy

import pytest
import torch
from torch import nn

from radio_core.models import VisionTransformer, vit_config
from radio_core.models.spectral import (
    MIN_GAIN,
    SpectralWeight,
    apply_spectral,
    fold_spectral,
    folded_state_dict,
)


@pytest.fixture
def plain() -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(vit_config("tiny", embed_dim=16, depth=2, num_heads=2, stem="patch"))


def reparametrised(plain: VisionTransformer) -> VisionTransformer:
    model = copy.deepcopy(plain)
    apply_spectral(model)
    return model


def test_applying_changes_no_weight(plain: VisionTransformer) -> None:
    model = reparametrised(plain)
    for block, reference in zip(model.blocks, plain.blocks, strict=True):
        for path in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"):
            weight = block.eval().get_submodule(path).weight
            torch.testing.assert_close(weight, reference.get_submodule(path).weight)


def test_state_dict_keys_are_those_of_the_released_files(plain: VisionTransformer) -> None:
    keys = {k.removeprefix("blocks.0.") for k in reparametrised(plain).state_dict()}
    tail = ("scale", "_u", "_v", "_sn_version")
    for layer in ("attn.proj", "mlp.fc1", "mlp.fc2"):
        base = f"{layer}.parametrizations.weight"
        assert {f"{base}.original", *(f"{base}.0.{name}" for name in tail)} <= keys
        assert f"{layer}.weight" not in keys
    base = "attn.qkv.parametrizations.weight"
    assert {f"{base}.0.parts.{part}.{name}" for part in range(3) for name in tail} <= keys
    assert "patch_generator.embedder.weight" in keys


def test_training_moves_the_gain_and_folding_keeps_the_outputs(plain: VisionTransformer) -> None:
    model = reparametrised(plain).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    for _ in range(3):
        output = model(torch.rand(2, 3, 32, 32))
        (output.features.square().mean() + output.summary.square().mean()).backward()
        assert [n for n, p in model.named_parameters() if p.grad is None] == []
        optimizer.step()
        optimizer.zero_grad()
    after = model.state_dict()
    for name in ("scale", "_u"):
        key = f"blocks.0.mlp.fc1.parametrizations.weight.0.{name}"
        assert not torch.equal(before[key], after[key])

    images = torch.rand(1, 3, 24, 40)
    state = folded_state_dict(model)
    assert model.training
    assert all(m.training for m in model.modules())
    wanted = model.eval()(images).features
    assert fold_spectral(model) is model
    assert set(model.state_dict()) == set(plain.state_dict()) == set(state)
    torch.testing.assert_close(model(images).features, wanted)
    plain.load_state_dict(state)
    torch.testing.assert_close(plain.eval()(images).features, wanted)
    assert all(p.requires_grad for p in model.parameters())


def test_the_gain_is_the_largest_singular_value_whatever_the_original() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(12, 20)
    apply_spectral(layer)
    layer.eval()
    sigma = torch.linalg.matrix_norm(layer.weight, ord=2)
    with torch.no_grad():
        layer.get_submodule("parametrizations.weight").original.mul_(7)
    torch.testing.assert_close(torch.linalg.matrix_norm(layer.weight, ord=2), sigma)


def test_sigma_converges_by_one_iteration_a_training_step() -> None:
    torch.manual_seed(0)
    weight = torch.randn(20, 12)
    spectral = SpectralWeight(torch.eye(20, 12))
    start = spectral._u.clone()
    spectral.eval()(weight)
    assert torch.equal(spectral._u, start)
    spectral.train()
    for _ in range(50):
        spectral(weight)
    wanted = torch.linalg.matrix_norm(weight, ord=2)
    torch.testing.assert_close(spectral.sigma(weight), wanted, rtol=1e-3, atol=0)


def test_two_forwards_before_one_backward() -> None:
    layer = nn.Linear(6, 6)
    apply_spectral(layer)
    (layer(torch.rand(1, 6)).sum() + layer(torch.rand(1, 6)).sum()).backward()


def test_a_matrix_of_zeros_stays_finite() -> None:
    spectral = SpectralWeight(torch.zeros(4, 3))
    assert spectral(torch.zeros(4, 3)).abs().max() == 0
    assert torch.nn.functional.softplus(spectral.scale).item() + MIN_GAIN < 0.06
