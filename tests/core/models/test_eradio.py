"""E-RADIO can be deployed, trained and configured; `test_golden` has the released numbers."""

import copy
import json
from typing import Any

import pytest
import torch
from torch import Tensor

from radio_core.config_file import from_mapping, to_mapping
from radio_core.models.eradio import ERadio, ERadioConfig, ERadioMaps, eradio_config
from radio_core.models.eradio_blocks import ConvBN

PRESETS = [
    "eradio",
    "eradio_large_fullres_ws16",
    "eradio_xxxtiny",
    "eradio_xxxtiny_8x_ws12",
    "eradio_xxxtiny_8x_ws16",
]


def tiny(**options: Any) -> ERadio:
    """A model with every feature, with weights and statistics away from their initial values."""
    sizes = {"depths": [1, 1, 2, 1], "dim": 8, "in_dim": 8, "num_heads": [1, 2, 2, 4]}
    sizes |= {"window_size": [None, None, 4, 4], "full_features_head_dim": 16, "cpb_mlp_hidden": 8}
    torch.manual_seed(0)
    model = ERadio(eradio_config("eradio", **{**sizes, **options}))
    with torch.no_grad():
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            if "running_var" in name:
                tensor.uniform_(0.5, 1.5)
            elif tensor.is_floating_point():
                tensor.add_(torch.randn_like(tensor) * 0.1)
    return model.eval()


def images(height: int, width: int, batch: int = 1) -> Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(1))


@torch.inference_mode()
def test_deploying_changes_no_output_at_any_window() -> None:
    model, x = tiny(), images(96, 64)
    deployed = copy.deepcopy(model)
    assert deployed.switch_to_deploy() is deployed
    assert not any(".bn." in name for name in deployed.state_dict() if name.startswith("levels"))
    for window in (4, 2, 3):
        for each in (model, deployed):
            each.change_window_size(window)
        wanted, found = model(x).features, deployed(x).features
        torch.testing.assert_close(found, wanted, rtol=0, atol=5e-5)
        assert torch.equal(deployed.switch_to_deploy()(x).features, found)


@torch.inference_mode()
def test_deploying_uses_the_weights_of_that_moment() -> None:
    model, x = tiny(), images(64, 64)
    before = model(x).features
    for name, parameter in model.named_parameters():
        if "cpb_mlp" in name:
            parameter.mul_(-3)
    changed = model(x).features
    assert not torch.allclose(changed, before, atol=1e-4)
    torch.testing.assert_close(model.switch_to_deploy()(x).features, changed, rtol=0, atol=1e-5)


def test_a_deployed_model_refuses_training_mode() -> None:
    model = tiny().train().switch_to_deploy()
    assert not model.training
    with pytest.raises(ValueError, match="cannot be trained"):
        model.train()
    assert not model.eval().training


def test_the_optimal_window_divides_the_smallest_map() -> None:
    model = tiny()
    sizes = [model.levels[level].blocks for level in (2, 3)]
    for size, limit, window in ((512, 16, 16), ((768, 1024), 16, 12), (1024, 12, 8), (32, 16, 1)):
        model.set_optimal_window_size(size, limit)
        assert [blocks.window_size for blocks in sizes] == [window, window]
    for size, limit in ((16, 16), (512, 0)):
        with pytest.raises(ValueError, match="at least"):
            model.set_optimal_window_size(size, limit)
    for window in (0, 65):
        with pytest.raises(ValueError, match="from 1 to 64"):
            model.change_window_size(window)


@torch.inference_mode()
@pytest.mark.parametrize(
    "options",
    [
        {"sr_ratio": [1, 1, [4, 2, 1], [2, 1]]},
        {"conv_groups_ratio": -1},
        {"layer_scale": 0.5},
        {"neck_start_stage": 3},
        {"conv_base": False, "conv_groups_ratio": 0.25},
    ],
)
def test_shapes_hold_with_every_option(options: dict[str, Any]) -> None:
    model, x = tiny(**options), images(96, 160, batch=2)
    maps = model.forward_levels(x)
    assert isinstance(maps, ERadioMaps)
    for i, before in enumerate(maps.before):
        assert before.shape == (2, 8 << i, 24 >> i, 40 >> i)
        if i < 3:
            assert maps.after[i].shape == (2, 16 << i, 12 >> i, 20 >> i)
    assert maps.after[3] is maps.before[3]
    output = model(x)
    patch = model.patch_size
    assert output.features.shape == (2, model.embed_dim, 96 // patch, 160 // patch)
    assert output.summary.shape == (2, model.num_summary_tokens, model.embed_dim)
    torch.testing.assert_close(output.summary[:, 0], output.features.mean((2, 3)))
    torch.testing.assert_close(model.switch_to_deploy()(x).features, output.features)


@torch.inference_mode()
def test_layer_scale_of_one_is_no_layer_scale() -> None:
    plain, scaled = tiny(), tiny(layer_scale=1.0)
    scaled.load_state_dict(plain.state_dict(), strict=False)
    gammas = [p for name, p in scaled.named_parameters() if "gamma" in name]
    assert len(gammas) == 2 * 5
    for gamma in gammas:
        gamma.fill_(1)
    x = images(64, 64)
    assert torch.equal(scaled(x).features, plain(x).features)
    gammas[0].fill_(0)
    assert not torch.equal(scaled(x).features, plain(x).features)


@torch.inference_mode()
def test_images_of_a_batch_do_not_see_each_other() -> None:
    model, x = tiny(), images(96, 64, batch=2)
    features = model(x).features
    for i in range(2):
        torch.testing.assert_close(model(x[i : i + 1]).features, features[i : i + 1])


@torch.inference_mode()
def test_the_memory_layout_of_the_images_is_kept() -> None:
    model, x = tiny(), images(64, 96, batch=2)
    wanted = model(x).features
    found = model(x.contiguous(memory_format=torch.channels_last)).features
    assert wanted.is_contiguous()
    assert found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found, wanted)


