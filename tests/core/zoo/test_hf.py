"""Hugging Face directories: the older ones with remote code, and transformers' own layout."""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from radio_core.models import (
    AdaptorConfig,
    HeadConfig,
    RadioConfig,
    RadioModel,
    ViTConfig,
    eradio_config,
)
from radio_core.models.spectral import apply_spectral
from radio_core.zoo.hf_native import SIDECAR, is_native, load_native, write_native
from radio_core.zoo.hf_remote import read_remote_code
from radio_core.zoo.load import load_model

SIZES = ((72, 72), (64, 64), (32, 80), (104, 40))  # one is the grid itself, one is larger than it
ARGS = {"model": "vit", "dtype": "bfloat16", "teachers": [{"name": "sam", "mlp_version": "v1"}]}
TENSORS = {
    "radio_model.model.patch_generator.pos_embed": torch.rand(1, 4, 2),
    "radio_model.adaptors.sam.head_mlp.fc1.weight": torch.rand(3, 2),
    "radio_model.adaptors.sam.feat_mlp.fc1.weight": torch.rand(3, 2).bfloat16(),
    "radio_model.inter_feature_normalizer.alphas": torch.rand(1),
    "radio_model.summary_idxs": torch.tensor([2, 0]),
}


def remote(directory: Path, config: dict[str, Any] | None = None, **tensors: Tensor) -> Path:
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(config or {"args": ARGS}))
    save_file(TENSORS | tensors, directory / "model.safetensors")
    return directory


def test_remote_code_directory_reads_as_its_hub_checkpoint(shared: Path) -> None:
    folder = shared / "reference" / "golden" / "h_hf"
    args, state, extras = read_remote_code(folder / "hf")
    with torch.serialization.safe_globals([argparse.Namespace]):
        checkpoint = torch.load(folder / "checkpoint.pth.tar", weights_only=True)
    hub, original = checkpoint["state_dict"], vars(checkpoint["args"])
    assert state.keys() <= hub.keys()
    # The directory was converted with two of the three adaptors.
    assert all(".siglip2-g." in key for key in hub.keys() - state.keys())
    for key, tensor in state.items():
        assert torch.equal(tensor, hub[key]), key
    text_only = {"device", "amp_dtype"}  # left out, and a string in this checkpoint
    assert {k: args[k] for k in original if k not in text_only} == {
        k: v for k, v in original.items() if k not in text_only
    }
    assert extras == {
        "version": "c-radio_v4-h",
        "max_resolution": 2048,
        "preferred_resolution": (512, 512),
        "summary_idxs": (0, 1),
    }


def test_remote_code_names_and_arguments(tmp_path: Path) -> None:
    args, state, extras = read_remote_code(remote(tmp_path / "m"))
    assert set(state) == {
        "base_model.patch_generator.pos_embed",
        "_heads.sam.fc1.weight",
        "_feature_projections.sam.fc1.weight",
        "_intermediate_feature_normalizer.alphas",
    }
    assert state["_feature_projections.sam.fc1.weight"].dtype == torch.bfloat16
    assert args["dtype"] == torch.bfloat16
    assert args["teachers"] == [{"name": "sam"}]  # head types of single teachers do not count
    assert (args["spectral_reparam"], args["damp"]) == (False, None)  # already folded
    assert extras["summary_idxs"] == (2, 0)


def test_code_in_a_directory_is_never_run(tmp_path: Path) -> None:
    trap = f"open({str(tmp_path / 'ran')!r}, 'w')"
    auto_map = {"AutoModel": "hf_model.RADIOModel", "AutoConfig": "hf_model.RADIOConfig"}
    directory = remote(tmp_path / "m", {"args": ARGS, "auto_map": auto_map})
    for name in ("hf_model.py", "__init__.py", "common.py"):
        (directory / name).write_text(trap)
    read_remote_code(directory)
    assert not (tmp_path / "ran").exists()


