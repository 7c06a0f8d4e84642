"""RADIO, teachers and people's own models as LLaVA's vision towers."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from radio_core import RadioModel, load_model
from radio_core.config_file import to_mapping
from radio_core.models import RadioConfig
from radio_core.models.eradio import eradio_config
from radio_core.teachers import TOY_TEACHERS, load_teacher
from radio_llava import tower as towers
from radio_llava.features import TowerConfig, feature_dim, freeze_unused, normalised, tower_features
from radio_llava.tower import VisionTower


@pytest.fixture
def toys() -> None:
    """The toy teachers can be loaded."""
    for module, extra in (
        ("open_clip", "clip"),
        ("transformers", "hf"),
        ("segment_anything", "sam"),
    ):
        pytest.importorskip(module, reason=f"needs the extra {extra!r}")


def arguments(**values: Any) -> SimpleNamespace:
    return SimpleNamespace(**({"mm_vision_select_layer": -2, "radio_resolution": 64} | values))


def given(**values: Any) -> SimpleNamespace:
    return SimpleNamespace(**({"mm_vision_select_layer": -2} | values))


@pytest.fixture
def tower() -> VisionTower:
    return VisionTower("toy", arguments())


@pytest.fixture(scope="module")
def toy() -> RadioModel:
    return load_model("toy")


@pytest.fixture(scope="module")
def teacher() -> VisionTower:
    pytest.importorskip("transformers", reason="needs the extra 'hf'")
    return VisionTower("toy-dino", SimpleNamespace())


def test_a_batch_of_mixed_sizes_equals_one_image_at_a_time(
    toy: RadioModel, images: list[Tensor]
) -> None:
    config = TowerConfig(model="toy")
    with torch.no_grad():
        several = [*images[:2], images[0].flip(-1)]
        together = tower_features(toy, several, config)
        alone = [tower_features(toy, [image], config)[0] for image in several]
    assert [len(x) for x in together] == [40, 24, 40]
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_the_default_is_the_backbones_last_features(toy: RadioModel, images: list[Tensor]) -> None:
    with torch.no_grad():
        found = tower_features(toy, images[0][None], TowerConfig(model="toy"))
        expected = toy(images[0][None])
    assert torch.equal(found[0], expected.features[0])


def test_layers_are_put_side_by_side_in_the_order_asked_for(
    toy: RadioModel, images: list[Tensor]
) -> None:
    config = TowerConfig(model="toy", layers=(-1, 0))
    with torch.no_grad():
        found = tower_features(toy, images[:1], config)[0]
        first, last = toy.forward_intermediates(
            images[0][None], [0, -1], output_fmt="NLC", intermediates_only=True
        )
    assert torch.equal(found, torch.cat([last[0], first[0]], dim=-1))
    assert feature_dim(toy, config) == found.shape[-1] == 2 * toy.embed_dim


def test_an_adaptors_features_have_its_width(toy: RadioModel, images: list[Tensor]) -> None:
    for name in toy.adaptors:
        config = TowerConfig(model="toy", adaptor=name)
        with torch.no_grad():
            found = tower_features(toy, images[:1], config)[0]
        assert found.shape[-1] == feature_dim(toy, config)


def test_normalised_features_have_unit_scale() -> None:
    features = 500 * torch.randn(2, 7, 32).half() + 40
    layer_norm, unit = (normalised(features, how).float() for how in ("layer_norm", "unit_scale"))
    torch.testing.assert_close(layer_norm.mean(dim=-1), torch.zeros(2, 7), atol=2e-3, rtol=0)
    for scaled in (layer_norm, unit):
        rms = scaled.pow(2).mean(dim=-1).sqrt()
        torch.testing.assert_close(rms, torch.ones(2, 7), atol=2e-3, rtol=0)
    torch.testing.assert_close(
        torch.cosine_similarity(unit, features.float(), dim=-1), torch.ones(2, 7)
    )
    assert torch.equal(normalised(features, "none"), features)


@pytest.mark.parametrize(
    "choice", [{}, {"adaptor": "clip"}, {"layers": (1,)}, {"layers": (-1, 0)}, {"model": "e-radio"}]
)
def test_exactly_what_gets_gradients_is_left_to_be_trained(
    choice: dict[str, Any], images: list[Tensor]
) -> None:
    config = TowerConfig(**({"model": "toy"} | choice))
    student = RadioConfig(backbone=eradio_config("eradio_xxxtiny", dim=16))
    radio = load_model("toy") if config.model == "toy" else RadioModel(student).eval()
    freeze_unused(radio, config)
    sizes = images if config.model == "toy" else [torch.rand(3, 64, 96)]
    sum((x * torch.randn_like(x)).sum() for x in tower_features(radio, sizes, config)).backward()
    trained = {name for name, p in radio.named_parameters() if p.requires_grad}
    assert trained == {name for name, p in radio.named_parameters() if p.grad is not None}
    assert any(name.startswith("backbone.") for name in trained)
    assert any("adaptors." in name for name in trained) == bool(config.adaptor)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model": ""}, "needs a model"),
        ({"resolution": 0}, "at least 1 pixel"),
        ({"aspect": "anyres"}, "known: native, pad, square"),
        ({"normalize": "batch"}, "known: none, layer_norm"),
        ({"layers": ()}, "at least one block"),
        ({"layers": (1,), "adaptor": "clip"}, "layers or an adaptor"),
    ],
)
def test_a_tower_config_refuses_what_makes_no_sense(
    fields: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        TowerConfig(**({"model": "toy"} | fields))  # type: ignore[arg-type]


def test_nothing_is_read_before_the_weights_are_needed() -> None:
    lazy = VisionTower("toy", arguments(), delay_load=True)
    assert not lazy.is_loaded
    assert list(lazy.parameters()) == []
    assert (lazy.hidden_size, lazy.num_patches, lazy.config.image_size) == (128, 64, 64)
    assert lazy.is_loaded


def test_a_batch_and_a_list_give_the_same_tokens(tower: VisionTower, images: list[Tensor]) -> None:
    batch = torch.stack([images[2], images[2].flip(-1)])
    tokens = tower(batch)
    assert isinstance(tokens, Tensor)
    assert tokens.shape == (2, 64, tower.hidden_size)
    listed = tower([*images, images[2].flip(-1)])
    assert [len(x) for x in listed] == [40, 24, 64, 64]
    torch.testing.assert_close(torch.stack(listed[2:]), tokens, atol=1e-5, rtol=1e-5)


def test_the_processors_images_go_straight_in(tower: VisionTower) -> None:
    photos = [Image.new("RGB", (200, 130), "red"), Image.new("L", (31, 77))]
    tokens = tower(tower.image_processor(photos)["pixel_values"])
    assert [len(x) for x in tokens] == [8 * 6, 4 * 8]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_cast_gives_nearly_the_same_features(
    tower: VisionTower, images: list[Tensor], dtype: torch.dtype
) -> None:
    expected = tower(images[2][None])
    tower.to(dtype=dtype)
    found = tower(images[2][None].to(dtype))
    assert found.dtype == tower.dtype == dtype
    assert torch.cosine_similarity(found.float(), expected, dim=-1).min() > 0.99
    assert tower(images[2][None]).dtype == torch.float32
    assert {b.dtype for b in tower.radio.conditioner.buffers()} == {torch.float32}


def test_features_that_overflow_in_float16_are_not_passed_on(
    tower: VisionTower, images: list[Tensor]
) -> None:
    tower.half()
    with torch.no_grad():
        for weights in tower.radio.backbone.parameters():
            weights.fill_(6e4)
    with pytest.raises(ValueError, match="--bf16 True"):
        tower(images)


def test_a_frozen_tower_stays_in_eval_mode_and_keeps_no_graph(
    tower: VisionTower, images: list[Tensor]
) -> None:
    model = nn.ModuleDict({"tower": tower, "projector": nn.Linear(tower.hidden_size, 3)}).train()
    assert tower.frozen
    assert not any(module.training for module in tower.modules())
    tokens = model["tower"](images[2][None])
    assert tokens.grad_fn is None
    assert not tokens.is_inference()
    model["projector"](tokens).sum().backward()


def test_gradients_reach_a_tower_that_is_not_frozen(images: list[Tensor]) -> None:
    tower = VisionTower("toy", arguments(unfreeze_mm_vision_tower=True), delay_load=True)
    assert len(list(tower.parameters())) > 0
    tower.load_model()
    assert not tower.train().radio.training
    sum(x.pow(2).sum() for x in tower(images)).backward()
    without = {n for n, p in tower.radio.backbone.named_parameters() if p.grad is None}
    assert without == set()


def test_weights_that_are_not_trained_get_their_released_values_back(images: list[Tensor]) -> None:
    chosen = arguments(unfreeze_mm_vision_tower=True, radio_adaptor="clip")
    tower = VisionTower("toy", chosen, delay_load=True)
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
        tower = VisionTower("toy", arguments(unfreeze_mm_vision_tower=True))
        assert nn.Linear(1, 1).weight.is_meta
    assert nn.Module.register_parameter is register
    assert {x.device.type for x in (*tower.parameters(), *tower.buffers())} == {"cpu"}


def test_llavas_cast_to_float16_spares_a_cpu_and_weights_in_training() -> None:
    frozen, trained = (
        VisionTower("toy", arguments(unfreeze_mm_vision_tower=unfreeze)) for unfreeze in (0, 1)
    )
    trained.keeps_float32 = True
    for tower in (frozen, trained):
        assert tower.to(device="cpu", dtype=torch.float16).dtype == torch.float32
    assert trained.to(device="cpu", dtype=torch.bfloat16).dtype == torch.bfloat16
    assert trained.to(dtype=torch.float16).dtype == torch.float32
    assert frozen.to(dtype=torch.float16).dtype == torch.float16


def test_buffers_that_lost_their_values_get_them_back(images: list[Tensor]) -> None:
    tower = VisionTower("toy", arguments(unfreeze_mm_vision_tower=True), delay_load=True)
    for buffer in tower.buffers():
        buffer.fill_(3)
    tower.load_model()
    expected = VisionTower("toy", arguments())(images)
    assert all(torch.equal(x, y) for x, y in zip(tower(images), expected, strict=True))


def test_what_a_model_recorded_counts_for_the_same_tower_alone() -> None:
    recorded = {"model": "toy", "resolution": 96, "aspect": "pad"}
    same = VisionTower("toy", SimpleNamespace(radio_tower=recorded), delay_load=True)
    assert (same.tower_config.resolution, same.tower_config.aspect) == (96, "pad")
    other = VisionTower("radio_h", SimpleNamespace(radio_tower=recorded), delay_load=True)
    assert other.tower_config.resolution == 432


def test_loading_again_changes_nothing(tower: VisionTower) -> None:
    radio = tower.radio
    tower.load_model(device_map={"": "cpu"})
    assert tower.radio is radio


def test_a_tower_built_on_the_meta_device_has_real_float32_weights() -> None:
    torch.set_default_dtype(torch.float16)
    try:
        with torch.device("meta"):
            tower = VisionTower("toy", arguments(unfreeze_mm_vision_tower=True))
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
        VisionTower(name, arguments(**values))


def test_images_of_a_wrong_size_name_the_nearest(tower: VisionTower) -> None:
    with pytest.raises(ValueError, match="nearest valid size is 64x40"):
        tower([torch.rand(3, 63, 41)])


@pytest.mark.parametrize("name", TOY_TEACHERS)
@pytest.mark.usefixtures("toys")
def test_tokens_are_the_teachers_features_row_by_row(name: str) -> None:
    tower = VisionTower(name, given())
    size = tower.config.image_size
    images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    maps = load_teacher(name)(images).features  # [2, F, h, w]
    tokens = tower(images)
    assert isinstance(tokens, Tensor)
    assert tokens.shape == (2, tower.num_patches, tower.hidden_size)
    side = tower.num_patches_per_side
    torch.testing.assert_close(tokens[:, 2 * side + 1], maps[:, :, 2, 1])
    listed = tower([*images])
    assert isinstance(listed, list)
    torch.testing.assert_close(torch.stack(listed), tokens)


def test_images_are_padded_with_the_mean_colour_to_the_teachers_square(
    teacher: VisionTower,
) -> None:
    wide = Image.new("RGB", (200, 100), "white")
    pixels = teacher.image_processor.preprocess(wide)["pixel_values"][0]
    assert pixels.shape == (3, 84, 84)
    mean = torch.tensor(teacher.image_processor.image_mean)
    torch.testing.assert_close(pixels[:, 0, 0], mean, atol=1 / 255, rtol=0)
    torch.testing.assert_close(pixels[:, 42, 42], torch.ones(3))


def test_a_teacher_is_frozen_and_keeps_no_graph(teacher: VisionTower) -> None:
    teacher.train()
    assert not any(module.training for module in teacher.modules())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert teacher(torch.rand(1, 3, 84, 84)).grad_fn is None


def test_the_weights_must_be_those_of_the_training(teacher: VisionTower) -> None:
    config = to_mapping(teacher.tower_config)
    recorded = {"radio_tower": config, "mm_hidden_size": 128}
    assert (config["resolution"], config["aspect"]) == (84, "pad")
    again = VisionTower("toy-dino", given(**recorded), delay_load=True)
    assert not again.is_loaded
    assert (again.hidden_size, again.num_patches) == (128, teacher.num_patches)
    for other in ({"mm_hidden_size": 5}, {"radio_tower": config | {"resolution": 5}}):
        with pytest.raises(ValueError, match="put the teacher of its training there"):
            VisionTower("toy-dino", given(**recorded | other))
    with pytest.raises(ValueError, match="colour"):
        VisionTower("toy-dino", given(radio_tower=config | {"colour": 5}))
    assert VisionTower("toy-sam", given(**recorded)).hidden_size == 80  # the record is another's


@pytest.mark.usefixtures("toys")
def test_a_model_of_peoples_own_code_is_a_tower_where_they_named_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_eyes.py").write_text(
        "from radio_core.teachers import load_teacher\n"
        "def mine(*_):\n    return load_teacher('toy-sam')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("radio_llava.tower.TRUSTED", set[str]())
    named = SimpleNamespace(mm_vision_tower="my_eyes:mine")
    with pytest.raises(ValueError, match="names code for its vision tower"):
        VisionTower("my_eyes:mine", named)
    assert "my_eyes" not in sys.modules
    towers.TRUSTED.add("my_eyes:mine")
    images = torch.rand(1, 3, 128, 128)
    found = VisionTower("my_eyes:mine", named)(images)
    assert torch.equal(found, VisionTower("toy-sam", given())(images))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"radio_layers": [3]}, "leave out --radio_layers"),
        ({"radio_adaptor": "sam", "radio_resolution": 64}, "--radio_resolution, --radio_adaptor"),
        ({"unfreeze_mm_vision_tower": True}, "--unfreeze_mm_vision_tower"),
        ({"mm_vision_select_feature": "cls_patch"}, "gives patches; use"),
    ],
)
def test_flags_that_only_radio_has_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VisionTower("toy-dino", given(**values))


@pytest.mark.usefixtures("toys")
def test_images_of_another_size_and_unknown_teachers_are_refused() -> None:
    with pytest.raises(ValueError, match="takes images of 64 x 64 pixels only"):
        VisionTower("toy-clip", given())([torch.rand(3, 64, 64), torch.rand(3, 64, 48)])
    with pytest.raises(ValueError, match="known"):
        VisionTower("sam:nowhere", given())


@pytest.mark.usefixtures("toys")
def test_a_teacher_is_cast_but_to_float16_on_the_cpu() -> None:
    tower = VisionTower("toy-sam", given())
    expected = tower(torch.full((1, 3, 128, 128), 0.5))
    assert tower.to(device="cpu", dtype=torch.float16).dtype == torch.float32
    tower.to(dtype=torch.bfloat16)
    found = tower(torch.full((1, 3, 128, 128), 0.5, dtype=torch.bfloat16))
    assert found.dtype == torch.bfloat16
    assert torch.cosine_similarity(found.float(), expected, dim=-1).min() > 0.99
