import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from radio_core.models import AdaptorConfig, HeadConfig, RadioConfig, RadioModel, vit_config
from radio_core.models.adaptors import TEXT_TOWERS
from radio_core.models.normalizers import CLIP_MEAN, InputConditioner
from radio_core.models.spectral import apply_spectral
from radio_core.vision import Output

CLIP = AdaptorConfig(
    name="clip",
    features=HeadConfig(out_dim=6, hidden_dim=8),
    summary=HeadConfig(out_dim=5, hidden_dim=8),
    token_slot=0,
    text_tower="toy-clip",
)
DINO = AdaptorConfig(
    name="dino_v2",
    features=HeadConfig(out_dim=4, hidden_dim=8, num_inner=1),
    summary=HeadConfig(out_dim=3, hidden_dim=8, num_inner=1),
    token_slot=1,
)
SAM = AdaptorConfig(name="sam", features=HeadConfig(out_dim=7, hidden_dim=8), upsample=2)


def config(**overrides: Any) -> RadioConfig:
    backbone = vit_config("tiny", embed_dim=16, depth=2, num_heads=2, num_cls_tokens=2)
    values = {"backbone": backbone, "adaptors": (CLIP, DINO, SAM), "summary_idxs": (0, 1)}
    return RadioConfig(**{**values, **overrides})


@pytest.fixture
def model() -> RadioModel:
    torch.manual_seed(0)
    model = RadioModel(config(preferred_resolution=(64, 64), max_resolution=256, licence="MIT"))
    images = torch.rand(4, 3, 32, 32)
    model.train()(images)  # the batch statistics of the stem are no longer their defaults
    return model.eval()


IMAGES = torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(1))


def test_without_adaptors_the_backbone_alone(model: RadioModel) -> None:
    output = model(IMAGES)
    assert isinstance(output, Output)
    assert output.summary.shape == (2, model.summary_dim) == (2, 32)
    assert output.features.shape == (2, 6, 16)
    nchw = model(IMAGES, feature_fmt="NCHW").features
    torch.testing.assert_close(nchw.flatten(2).transpose(1, 2), output.features)
    assert nchw.shape == (2, 16, 2, 3)


def test_with_adaptors_a_dict_in_the_order_asked_for(model: RadioModel) -> None:
    outputs = model(IMAGES, "NCHW", adaptors=["sam", "clip"])
    assert list(outputs) == ["backbone", "sam", "clip"]
    assert outputs["sam"].summary is None
    assert outputs["sam"].features.shape == (2, 7, 4, 6)
    assert outputs["clip"].summary.shape == (2, 5)
    model.active_adaptors = ("dino_v2",)
    again = model(IMAGES)
    assert list(again) == ["backbone", "dino_v2"]
    assert again["dino_v2"].features.shape == (2, 6, 4)
    assert isinstance(model(IMAGES, adaptors=()), Output)
    assert list(model.forward_all(IMAGES)) == ["backbone"]


def test_each_summary_head_reads_its_own_token(model: RadioModel) -> None:
    backbone = model.backbone(model.conditioner(IMAGES))
    for slot, name in enumerate(("clip", "dino_v2")):
        wanted = model.adaptors[name].summary_head(backbone.summary[:, slot])
        torch.testing.assert_close(model(IMAGES, adaptors=[name])[name].summary, wanted)


def test_summary_idxs_choose_the_backbone_summary(model: RadioModel) -> None:
    both = model(IMAGES).summary
    model.config = dataclasses.replace(model.config, summary_idxs=(1,))
    torch.testing.assert_close(model(IMAGES).summary, both[:, 16:])
    assert model.summary_dim == 16


def test_average_pooling_gives_every_head_the_one_token() -> None:
    backbone = vit_config("tiny", embed_dim=16, depth=1, num_heads=2, summary="avg")
    model = RadioModel(config(backbone=backbone, summary_idxs=(0,))).eval()
    assert model(IMAGES, adaptors=["dino_v2"])["dino_v2"].summary.shape == (2, 3)


def test_gradients_flow_through_all_heads_of_one_pass(model: RadioModel) -> None:
    model.train()
    outputs = model.forward_all(IMAGES, ["clip", "dino_v2", "sam"])
    heads = [t for name, out in outputs.items() if name != "backbone" for t in out if t is not None]
    sum(t.square().sum() for t in heads).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []


def test_windows_by_argument_or_by_attribute(model: RadioModel) -> None:
    images = torch.rand(1, 3, 32, 64)
    windowed, plain = model(images, window_size=2).features, model(images).features
    assert not torch.allclose(windowed, plain)
    model.window_size = 2
    torch.testing.assert_close(model(images).features, windowed)
    torch.testing.assert_close(model(images, window_size=0).features, plain)
    assert model.min_resolution_step == 16
    with pytest.raises(ValueError, match="nearest valid size is 32x32"):
        model(torch.rand(1, 3, 24, 40))