def test_wrong_images_and_windows_are_refused() -> None:
    model = tiny()
    with pytest.raises(ValueError, match=r"multiple of 32 .* 64x96"):
        model(images(72, 90))
    with pytest.raises(ValueError, match="no windowed"):
        model(images(64, 64), window_size=4)


def test_gradients_reach_every_parameter_in_training() -> None:
    model = tiny(layer_scale=0.5).train()
    mean = model.patch_embed.conv_down[0].bn.running_mean.clone()
    output = model(images(64, 96, batch=2))
    (output.features.square().mean() + output.summary.square().mean()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    assert not torch.equal(model.patch_embed.conv_down[0].bn.running_mean, mean)


def test_training_mode_uses_the_statistics_of_the_batch() -> None:
    model, x = tiny(), images(64, 64, batch=2)
    with torch.no_grad():
        wanted = model(x).features
        assert not torch.allclose(copy.deepcopy(model).train()(x).features, wanted, atol=1e-3)
        assert torch.equal(model(x).features, wanted)


@torch.inference_mode()
def test_bfloat16_stays_close() -> None:
    model, x = tiny(), images(64, 64)
    wanted = model(x).features
    found = model.bfloat16()(x.bfloat16()).features
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), wanted, rtol=0.1, atol=0.1 * wanted.std().item())


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_survive_config_json(preset: str) -> None:
    config = eradio_config(preset)
    text = json.loads(json.dumps(to_mapping(config)))
    assert next(iter(text.items())) == ("type", "eradio")
    assert from_mapping(ERadioConfig, text) == config
    with torch.device("meta"):
        assert ERadio(config).embed_dim == config.embed_dim
    assert config.resolution_step == 32
    assert config.patch_size == (8 if preset.endswith("8x_ws16") else 16)


def test_official_options_are_understood() -> None:
    config = eradio_config(
        "eradio",
        window_size=[None, None, [8, 8], 6],
        sr_ratio=[1, 1, [2, 1], [1]],
        depths=[1, 2, 3, 4],
        mlp_ratio=3,
        return_full_features=True,
        use_swiglu=False,
    )
    assert config.window_sizes == (8, 6)
    assert config.sr_ratios == ((2, 1), (1,))
    assert config.depths == (1, 2, 3, 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"use_swiglu": True, "multi_query": True}, "use_swiglu=True, multi_query=True"),
        ({"return_full_features": False}, "return_full_features=False"),
        ({"window": 4}, "unknown E-RADIO option 'window'"),
        ({"window_size": [None, None, [8, 4], 4]}, "share one size"),
        ({"window_size": 4}, "list of 4 levels"),
        ({"window_size": [None, None, 1, 4]}, "window_sizes must be from 2 to 64"),
        ({"window_size": [None, None, None, 4]}, "window_sizes.0 must be int"),
        ({"sr_ratio": [1, 1, [3, 2], 1]}, "divide the largest"),
        ({"sr_ratio": [1, 1, [], 1]}, "sr_ratios of level 2"),
        ({"sr_ratio": [1, 1, 1, [16, 1]]}, "from 1 to 8"),
        ({"depths": [1, 1, 1]}, "depths must be"),
        ({"depths": [1, 1, 1, 10**9]}, "depths must be from 1 to 128"),
        ({"dim": 9}, "dim must be even"),
        ({"dim": 1 << 20}, "dim must be from 2 to 2048"),
        ({"num_heads": [1, 1, 7, 1]}, "not a multiple of 7 heads"),
        ({"conv_groups_ratio": 0.3}, "do not divide the width"),
        ({"conv_groups_ratio": 2}, "conv_groups_ratio must be"),
        ({"neck_start_stage": 0}, "neck_start_stage must be from 1 to 3"),
    ],
)
def test_wrong_options_are_refused_by_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        eradio_config("eradio", **options)
    with pytest.raises(ValueError, match="known: eradio, eradio_large_fullres_ws16"):
        eradio_config("eradio_huge", **options)


@pytest.mark.parametrize(("in_dim", "stride", "kernel_size"), [(48, 1, 3), (8, 2, 3), (12, 1, 1)])
def test_a_convolution_of_many_channels_on_few_cells_is_the_same_convolution(
    in_dim: int, stride: int, kernel_size: int
) -> None:
    torch.manual_seed(0)
    unit = ConvBN(in_dim, 48, kernel_size, stride=stride).eval()
    for x in (torch.randn(1, in_dim, 4, 6), torch.randn(2, in_dim, 2, 4)):
        wanted = unit.bn(unit.conv(x))
        torch.testing.assert_close(unit(x), wanted, atol=1e-5, rtol=1e-5)
        folded = copy.deepcopy(unit)
        folded.fold()
        torch.testing.assert_close(folded(x), wanted, atol=1e-5, rtol=1e-5)
