from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from radio_core import load_model
from radio_llava.tower import RadioVisionTower


def arguments(**values: Any) -> SimpleNamespace:
    return SimpleNamespace(**({"mm_vision_select_layer": -2, "radio_resolution": 64} | values))


@pytest.fixture
def tower() -> RadioVisionTower:
    return RadioVisionTower("toy", arguments())


@pytest.fixture(scope="module")
def images() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(3, *size, generator=generator) for size in [(64, 40), (24, 64), (64, 64)]]


def test_sizes_are_known_before_the_weights_are_loaded() -> None:
    lazy = RadioVisionTower("toy", arguments(), delay_load=True)
    before = (lazy.config, lazy.hidden_size, lazy.num_patches, lazy.num_patches_per_side)
    assert not lazy.is_loaded
    assert list(lazy.parameters()) == []
    lazy.load_model()
    assert before == (lazy.config, lazy.hidden_size, lazy.num_patches, lazy.num_patches_per_side)
    assert lazy.num_patches == 64
    assert lazy.hidden_size == load_model("toy").embed_dim


def test_the_sizes_of_a_release_need_no_download() -> None:
    lazy = RadioVisionTower("radio_h", SimpleNamespace(), delay_load=True)
    assert (lazy.hidden_size, lazy.num_patches, lazy.config.image_size) == (1280, 729, 432)
    two = RadioVisionTower("radio_l", SimpleNamespace(radio_layers=[7, 15]), delay_load=True)
    assert two.hidden_size == 2048


@pytest.mark.parametrize("adaptor", ["", *load_model("toy").adaptors])
def test_the_width_before_loading_is_that_of_the_features(
    adaptor: str, images: list[Tensor]
) -> None:
    lazy = RadioVisionTower("toy", arguments(radio_adaptor=adaptor), delay_load=True)
    width = lazy.hidden_size
    lazy.load_model()
    assert lazy(images)[0].shape[-1] == width


def test_a_batch_and_a_list_give_the_same_tokens(
    tower: RadioVisionTower, images: list[Tensor]
) -> None:
    batch = torch.stack([images[2], images[2].flip(-1)])
    tokens = tower(batch)
    assert isinstance(tokens, Tensor)
    assert tokens.shape == (2, 64, tower.hidden_size)
    listed = tower([*images, images[2].flip(-1)])
    assert [len(x) for x in listed] == [40, 24, 64, 64]
    torch.testing.assert_close(torch.stack(listed[2:]), tokens, atol=1e-5, rtol=1e-5)


def test_the_processors_images_go_straight_in(tower: RadioVisionTower) -> None:
    photos = [Image.new("RGB", (200, 130), "red"), Image.new("L", (31, 77))]
    tokens = tower(tower.image_processor(photos)["pixel_values"])
    assert [len(x) for x in tokens] == [8 * 6, 4 * 8]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_cast_gives_nearly_the_same_features(
    tower: RadioVisionTower, images: list[Tensor], dtype: torch.dtype
) -> None:
    expected = tower(images[2][None])
    tower.to(dtype=dtype)
    found = tower(images[2][None].to(dtype))
    assert found.dtype == tower.dtype == dtype
    assert torch.cosine_similarity(found.float(), expected, dim=-1).min() > 0.99
    assert tower(images[2][None]).dtype == torch.float32
    assert {b.dtype for b in tower.radio.conditioner.buffers()} == {torch.float32}


def test_features_that_overflow_in_float16_are_not_passed_on(
    tower: RadioVisionTower, images: list[Tensor]
) -> None:
    tower.half()
    with torch.no_grad():
        for weights in tower.radio.backbone.parameters():
            weights.fill_(6e4)
    with pytest.raises(ValueError, match="--bf16 True"):
        tower(images)


def test_a_frozen_tower_stays_in_eval_mode_and_keeps_no_graph(
    tower: RadioVisionTower, images: list[Tensor]
) -> None:
    model = nn.ModuleDict({"tower": tower, "projector": nn.Linear(tower.hidden_size, 3)}).train()
    assert tower.frozen
    assert not any(module.training for module in tower.modules())
    tokens = model["tower"](images[2][None])
    assert tokens.grad_fn is None
    assert not tokens.is_inference()
    model["projector"](tokens).sum().backward()


def test_gradients_reach_a_tower_that_is_not_frozen(images: list[Tensor]) -> None:
    tower = RadioVisionTower("toy", arguments(unfreeze_mm_vision_tower=True), delay_load=True)
    assert len(list(tower.parameters())) > 0
    tower.load_model()
    assert not tower.train().radio.training
    sum(x.pow(2).sum() for x in tower(images)).backward()
    without = {n for n, p in tower.radio.backbone.named_parameters() if p.grad is None}
    assert without == set()