def test_external_preprocessor_gives_the_same_output(model: RadioModel) -> None:
    wanted = model(IMAGES).features
    conditioner = model.make_preprocessor_external()
    torch.testing.assert_close(model(conditioner(IMAGES)).features, wanted)


def test_conditioner_arithmetic_stays_float32() -> None:
    conditioner = InputConditioner().bfloat16()
    assert conditioner.norm_mean.flatten().tolist() == pytest.approx(CLIP_MEAN, abs=1e-7)
    assert conditioner(IMAGES.bfloat16()).dtype == torch.float32


def test_half_precision_backbone_with_float32_heads(model: RadioModel) -> None:
    wanted = model(IMAGES, adaptors=["clip"])
    model.backbone.to(torch.bfloat16)
    outputs = model(IMAGES, adaptors=["clip"])
    assert outputs["backbone"].features.dtype == torch.bfloat16
    assert outputs["clip"].features.dtype == outputs["clip"].summary.dtype == torch.float32
    torch.testing.assert_close(
        outputs["clip"].features, wanted["clip"].features, atol=0.05, rtol=0.1
    )
    model.bfloat16()  # all of it: the heads follow
    assert model(IMAGES, adaptors=["clip"])["clip"].summary.dtype == torch.float32


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m(IMAGES, adaptors=["siglip"]), r"\['siglip'\].*clip, dino_v2, sam"),
        (lambda m: m(IMAGES, feature_fmt="NHWC"), '"NLC", "NCHW"'),
        (lambda m: m.forward_intermediates(IMAGES, 0), "from 1 to 2"),
        (lambda m: m.forward_intermediates(IMAGES, [5]), "from -2 to 1"),
        (lambda m: m.forward_intermediates(IMAGES, [0], aggregation="max"), "'sparse', 'dense'"),
        (lambda m: m.encode_text("sam", ["a"]), "no text tower; those that do: clip"),
        (lambda m: m.encode_text("siglip", ["a"]), "this model has: clip"),
    ],
)
def test_wrong_requests(
    model: RadioModel, call: Callable[[RadioModel], object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        call(model)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"summary_idxs": (2,)}, "summary_idxs"),
        ({"summary_idxs": ()}, "summary_idxs"),
        ({"adaptors": (CLIP, CLIP)}, "must differ"),
        ({"adaptors": (dataclasses.replace(CLIP, token_slot=4),)}, "token_slot 4"),
        ({"std": (1.0, 0.0, 1.0)}, "positive"),
    ],
)
def test_configurations_that_make_no_sense(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(**overrides)


def test_text_comes_from_the_tower_of_the_teacher(
    model: RadioModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Tower(nn.Module):
        def encode_text(self, texts: list[str]) -> Tensor:
            return torch.tensor([[3.0 * len(text), 4.0 * len(text)] for text in texts])

    loaded: list[tuple[str, Path | None]] = []

    def load(source: str, path: Path | None) -> Tower:
        loaded.append((source, path))
        return Tower()

    monkeypatch.setattr(TEXT_TOWERS, "load", lambda kind: load)
    raw = model.encode_text("clip", ["a", "bb"])
    assert raw.tolist() == [[3, 4], [6, 8]]
    unit = model.encode_text("clip", ["a", "bb"], normalize=True)
    torch.testing.assert_close(unit, torch.tensor([[0.6, 0.8], [0.6, 0.8]]))
    assert loaded == [("toy-clip", None)]
    assert not any("tower" in key for key in model.state_dict())


def test_save_and_load_give_the_same_model(model: RadioModel, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "new" / "student")
    loaded = RadioModel.from_pretrained(tmp_path / "new" / "student")
    assert sorted(os.listdir(tmp_path / "new" / "student")) == ["config.json", "model.safetensors"]
    assert loaded.config == model.config
    assert not loaded.training
    assert all(p.requires_grad and p.device.type == "cpu" for p in loaded.parameters())
    for name, output in model.forward_all(IMAGES, ["clip", "sam"]).items():
        again = loaded.forward_all(IMAGES, ["clip", "sam"])[name]
        torch.testing.assert_close(again.features, output.features, rtol=0, atol=0)


def test_half_precision_file_loads_as_float32(model: RadioModel, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path, dtype=torch.float16)
    stored = load_file(tmp_path / "model.safetensors")
    assert {t.dtype for t in stored.values()} == {torch.float16, torch.int64}
    loaded = RadioModel.from_pretrained(tmp_path)
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    torch.testing.assert_close(
        loaded(IMAGES).features, model(IMAGES).features, atol=0.02, rtol=0.02
    )


def test_spectral_weights_are_folded_in_the_file_only(model: RadioModel, tmp_path: Path) -> None:
    apply_spectral(model.backbone)
    apply_spectral(model.adaptors)
    wanted = model(IMAGES, adaptors=["clip"])["clip"].features
    keys = set(model.state_dict())
    model.save_pretrained(tmp_path)
    assert set(model.state_dict()) == keys
    loaded = RadioModel.from_pretrained(tmp_path)
    torch.testing.assert_close(loaded(IMAGES, adaptors=["clip"])["clip"].features, wanted)


def test_model_with_external_preprocessor_saves_whole(model: RadioModel, tmp_path: Path) -> None:
    wanted = model(IMAGES).features
    model.make_preprocessor_external()
    model.save_pretrained(tmp_path)
    torch.testing.assert_close(RadioModel.from_pretrained(tmp_path)(IMAGES).features, wanted)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e6])