def test_shards_read_as_one_file(tmp_path: Path) -> None:
    directory = remote(tmp_path / "m")
    whole = read_remote_code(directory)[1]
    (directory / "model.safetensors").unlink()
    index = {name: f"model-{i % 2}.safetensors" for i, name in enumerate(TENSORS)}
    for shard in set(index.values()):
        save_file({k: v for k, v in TENSORS.items() if index[k] == shard}, directory / shard)
    file = directory / "model.safetensors.index.json"
    file.write_text(json.dumps({"weight_map": index}))
    parts = read_remote_code(directory)[1]
    assert parts.keys() == whole.keys()
    assert all(torch.equal(parts[name], whole[name]) for name in whole)
    file.write_text(
        json.dumps({"weight_map": index | {"radio_model.model.x": "model-0.safetensors"}})
    )
    with pytest.raises(ValueError, match=r"does not fit its files: radio_model\.model\.x"):
        read_remote_code(directory)
    file.write_text(json.dumps({"weight_map": {"x": "../m/model-0.safetensors"}}))
    with pytest.raises(ValueError, match="is not a file beside it"):
        read_remote_code(directory)
    file.write_text(json.dumps({"weight_map": {"x": "model-2.safetensors"}}))
    with pytest.raises(FileNotFoundError, match=r"needs model-2\.safetensors"):
        read_remote_code(directory)


def test_bad_remote_code_directories_say_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no RADIO model has: radio_model\.other\.x"):
        read_remote_code(remote(tmp_path / "a", **{"radio_model.other.x": torch.ones(1)}))
    with pytest.raises(ValueError, match="dtype 'int8' is not one of float32"):
        read_remote_code(remote(tmp_path / "b", {"args": ARGS | {"dtype": "int8"}}))
    with pytest.raises(ValueError, match='no list of "teachers"'):
        read_remote_code(remote(tmp_path / "c", {"args": {"model": "vit"}}))
    with pytest.raises(ValueError, match='has no "args"'):
        read_remote_code(remote(tmp_path / "d", {"model_type": "radio"}))
    with pytest.raises(ValueError, match="malformed"):
        read_remote_code(remote(tmp_path / "e", {"args": ARGS, "preferred_resolution": 5}))
    directory = remote(tmp_path / "f")
    (directory / "model.safetensors").write_bytes(b"\x00" * 100)
    with pytest.raises(ValueError, match="is damaged"):
        read_remote_code(directory)
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match="pickled weights are not read"):
        read_remote_code(directory)


@pytest.fixture
def transformers() -> ModuleType:
    module = pytest.importorskip("transformers", reason="needs the extra 'hf'")
    if not hasattr(module, "RadioModel"):
        pytest.skip("this version of transformers has no radio model of its own")
    return module


@pytest.fixture
def native(transformers: ModuleType, request: pytest.FixtureRequest) -> Any:
    """transformers' own model, with every weight away from its initial value."""
    config = transformers.RadioConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        patch_size=8,
        max_img_size=72,
        num_cls_tokens=3,
        num_registers=2,
        summary_idxs=[2, 0],
        norm_mean=[0.5, 0.4, 0.3],
        layerscale_value=0.7,
        use_swiglu_ffn=getattr(request, "param", False),
    )
    return randomised(transformers.RadioModel(config))


def randomised(model: Any) -> Any:
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2, generator=generator)
    return model.eval()


@torch.no_grad()
def assert_same(ours: RadioModel, theirs: Any) -> None:
    for size in SIZES:
        images = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(1))
        mine, other = ours(images), theirs(images)
        for part in ("summary", "features"):
            found, wanted = getattr(mine, part), getattr(other, part)
            torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0, msg=f"{part} at {size}")


@pytest.mark.parametrize("native", [False, True], ids=["mlp", "swiglu"], indirect=True)
@pytest.mark.parametrize("original_names", [True, False])
def test_what_transformers_wrote_gives_its_numbers(
    native: Any, original_names: bool, tmp_path: Path
) -> None:
    native.save_pretrained(tmp_path, save_original_format=original_names)
    names = load_file(tmp_path / "model.safetensors").keys()
    assert any(name.startswith("radio_model.") for name in names) == original_names
    assert is_native(json.loads((tmp_path / "config.json").read_text()))
    assert_same(load_model(tmp_path), native)