def test_only_what_the_features_depend_on_is_trained(images: list[Tensor]) -> None:
    chosen = arguments(unfreeze_mm_vision_tower=True, radio_layers=[1])
    tower = RadioVisionTower("toy", chosen)
    sum(x.pow(2).sum() for x in tower(images)).backward()
    trained = {name for name, p in tower.named_parameters() if p.requires_grad}
    assert trained == {name for name, p in tower.named_parameters() if p.grad is not None}
    assert not any("adaptors" in name or "blocks.2" in name for name in trained)


def test_weights_that_are_not_trained_get_their_released_values_back(images: list[Tensor]) -> None:
    chosen = arguments(unfreeze_mm_vision_tower=True, radio_adaptor="clip")
    tower = RadioVisionTower("toy", chosen, delay_load=True)
    with torch.no_grad():
        for name, parameter in tower.named_parameters():
            if "adaptors.sam" in name or "adaptors.dino_v2" in name:
                parameter.fill_(torch.nan)
    tower.load_model()
    expected = load_model("toy").state_dict()
    found = tower.radio.state_dict()
    assert [n for n, x in expected.items() if not torch.equal(x, found[n])] == []


def test_a_tower_built_as_older_transformers_do_has_real_weights() -> None:
    accelerate = pytest.importorskip("accelerate", reason="needs the extra 'train'")
    register = nn.Module.register_parameter
    with accelerate.init_empty_weights():
        tower = RadioVisionTower("toy", arguments(unfreeze_mm_vision_tower=True))
        assert nn.Linear(1, 1).weight.is_meta
    assert nn.Module.register_parameter is register
    assert {x.device.type for x in (*tower.parameters(), *tower.buffers())} == {"cpu"}


def test_a_tower_in_training_keeps_its_float32_weights() -> None:
    tower = RadioVisionTower("toy", arguments(unfreeze_mm_vision_tower=True))
    tower.keeps_float32 = True
    assert tower.to(device="cpu", dtype=torch.float16).dtype == torch.float32
    assert tower.to(device="cpu", dtype=torch.bfloat16).dtype == torch.bfloat16


def test_a_cpu_is_spared_llavas_cast_to_float16() -> None:
    tower = RadioVisionTower("toy", arguments())
    assert tower.to(device="cpu", dtype=torch.float16).dtype == torch.float32
    assert tower.to(dtype=torch.float16).dtype == torch.float16


def test_buffers_that_lost_their_values_get_them_back(images: list[Tensor]) -> None:
    tower = RadioVisionTower("toy", arguments(unfreeze_mm_vision_tower=True), delay_load=True)
    for buffer in tower.buffers():
        buffer.fill_(3)
    tower.load_model()
    expected = RadioVisionTower("toy", arguments())(images)
    assert all(torch.equal(x, y) for x, y in zip(tower(images), expected, strict=True))


def test_features_and_scale_are_chosen_by_the_flags(images: list[Tensor]) -> None:
    chosen = arguments(radio_layers=[1, -1], radio_normalize="layer_norm")
    tokens = RadioVisionTower("toy", chosen)(images)[0]
    assert tokens.shape[-1] == 2 * load_model("toy").embed_dim
    torch.testing.assert_close(tokens.var(dim=-1, correction=0), torch.ones(40), atol=1e-3, rtol=0)


def test_what_a_model_recorded_counts_for_the_same_tower_alone() -> None:
    recorded = {"model": "toy", "resolution": 96, "aspect": "pad"}
    same = RadioVisionTower("toy", SimpleNamespace(radio_tower=recorded), delay_load=True)
    assert (same.tower_config.resolution, same.tower_config.aspect) == (96, "pad")
    other = RadioVisionTower("radio_h", SimpleNamespace(radio_tower=recorded), delay_load=True)
    assert other.tower_config.resolution == 432


def test_loading_again_changes_nothing(tower: RadioVisionTower) -> None:
    radio = tower.radio
    tower.load_model(device_map={"": "cpu"})
    assert tower.radio is radio


def test_a_tower_built_on_the_meta_device_has_real_float32_weights() -> None:
    torch.set_default_dtype(torch.float16)
    try:
        with torch.device("meta"):
            tower = RadioVisionTower("toy", arguments(unfreeze_mm_vision_tower=True))
    finally:
        torch.set_default_dtype(torch.float32)
    tower.load_model()
    tensors = [x for x in (*tower.parameters(), *tower.buffers()) if x.is_floating_point()]
    assert {(x.device.type, x.dtype) for x in tensors} == {("cpu", torch.float32)}


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("tory", {}, "unknown model 'tory'"),
        ("toy", {"mm_vision_select_feature": "cls_patch"}, "use 'patch'"),
        ("toy", {"radio_adaptor": "llava"}, "this model has"),
        ("toy", {"radio_layers": [77]}, "block indices"),
        ("toy", {"radio_aspect": "anyres"}, "native"),
    ],
)
def test_bad_choices_name_the_known_ones(name: str, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RadioVisionTower(name, arguments(**values))


def test_images_of_a_wrong_size_name_the_nearest(tower: RadioVisionTower) -> None:
    with pytest.raises(ValueError, match="nearest valid size is 64x40"):
        tower([torch.rand(3, 63, 41)])
