import pytest
import torch
from torch import nn

from radio_core.models.adaptors import (
    Adaptor,
    AdaptorConfig,
    AttentionHead,
    HeadConfig,
    MLPHead,
    ReluHead,
    build_head,
)
from radio_core.vision import Output


def test_paper_head_is_two_linear_layers_with_norm_and_gelu_between() -> None:
    head = MLPHead(4, 8, 3)
    linear, (norm, act, last) = head.fc1, head.final
    assert isinstance(act, nn.GELU)
    assert head.output is last
    x = torch.rand(2, 5, 4)
    torch.testing.assert_close(head(x), last(torch.nn.functional.gelu(norm(linear(x)))))
    assert sum(p.numel() for p in head.parameters()) == (4 * 8 + 8) + 2 * 8 + (8 * 3 + 3)


def test_upsampling_orders_channels_as_rows_columns_width() -> None:
    adaptor = Adaptor(
        AdaptorConfig(name="sam", features=HeadConfig(out_dim=7, hidden_dim=8), upsample=2), 16
    )
    tokens = torch.rand(1, 2 * 3, 16)
    features = tokens.transpose(1, 2).unflatten(2, (2, 3))
    output = adaptor(Output(tokens[:, :1], features)).features
    raw = adaptor.feature_head(tokens).reshape(2, 3, 2, 2, 7)
    for i, j, u, v in [(0, 0, 0, 1), (1, 2, 1, 0), (0, 1, 1, 1)]:
        torch.testing.assert_close(output[0, :, 2 * i + u, 2 * j + v], raw[i, j, u, v])


@pytest.mark.parametrize("kind", ["v1", "v2", "attn"])
def test_the_last_layer_of_every_head_is_its_output(kind: str) -> None:
    head = build_head(HeadConfig(kind=kind, out_dim=3, hidden_dim=8), 32, copies=4)
    torch.nn.init.zeros_(head.output.weight)
    torch.nn.init.constant_(head.output.bias, 2.5)
    assert head(torch.rand(2, 5, 32)).tolist() == [[[2.5] * 12] * 5] * 2


def test_the_first_generation_of_heads_with_inner_layers() -> None:
    head = ReluHead(4, 8, 3, num_inner=2)
    x = torch.rand(2, 4)
    hidden = head.norm(head.fc1(x)).relu()
    for i in (0, 3):
        hidden = head.inner[i + 1](head.inner[i](hidden)).relu()
    torch.testing.assert_close(head(x), head.fc2(hidden))


def test_attention_heads_see_all_patches_and_need_a_width_of_16_heads() -> None:
    head = AttentionHead(32, 8, 3)
    for block in head.blocks:
        torch.nn.init.ones_(block.ls1.gamma)
    x = torch.rand(1, 5, 32)
    changed = x.clone()
    changed[:, 4] += 1
    assert not torch.equal(head(changed)[:, 0], head(x)[:, 0])
    with pytest.raises(ValueError, match="multiple of 16, not 40"):
        AttentionHead(40, 8, 3)


@pytest.mark.parametrize(
    "changes", [{"out_dim": 0}, {"hidden_dim": 10**7}, {"num_inner": 99}, {"norm_eps": 0.0}]
)
def test_heads_that_make_no_sense(changes: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="head"):
        HeadConfig(**{"out_dim": 1, "hidden_dim": 1, **changes})


def test_attention_is_for_features_without_inner_layers() -> None:
    attention = HeadConfig(kind="attn", out_dim=1, hidden_dim=1)
    with pytest.raises(ValueError, match="features only"):
        AdaptorConfig(name="a", features=attention, summary=attention, token_slot=0)
    with pytest.raises(ValueError, match="no inner layers"):
        HeadConfig(kind="attn", out_dim=1, hidden_dim=1, num_inner=1)


@pytest.mark.parametrize("name", ["backbone", "a.b", "", "keys", "../x"])
def test_adaptor_names_that_cannot_be(name: str) -> None:
    with pytest.raises(ValueError, match="adaptor name"):
        AdaptorConfig(name=name, features=HeadConfig(out_dim=1, hidden_dim=1))
