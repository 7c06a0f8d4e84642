"""Models of timm, transformers and open_clip: tiny, random, saved as their libraries save them."""

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from PIL import Image

from radio_eval.data import prepare
from radio_eval.eval_model import CentreCrop, EvalModel
from radio_eval.models import load_eval_model


def outputs(model: EvalModel, height: int, width: int) -> tuple[torch.Size, torch.Size]:
    """Shapes of summary and features of two random images."""
    images = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0))
    assert model.summary is not None
    assert model.features is not None
    with torch.no_grad():
        return model.summary(images).shape, model.features(images).shape


def save_timm(folder: Path, name: str, **arguments: Any) -> torch.nn.Module:
    """A random model with a classifier, in the layout of timm's hub folders."""
    torch.manual_seed(0)
    network: torch.nn.Module = timm.create_model(name, num_classes=7, **arguments)
    timm.models.save_for_hf(network, folder, model_args=arguments)
    return network


@pytest.fixture
def timm_vit(tmp_path: Path) -> tuple[Path, torch.nn.Module]:
    shape = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2}
    folder = tmp_path / "vit"
    network = save_timm(folder, "vit_tiny_patch16_224", **shape)
    config = json.loads((folder / "config.json").read_text())
    config["pretrained_cfg"] |= {"input_size": [3, 32, 32], "crop_pct": 0.8, "mean": [0.1] * 3}
    (folder / "config.json").write_text(json.dumps(config))
    return folder, network


@pytest.mark.parametrize("form", ["timm:{}", "timm:local-dir:{}"])
def test_timm_vit(timm_vit: tuple[Path, Any], form: str) -> None:
    folder, network = timm_vit
    model = load_eval_model(form.format(folder))
    assert (model.name, model.image_size, model.resize_step, model.square) == ("vit", 32, 8, False)
    assert model.crop == CentreCrop(size=32, resize=40, interpolation="bicubic")
    assert outputs(model, 32, 32) == ((2, 16), (2, 16, 4, 4))
    assert outputs(model, 48, 24) == ((2, 16), (2, 16, 6, 3))
    images = torch.rand(1, 3, 32, 32)
    std = torch.tensor(network.pretrained_cfg["std"])[:, None, None]
    network.eval()
    with torch.no_grad():
        expected = network.forward_head(network.forward_features((images - 0.1) / std), True)
        torch.testing.assert_close(model.summary(images), expected)
    assert model.resized(45).image_size == 48
    assert model.resized(45).crop == CentreCrop(size=48, resize=60)


def test_timm_convolutions(tmp_path: Path) -> None:
    save_timm(tmp_path / "net", "resnet10t")
    model = load_eval_model(f"timm:{tmp_path / 'net'}")
    assert (model.resize_step, model.square) == (32, False)
    assert outputs(model, 64, 96) == ((2, 512), (2, 512, 2, 3))


def test_weights_and_normalisation_are_in_the_fingerprint(timm_vit: tuple[Path, Any]) -> None:
    folder, network = timm_vit
    first = load_eval_model(f"timm:{folder}").fingerprint()
    assert first == load_eval_model(f"timm:{folder}").fingerprint()
    config = json.loads((folder / "config.json").read_text())
    config["pretrained_cfg"]["mean"] = [0.2] * 3
    (folder / "config.json").write_text(json.dumps(config))
    second = load_eval_model(f"timm:{folder}").fingerprint()
    network.norm.weight.data += 1
    timm.models.save_for_hf(network, folder, model_args=network._model_args)
    assert len({first, second, load_eval_model(f"timm:{folder}").fingerprint()}) == 3


VIT = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": 32,
    "patch_size": 8,
}