def test_weights_that_float16_cannot_hold_are_not_saved(
    model: RadioModel, tmp_path: Path, value: float
) -> None:
    next(model.backbone.parameters()).data.fill_(value)
    with pytest.raises(ValueError, match="patch_generator"):
        model.save_pretrained(tmp_path, dtype=torch.float16)
    assert os.listdir(tmp_path) == []


def edit_config(directory: Path, change: Callable[[dict[str, Any]], object]) -> None:
    data = json.loads((directory / "config.json").read_text())
    change(data)
    (directory / "config.json").write_text(json.dumps(data))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(args={"x": 1}), "unknown field 'args'"),
        (lambda d: d.pop("backbone"), "backbone"),
        (lambda d: d.update(backbone=[]), "backbone"),
        (lambda d: d["backbone"].update(type="timm"), "type"),
        (lambda d: d["backbone"].update(embed_dim="16"), "embed_dim"),
        (lambda d: d["backbone"].update(embed_dim=10**30), "embed_dim"),
        (lambda d: d["backbone"].update(embed_dim=10**400), "config.json"),
        (lambda d: d["backbone"].update(depth=10**6), "depth"),
        (lambda d: d["adaptors"][0]["features"].update(hidden_dim=0), "hidden_dim must be"),
        (lambda d: d["adaptors"][0].update(name="__import__('os')"), "bad adaptor name"),
        (lambda d: d.update(std=[1, float("nan"), 1]), "finite"),
        (lambda d: d.update(mean=[0.5]), "mean"),
        (lambda d: d.update(format="pickle"), "format"),
        (lambda d: d.update(format_version=1), "this version reads"),
        (lambda d: d.update(licence="x" * 2_000_000), "bytes"),
        (lambda d: d["backbone"].update(depth=3), "missing backbone.blocks.2"),
        (lambda d: d["backbone"].update(depth=1), "unexpected backbone.blocks.1"),
        (lambda d: d["adaptors"][0]["features"].update(out_dim=9), "shape"),
    ],
)
def test_hostile_or_wrong_config(
    model: RadioModel, tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    model.save_pretrained(tmp_path)
    edit_config(tmp_path, change)
    with pytest.raises(ValueError, match=message):
        RadioModel.from_pretrained(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000, "\ud800"])
def test_config_that_is_not_an_object(model: RadioModel, tmp_path: Path, text: str) -> None:
    model.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(text, encoding="utf-8", errors="surrogatepass")
    with pytest.raises(ValueError, match=r"config\.json"):
        RadioModel.from_pretrained(tmp_path)


def test_damaged_weights_are_refused(model: RadioModel, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    state = load_file(path)
    state["backbone.blocks.0.norm1.weight"][0] = float("nan")
    save_file(state, path)
    with pytest.raises(ValueError, match=r"NaN .*blocks\.0\.norm1"):
        RadioModel.from_pretrained(tmp_path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="is damaged"):
        RadioModel.from_pretrained(tmp_path)


def test_missing_files(model: RadioModel, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no config\.json"):
        RadioModel.from_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"no model\.safetensors"):
        RadioModel.from_pretrained(tmp_path)


def test_saving_over_a_model_replaces_each_file_at_once(
    model: RadioModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model.save_pretrained(tmp_path)
    before = (tmp_path / "model.safetensors").read_bytes()

    def broken(state: object, path: Path, _: object) -> None:
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("radio_core.models.weight_files.save_file", broken)
    with pytest.raises(OSError, match="disk full"):
        model.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == before
    RadioModel.from_pretrained(tmp_path)


def test_intermediates_in_windowed_mode_end_where_forward_ends(model: RadioModel) -> None:
    model.window_size = 2
    model.active_adaptors = ("clip",)
    images = torch.rand(1, 3, 32, 64)
    final, layers = model.forward_intermediates(images, 1, return_prefix_tokens=True)
    torch.testing.assert_close(layers[0].features, model(images, "NCHW")["backbone"].features)
    torch.testing.assert_close(final["clip"].features, model(images, "NCHW")["clip"].features)
