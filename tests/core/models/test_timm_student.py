"""The families of the paper's Table 7 as students, with small members and random weights."""

import copy
import json
from pathlib import Path

import pytest
import timm
import torch

from radio_core.config_file import from_mapping, to_mapping
from radio_core.models import (
    AdaptorConfig,
    ERadioConfig,
    HeadConfig,
    RadioConfig,
    RadioModel,
    TimmConfig,
    TimmStudent,
    vit_config,
)
from radio_core.models.config import read_config

# One of each family that timm has (it has no FasterViT), the step of its image sides, and its
# width: that of the maps with cells of 16 and 32 pixels together.
FAMILIES = {
    "tf_efficientnetv2_b0": (32, 112 + 192),
    "resnetv2_18": (32, 256 + 512),
    "regnety_002": (32, 152 + 368),
    "efficientvit_b0": (32, 64 + 128),
    "convnext_atto": (32, 160 + 320),
    "test_nfnet": (32, 96 + 192),
    "swinv2_tiny_window8_256": (32, 384 + 768),
    "test_maxvit": (160, 96 + 128),
    "poolformerv2_s12": (32, 320 + 512),
    "mvitv2_tiny": (32, 384 + 768),
}
HEAD = HeadConfig(out_dim=4, hidden_dim=8)


def model_of(config: TimmConfig) -> RadioModel:
    adaptor = AdaptorConfig(name="clip", features=HEAD, summary=HEAD, token_slot=0)
    return RadioModel(RadioConfig(backbone=config, adaptors=(adaptor,)))


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_gives_maps_at_stride_16_and_their_mean(name: str) -> None:
    step, width = FAMILIES[name]
    config = TimmConfig(name=name)
    assert (config.resolution_step, config.patch_size, config.embed_dim) == (step, 16, width)
    torch.manual_seed(0)
    student = TimmStudent(config)
    height, side = (step, 2 * step) if step < 100 else (step, step)
    output = student(torch.randn(2, 3, height, side))
    assert output.features.shape == (2, width, height // 16, side // 16)
    torch.testing.assert_close(output.summary[:, 0], output.features.mean(dim=(2, 3)))
    output.features.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in student.parameters())
    with pytest.raises(ValueError, match=f"multiple of {step} pixels.*nearest valid size is"):
        student(torch.randn(1, 3, step + 16, step))


@pytest.mark.parametrize("name", ["swinv2_tiny_window8_256", "test_maxvit", "test_nfnet"])
def test_a_saved_student_comes_back_without_a_download(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_of(TimmConfig(name=name)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    model.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    monkeypatch.setattr("socket.socket.connect", None)  # nothing may reach for the network
    again = RadioModel.from_pretrained(tmp_path)
    assert again.config == model.config
    step = model.min_resolution_step
    images = torch.rand(2, 3, step, step)
    wanted = model.forward_all(images, ["clip"])
    for part, output in again.forward_all(images, ["clip"]).items():
        torch.testing.assert_close(output.features, wanted[part].features, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(output.summary, wanted[part].summary, rtol=1e-4, atol=1e-4)


def test_a_copy_computes_with_its_own_weights() -> None:
    student = TimmStudent(TimmConfig(name="test_nfnet")).eval()
    twin = copy.deepcopy(student)
    with torch.no_grad():
        for parameter in twin.network.parameters():
            parameter.zero_()
    images = torch.randn(1, 3, 32, 32)
    assert not torch.equal(student(images).features, twin(images).features)


def test_stride_32_gives_the_last_map_alone() -> None:
    config = TimmConfig(name="convnext_atto", feature_stride=32)
    assert (config.patch_size, config.embed_dim) == (32, 320)
    assert TimmStudent(config)(torch.randn(1, 3, 64, 64)).features.shape == (1, 320, 2, 2)
    assert TimmConfig(name="convnext_atto", feature_stride=8).embed_dim == 80 + 160 + 320
    assert TimmConfig(name="convnext_atto", feature_stride=64).patch_size == 32


def test_a_transformer_of_timm_takes_any_multiple_of_its_patches() -> None:
    config = TimmConfig(name="test_vit")
    assert (config.resolution_step, config.embed_dim) == (16, 64)
    assert TimmStudent(config)(torch.randn(1, 3, 48, 80)).features.shape == (1, 64, 3, 5)


def test_networks_for_one_size_say_so() -> None:
    model = model_of(TimmConfig(name="coatnet_pico_rw_224", image_size=64))
    assert model.nearest_supported_resolution(500, 300) == (64, 64)
    assert model.forward_all(torch.rand(1, 3, 64, 64))["backbone"].features.shape[-2:] == (4, 4)
    with pytest.raises(ValueError, match="takes images of 64x64 pixels only"):
        model(torch.rand(1, 3, 128, 128))
    assert TimmConfig(name="test_maxvit", image_size=64).resolution_step == 64


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "regnety_0"}, "unknown timm network 'regnety_0'; similar: regnety_002"),
        ({"name": "fastervit_0"}, "unknown timm network 'fastervit_0'"),
        ({"name": "hf-hub:somebody/something"}, "unknown timm network"),
        ({"name": "vit_tiny_patch16_224.augreg_in21k"}, "without the tag of pretrained weights"),
        ({"name": "inception_v3"}, "gives no maps with cells of"),
        ({"name": "regnety_002", "image_size": 256}, "takes any image size: leave image_size None"),
        ({"name": "regnety_002", "image_size": 100_000}, "image_size must be from 1 to 4096"),
        ({"name": "regnety_002", "feature_stride": 0}, "feature_stride must be from 1 to 256"),
    ],
)
def test_what_cannot_be_a_student_is_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TimmConfig(**fields)  # type: ignore[arg-type]


def test_windows_are_no_mode_of_it() -> None:
    student = TimmStudent(TimmConfig(name="test_nfnet"))
    with pytest.raises(ValueError, match="no windowed"):
        student(torch.randn(1, 3, 32, 32), window_size=2)


def test_config_json_tells_the_backbones_apart(tmp_path: Path) -> None:
    eradio = ERadioConfig(dim=8, in_dim=4, depths=(1, 1, 1, 1), full_features_head_dim=16)
    for backbone in (vit_config("tiny"), eradio, TimmConfig(name="test_nfnet")):
        config = RadioConfig(backbone=backbone)
        assert from_mapping(RadioConfig, json.loads(json.dumps(to_mapping(config)))) == config
    model_of(TimmConfig(name="test_nfnet")).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    stored = json.loads(path.read_text())
    for backbone, message in (
        ({"type": "resnet"}, "backbone.type: unknown student 'resnet'; known: eradio, timm, vit"),
        ({"type": "timm", "name": "test_nfnet", "depth": 3}, "unknown field 'depth' in backbone"),
        ({"type": "timm", "name": "hf-hub:a/b"}, "unknown timm network"),
    ):
        path.write_text(json.dumps({**stored, "backbone": backbone}))
        with pytest.raises(ValueError, match=message):
            read_config(tmp_path)


def test_timm_is_asked_for_fresh_weights_only(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    create = timm.create_model

    def recorded(*args: object, **options: object) -> object:
        asked.append(options["pretrained"])
        return create(*args, **options)

    monkeypatch.setattr(timm, "create_model", recorded)
    TimmStudent(TimmConfig(name="test_nfnet"))
    assert asked
    assert not any(asked)