def save_transformers(folder: Path, kind: str, processor: dict[str, Any] | None) -> Any:
    """A random model of a class, and perhaps its preprocessor_config.json."""
    transformers = pytest.importorskip("transformers", reason="needs the extra 'hf'")
    torch.manual_seed(0)
    model_class = getattr(transformers, kind)
    config_class = model_class.config_class
    if kind in ("CLIPModel", "SiglipModel"):
        text = {k: VIT[k] for k in VIT if k not in ("image_size", "patch_size")}
        text |= {"vocab_size": 40, "max_position_embeddings": 8, "projection_size": 16}
        config = config_class(vision_config=VIT, text_config=text, projection_dim=12)
    elif kind == "CLIPVisionModelWithProjection":
        config = config_class(**VIT, projection_dim=12)
    else:
        config = config_class(**VIT)
    network = model_class(config).eval()
    network.save_pretrained(folder)
    if processor is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return network


CROP = {
    "do_center_crop": True,
    "crop_size": {"height": 24, "width": 24},
    "size": {"shortest_edge": 28},
    "resample": 2,
    "image_mean": [0.1, 0.2, 0.3],
    "image_std": [0.4, 0.5, 0.6],
}
SQUASH = {"size": {"height": 32, "width": 32}, "resample": 3, "image_mean": [0.5] * 3}


@pytest.mark.parametrize(
    ("kind", "width", "any_size"),
    [
        ("Dinov2Model", 16, True),
        ("Dinov2WithRegistersModel", 16, True),
        ("ViTModel", 16, False),
        ("DeiTModel", 16, False),
        ("CLIPVisionModel", 16, False),
        ("CLIPVisionModelWithProjection", 12, False),
        ("SiglipVisionModel", 16, False),
        ("CLIPModel", 12, False),
        ("SiglipModel", 16, False),
    ],
)
def test_transformers(kind: str, width: int, any_size: bool, tmp_path: Path) -> None:
    save_transformers(tmp_path / "net", kind, SQUASH)
    model = load_eval_model(f"hf:{tmp_path / 'net'}")
    assert (model.name, model.image_size, model.resize_step) == ("net", 32, 8)
    assert model.square is not any_size
    assert model.crop == CentreCrop(size=32, resize=32, squash=True)
    assert outputs(model, 32, 32) == ((2, width), (2, 16, 4, 4))
    assert (model.image_text is not None) == (kind in ("CLIPModel", "SiglipModel"))
    if any_size:
        assert outputs(model, 40, 24) == ((2, 16), (2, 16, 5, 3))


def test_transformers_summary_is_the_class_token_of_normalised_images(tmp_path: Path) -> None:
    network = save_transformers(tmp_path, "Dinov2WithRegistersModel", CROP)
    model = load_eval_model(f"hf:{tmp_path}")
    assert model.crop == CentreCrop(size=24, resize=28, interpolation="bilinear")
    images = torch.rand(1, 3, 32, 32)
    mean, std = (torch.tensor(CROP[f"image_{name}"])[:, None, None] for name in ("mean", "std"))
    with torch.no_grad():
        tokens = network((images - mean) / std).last_hidden_state
    assert model.summary is not None
    assert model.features is not None
    torch.testing.assert_close(model.summary(images), tokens[:, 0])
    patches = model.features(images).flatten(2).transpose(1, 2)
    torch.testing.assert_close(patches, tokens[:, -16:])


def test_a_folder_without_processor_has_the_size_of_the_model(tmp_path: Path) -> None:
    save_transformers(tmp_path, "CLIPVisionModel", None)
    model = load_eval_model(f"hf:{tmp_path}")
    assert model.crop == CentreCrop(size=32, resize=32, squash=True)
    assert model.module is not None
    assert dict(model.module.named_buffers())["mean"].flatten()[0] == pytest.approx(0.48145466)


def test_other_models_of_transformers_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="needs the extra 'hf'")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match="is a 'bert' model; known: dinov2, dinov2_with_registers"):
        load_eval_model(f"hf:{tmp_path}")