def test_layer_scale_that_is_left_out_has_the_configured_value(
    native: Any, transformers: ModuleType, tmp_path: Path
) -> None:
    native.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    plain = {k: v for k, v in load_file(path).items() if "lambda1" not in k}
    save_file(plain, path, {"format": "pt"})
    assert_same(load_model(tmp_path), transformers.RadioModel.from_pretrained(tmp_path).eval())
    text = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(text.replace("0.7", "1.0"))
    model = load_model(tmp_path)
    assert model.config.backbone.init_values is None
    assert_same(model, transformers.RadioModel.from_pretrained(tmp_path).eval())


def test_bad_native_directories_say_what_is_wrong(native: Any, tmp_path: Path) -> None:
    native.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for change, message in (
        ({"qkv_bias": False}, "qkv_bias False"),
        ({"layer_norm_eps": 1e-5}, "layer_norm_eps"),
        ({"hidden_size": "wide"}, "embed_dim must be int"),
        ({"patch_size": 0}, "zero"),
        ({"layerscale_value": "1"}, "layerscale_value must be a number"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(ValueError, match=message):
            load_native(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    tensors = load_file(tmp_path / "model.safetensors")
    save_file(
        tensors | {"radio_model.model.norm.bias": torch.ones(1)}, tmp_path / "model.safetensors"
    )
    with pytest.raises(ValueError, match=r"unexpected backbone\.norm\.bias"):
        load_model(tmp_path)


def student(**changes: Any) -> RadioModel:
    """A model with everything that the native layout, or our folder in it, can hold."""
    shape = {"patch_size": 8, "embed_dim": 48, "depth": 3, "num_heads": 4, "grid_size": 9}
    tokens = {"num_cls_tokens": 3, "num_registers": 2, "num_windowed": 1}
    wide = HeadConfig(out_dim=6, hidden_dim=16)
    clip = {"summary": HeadConfig(kind="v1", out_dim=5, hidden_dim=12), "token_slot": 1}
    attention = HeadConfig(kind="attn", out_dim=7, hidden_dim=8)
    config = RadioConfig(
        name="mine",
        backbone=ViTConfig(**{**shape, **tokens, **changes}),
        adaptors=(
            AdaptorConfig(name="clip", features=attention, text_tower="toy-clip", **clip),
            AdaptorConfig(name="sam", features=wide, upsample=2),
        ),
        summary_idxs=(2, 0),
        mean=(0.5, 0.4, 0.3),
        teachers=("clip", "sam"),
        preferred_resolution=(64, 80),
        intermediate_normalizer="per_layer",
        licence="Apache-2.0",
    )
    model: RadioModel = randomised(RadioModel(config))
    return model


@pytest.mark.parametrize(
    "changes",
    [{}, {"init_values": 0.3}, {"ffn": "swiglu", "init_values": 1e-5}, {"mlp_ratio": 4304 / 1152}],
    ids=["plain", "layer scale", "swiglu", "uneven width"],
)
def test_plain_transformers_loads_what_we_write(
    changes: dict[str, Any], transformers: ModuleType, tmp_path: Path
) -> None:
    model = student(**changes)
    write_native(model, tmp_path)
    theirs, info = transformers.AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert type(theirs) is transformers.RadioModel
    assert not any(info.values()), info  # no missing, unexpected or mismatched names
    assert_same(model, theirs.eval())


def test_adaptors_come_back_from_the_native_layout(tmp_path: Path) -> None:
    model = student(init_values=1.0)
    write_native(model, tmp_path)
    again = load_model(tmp_path, dtype=torch.float32)
    assert again.config == model.config
    assert again.state_dict().keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


def test_adaptors_outlive_a_change_made_with_transformers(
    transformers: ModuleType, tmp_path: Path
) -> None:
    model = student()
    write_native(model, tmp_path)
    theirs = transformers.AutoModel.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.mul_(1.1)  # the LayerScale of 1 that our model does not have as well
    theirs.save_pretrained(tmp_path)
    again = load_model(tmp_path)
    assert_same(again, theirs)
    assert torch.equal(
        again.adaptors["sam"].feature_head.output.weight,
        model.adaptors["sam"].feature_head.output.weight,
    )


def test_without_our_folder_the_backbone_is_left(tmp_path: Path) -> None:
    model = student()
    write_native(model, tmp_path)
    (tmp_path / SIDECAR).rename(tmp_path / "elsewhere")
    again = load_model(tmp_path)
    images = torch.rand(1, 3, 64, 80)
    assert torch.equal(again(images).features, model(images).features)
    assert not again.adaptors


def test_our_folder_must_belong_to_the_model_beside_it(tmp_path: Path) -> None:
    write_native(student(), tmp_path / "a")
    write_native(student(num_heads=8), tmp_path / "b")
    (tmp_path / "b" / "config.json").replace(tmp_path / "a" / "config.json")
    with pytest.raises(ValueError, match="differ in num_attention_heads"):
        load_model(tmp_path / "a")


def test_reparametrised_weights_are_folded_when_written(
    transformers: ModuleType, tmp_path: Path
) -> None:
    model = student()
    apply_spectral(model.backbone)
    write_native(model, tmp_path)
    assert_same(model, transformers.AutoModel.from_pretrained(tmp_path).eval())


def test_half_precision_files(transformers: ModuleType, tmp_path: Path) -> None:
    model = student()
    write_native(model, tmp_path, torch.float16)
    tensors = load_file(tmp_path / "model.safetensors")
    assert tensors["radio_model.model.patch_generator.pos_embed"].dtype == torch.float16
    theirs = transformers.AutoModel.from_pretrained(tmp_path)
    assert theirs.dtype == torch.float16
    # The constants of the normalisation are never rounded.
    theirs = transformers.AutoModel.from_pretrained(tmp_path, dtype=torch.float32)
    assert_same(load_model(tmp_path, dtype=torch.float32), theirs.eval())
    with torch.no_grad():
        model.backbone.patch_generator.pos_embed[0, 0, 0] = 1e6
    with pytest.raises(ValueError, match=r"infinite values in radio_model\.model.*pos_embed"):
        write_native(model, tmp_path / "new", torch.float16)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"stem": "conv"}, "convolutional stem"),
        ({"positions": "grid"}, 'positions of the kind "grid"'),
        ({"pos_align_corners": True}, "pos_align_corners"),
        ({"patch_bias": True}, "bias of the patch embedding"),
        ({"summary": "first"}, 'summary of the kind "first"'),
        ({"final_norm": True}, "final norm"),
    ],
)
def test_what_transformers_cannot_express_is_refused(
    changes: dict[str, Any], part: str, tmp_path: Path
) -> None:
    model = student(**changes)
    with pytest.raises(ValueError, match=f"has no .*{part}.*--to radio"):
        write_native(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_other_backbones_and_normalised_features_are_refused(tmp_path: Path) -> None:
    normalised = RadioModel(replace(student().config, feature_normalizer=True))
    with pytest.raises(ValueError, match="has no feature normalizer"):
        write_native(normalised, tmp_path / "out")
    with torch.device("meta"):
        eradio = RadioModel(RadioConfig(backbone=eradio_config("eradio_xxxtiny")))
    with pytest.raises(ValueError, match="has no E-RADIO backbone"):
        write_native(eradio, tmp_path / "out")


def test_image_processor_leaves_pixels_in_0_1(transformers: ModuleType, tmp_path: Path) -> None:
    write_native(student(), tmp_path)
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path)
    image = np.random.default_rng(0).integers(0, 256, (100, 200, 3), np.uint8)
    pixels = processor(image, return_tensors="pt")["pixel_values"]
    assert pixels.shape == (1, 3, 64, 80)
    assert 0 <= pixels.min() < 0.2 < 0.8 < pixels.max() <= 1
