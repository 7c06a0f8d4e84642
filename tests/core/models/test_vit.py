import pytest
import torch

from radio_core.models import VisionTransformer, vit_config
from radio_core.models.position import ConvStem


def tiny(**overrides: object) -> VisionTransformer:
    torch.manual_seed(0)
    values = {"embed_dim": 16, "depth": 3, "num_heads": 2, "grid_size": 8, **overrides}
    return VisionTransformer(vit_config("tiny", **values)).eval()


@pytest.mark.parametrize("stem", ["patch", "conv"])
@pytest.mark.parametrize("summary", ["cls", "avg"])
@pytest.mark.parametrize("positions", ["cpe", "grid", "dinov2"])
def test_any_multiple_of_the_patch_is_a_valid_size(stem: str, summary: str, positions: str) -> None:
    vit = tiny(stem=stem, summary=summary, positions=positions, num_cls_tokens=2)
    for mode in (False, True):
        vit.train(mode)
        for rows, cols in [(1, 1), (3, 5), (8, 8), (11, 2)]:
            output = vit(torch.rand(2, 3, 8 * rows, 8 * cols))
            assert output.features.shape == (2, 16, rows, cols)
            assert output.summary.shape == (2, 2 if summary == "cls" else 1, 16)


def test_average_summary_is_the_mean_of_the_features_and_has_no_class_token() -> None:
    vit = tiny(summary="avg", num_registers=3)
    output = vit(torch.rand(2, 3, 16, 24))
    torch.testing.assert_close(output.summary[:, 0], output.features.mean(dim=(2, 3)))
    assert vit.state_dict()["patch_generator.cls_token.token"].shape == (3, 16)


def test_no_prefix_token_at_all() -> None:
    vit = tiny(summary="avg", num_registers=0)
    assert not any("cls_token" in key for key in vit.state_dict())
    assert vit(torch.rand(1, 3, 16, 32), window_size=2).features.shape == (1, 16, 2, 4)


@pytest.mark.parametrize("size", [(60, 64), (64, 67), (0, 64)])
def test_wrong_side_names_the_nearest_valid_size(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"nearest valid size is \d+x64"):
        tiny()(torch.rand(1, 3, *size))


def test_windowed_size_must_be_a_multiple_of_patch_times_window() -> None:
    with pytest.raises(ValueError, match=r"multiple of 32 .* nearest valid size is 32x64"):
        tiny()(torch.rand(1, 3, 40, 64), window_size=4)
    with pytest.raises(ValueError, match="window_size must be at least 1"):
        tiny()(torch.rand(1, 3, 64, 64), window_size=0)


def test_integer_images_are_refused() -> None:
    with pytest.raises(ValueError, match="x / 255"):
        tiny()(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))


def test_gradients_reach_every_parameter() -> None:
    vit = tiny(init_values=1e-3, final_norm=True, num_registers=1).train()
    output = vit(torch.rand(4, 3, 32, 48), window_size=2)
    (output.features.square().sum() + output.summary.square().sum()).backward()
    assert [n for n, p in vit.named_parameters() if p.grad is None] == []


def test_layer_scale_of_zero_leaves_the_tokens_alone() -> None:
    vit = tiny(init_values=0.0)
    images = torch.rand(1, 3, 32, 32)
    states = vit.run_blocks(images, collect=[0])
    torch.testing.assert_close(states.final, vit.patch_generator(images))
    torch.testing.assert_close(states.collected[0], states.final)


def test_training_is_repeatable_by_the_global_seed() -> None:
    vit = tiny().train()
    images = torch.rand(3, 3, 32, 32)
    runs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        runs.append(vit(images).features)
    torch.testing.assert_close(runs[0], runs[1], rtol=0, atol=0)
    assert not torch.allclose(runs[0], runs[2])


def test_presets_have_the_published_sizes() -> None:
    sizes = {"base": (86, 768), "large": (304, 1024), "huge": (632, 1280)}
    for preset, (millions, width) in sizes.items():
        config = vit_config(preset, patch_size=14, positions="grid", grid_size=16)
        with torch.device("meta"):
            vit = VisionTransformer(config)
        count = sum(p.numel() for p in vit.parameters()) / 1e6
        assert config.embed_dim == width
        assert count == pytest.approx(millions, rel=0.01)
    assert (vit_config("huge").grid_size, vit_config("huge", patch_size=14).grid_size) == (128, 146)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"num_heads": 3}, "not a multiple of num_heads"),
        ({"depth": 0}, "depth must be from 1"),
        ({"depth": 10**9}, "depth must be from 1"),
        ({"mlp_ratio": float("nan")}, "mlp_ratio"),
        ({"num_cls_tokens": 0}, 'or use "avg"'),
    ],
)
def test_configurations_that_make_no_sense(overrides: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        vit_config("tiny", **overrides)


def test_unknown_preset_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match="known: tiny, small, base, large, huge"):
        vit_config("giant")


def test_conv_stem_halves_once_per_factor_of_two() -> None:
    for patch_size in (2, 4, 8, 16):
        stem = ConvStem(patch_size, 32)
        assert stem(torch.rand(2, 3, 32, 48)).shape == (2, 32 * 48 // patch_size**2, 32)
    with pytest.raises(ValueError, match="2, 4, 8, 16"):
        ConvStem(14, 32)


def test_backbone_in_half_precision_keeps_its_dtype() -> None:
    vit = tiny(stem="patch").bfloat16()
    output = vit(torch.rand(1, 3, 24, 40).bfloat16())
    assert output.features.dtype == output.summary.dtype == torch.bfloat16