def test_clip_of_transformers_encodes_texts(tmp_path: Path) -> None:
    network = save_transformers(tmp_path, "CLIPModel", CROP)
    tokenizers = pytest.importorskip("tokenizers", reason="needs the extra 'hf'")
    transformers = pytest.importorskip("transformers", reason="needs the extra 'hf'")
    words = {"a": 0, "red": 1, "cat": 2, "[UNK]": 3, "[PAD]": 4}
    plain = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    plain.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=plain, pad_token="[PAD]")
    tokenizer.save_pretrained(tmp_path)
    model = load_eval_model(f"hf:{tmp_path}")
    assert model.image_text is not None
    with torch.no_grad():
        found = model.image_text.encode_text(["a red cat", "cat"])
        tokens = tokenizer(["a red cat", "cat"], padding=True, return_tensors="pt")
        expected = network.get_text_features(
            input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
        )
    expected = expected if isinstance(expected, torch.Tensor) else expected.pooler_output
    torch.testing.assert_close(found, expected)


def test_open_clip_folder(tmp_path: Path) -> None:
    open_clip = pytest.importorskip("open_clip", reason="needs the extra 'clip'")
    tower = {"layers": 1, "width": 16, "head_width": 8}
    shape = {
        "embed_dim": 12,
        "vision_cfg": {"image_size": 32, "patch_size": 8, **tower},
        "text_cfg": {
            "context_length": 77,
            "vocab_size": 49408,
            "width": 16,
            "heads": 2,
            "layers": 1,
        },
    }
    network = open_clip.CLIP(**shape)
    torch.save(network.state_dict(), tmp_path / "open_clip_pytorch_model.bin")
    preprocess = {"mean": [0.5] * 3, "std": [0.5] * 3, "resize_mode": "squash"}
    config = {"model_cfg": shape, "preprocess_cfg": {**preprocess, "interpolation": "bilinear"}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    model = load_eval_model(f"open_clip:local-dir:{tmp_path}")
    assert model.crop == CentreCrop(size=32, resize=32, squash=True, interpolation="bilinear")
    assert outputs(model, 32, 32)[0] == (2, 12)
    assert model.image_text is not None
    assert model.image_text.encode_text(["a cat"]).shape == (1, 12)


def test_images_become_what_the_model_sees() -> None:
    image = Image.new("RGB", (100, 50))
    model = EvalModel(name="m", image_size=32, resize_step=16)
    assert prepare(image, model).shape == (3, 32, 64)
    cut = EvalModel(
        name="m", image_size=32, resize_step=16, crop=CentreCrop(size=32, resize=40), square=True
    )
    assert prepare(image, cut).shape == (3, 32, 32)
    assert prepare(image, cut, whole=True).shape == (3, 32, 32)


def test_the_size_is_rounded_to_the_step_or_refused() -> None:
    model = EvalModel(name="m", image_size=32, resize_step=16)
    assert [model.resized(size).image_size for size in (97, 1, 40, 56)] == [96, 16, 32, 64]
    square = EvalModel(name="m", image_size=32, resize_step=16, square=True)
    assert square.resized(32) == square
    with pytest.raises(ValueError, match="takes images of 32 pixels only, not 48: leave out"):
        square.resized(48)


def test_radio_as_it_is_named_as_a_teacher() -> None:
    backbone, clip = load_eval_model("radio:toy"), load_eval_model("radio:toy#clip")
    assert (backbone.name, clip.name) == ("toy", "toy")
    assert outputs(backbone, 64, 64) != outputs(clip, 64, 64)
    assert clip.config.startswith("clip of ")


def test_an_unknown_kind_of_model_names_the_near_one() -> None:
    with pytest.raises(ValueError, match=r"did you mean 'timm'.*no module 'timn'"):
        load_eval_model("timn:vit_tiny")


@pytest.mark.parametrize("source", ["nix", "./nowhere/model"])
def test_unknown_models_list_the_forms(source: str) -> None:
    with pytest.raises(ValueError, match=r"unknown model .*open_clip:.*timm:NAME.*hf:.*release"):
        load_eval_model(source)


def test_unknown_timm_models_name_near_ones() -> None:
    with pytest.raises(ValueError, match=r"did you mean .*vit_tiny_patch16_224"):
        load_eval_model("timm:vit_tinny_patch16_224")
