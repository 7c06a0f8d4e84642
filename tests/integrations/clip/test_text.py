"""Text towers in the formats of the official adaptors; the package as a user imports it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

import radio_clip
from radio_clip import SiglipTokenizer, load_radio_clip
from radio_core.models import AdaptorConfig, HeadConfig, RadioConfig, RadioModel, vit_config

TEXTS = ["a red star", "A cat_dog, HERE!", "x" * 200]
SHAPE: dict[str, Any] = {
    "embed_dim": 12,
    "vision_cfg": {"image_size": 16, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8},
    "text_cfg": {"context_length": 10, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 2},
}
SIGMOID = {"init_logit_scale": 2.0, "init_logit_bias": -10.0}


def random_radio(tower: str, width: int) -> RadioModel:
    """A random RADIO model whose only adaptor has that text tower."""
    torch.manual_seed(1)
    head = HeadConfig(out_dim=width, hidden_dim=8)
    adaptor = AdaptorConfig(
        name="siglip", features=head, summary=head, token_slot=0, text_tower=tower
    )
    backbone = vit_config("tiny", embed_dim=16, depth=1)
    return RadioModel(RadioConfig(backbone=backbone, adaptors=(adaptor,))).eval()


@pytest.mark.parametrize("kind", ["clip", "sigmoid"])
@torch.no_grad()
def test_open_clip_checkpoints(kind: str, tmp_path: Path) -> None:
    open_clip = pytest.importorskip("open_clip", reason="needs the extra 'clip'")
    name = f"test-drop-in-{kind}"
    (tmp_path / f"{name}.json").write_text(
        json.dumps({**SHAPE, **(SIGMOID if kind == "sigmoid" else {})})
    )
    open_clip.add_model_config(tmp_path / f"{name}.json")
    torch.manual_seed(0)
    clip = open_clip.create_model(name).eval()
    torch.save({"epoch": 3, "state_dict": clip.state_dict()}, tmp_path / "epoch_3.pt")
    radio = random_radio(f"open_clip:{name}/unknown_tag", SHAPE["embed_dim"])
    model, _, tokenizer = load_radio_clip(radio, text_tower=tmp_path / "epoch_3.pt")
    tokens = open_clip.get_tokenizer(name)(TEXTS)
    assert tokenizer(TEXTS).tolist() == tokens.tolist()
    assert (model.context_length, model.vocab_size) == (10, 49408)
    images = torch.rand(2, 3, 32, 48)
    _, text_features, *scale_and_bias = model(images, tokens)
    _, wanted, *wanted_scale_and_bias = clip(text=tokens)
    torch.testing.assert_close(text_features, wanted)
    torch.testing.assert_close(scale_and_bias, wanted_scale_and_bias)
    assert len(scale_and_bias) == (2 if kind == "sigmoid" else 1)
    clip.visual.forward = model.visual.forward  # the same images for both
    for ours, theirs in zip(
        model.get_logits(images, tokens), clip.get_logits(images, tokens), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


@pytest.fixture(scope="module", params=["Siglip", "Siglip2"])
def siglip(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Any]:
    """A directory as the hub has it, and the full model in it."""
    transformers = pytest.importorskip("transformers", reason="needs the extra 'hf'")
    shape: dict[str, Any] = {"intermediate_size": 24, "num_attention_heads": 2}
    text = {**shape, "hidden_size": 16, "num_hidden_layers": 2, "projection_size": 20}
    special = {"vocab_size": 64, "bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0}
    vision = {**shape, "hidden_size": 20, "num_hidden_layers": 1, "patch_size": 8}
    config = getattr(transformers, f"{request.param}Config")(
        text_config={**text, **special}, vision_config=vision
    )
    torch.manual_seed(0)
    model = getattr(transformers, f"{request.param}Model")(config).eval()
    torch.nn.init.constant_(model.logit_scale, 4.7)
    torch.nn.init.constant_(model.logit_bias, -16.5)
    folder = tmp_path_factory.mktemp(request.param)
    model.save_pretrained(folder)
    write_tokenizer(folder)
    return folder, model


def write_tokenizer(folder: Path) -> None:
    """A Gemma tokenizer of single letters, in the two files that SigLIP2's repositories have."""
    from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
    from tokenizers.models import BPE

    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    pieces = [*special, *"abcdefghijklmnopqrstuvwxyz", "▁"]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = Tokenizer(BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <eos>", pair="$A <eos> $B <eos>", special_tokens=[("<eos>", 1)]
    )
    tokenizer.add_special_tokens(special)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "GemmaTokenizer",
        "add_bos_token": False,
        "add_eos_token": True,
        "model_input_names": ["input_ids"],
        "padding_side": "right",
        **{f"{name}_token": f"<{name}>" for name in ("pad", "eos", "bos", "unk")},
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


@torch.no_grad()
def test_siglip_directories(siglip: tuple[Path, Any]) -> None:
    folder, full = siglip
    radio = random_radio(f"siglip2:{folder}", 20)
    model, _, tokenizer = load_radio_clip(radio)
    assert isinstance(tokenizer, SiglipTokenizer)
    tokens = tokenizer(TEXTS)
    assert (tokens.shape, tokens.dtype) == ((3, 64), torch.int64)
    assert tokens[1].tolist() == tokenizer("a cat dog here")[0].tolist()
    assert tokenizer(TEXTS, context_length=9).shape == (3, 9)
    assert (model.context_length, model.vocab_size) == (64, 64)
    features = full.get_text_features(input_ids=tokens)
    wanted = features if isinstance(features, Tensor) else features.pooler_output
    torch.testing.assert_close(model.encode_text(tokens), wanted)
    torch.testing.assert_close(model.encode_text(tokens), radio.encode_text("siglip", TEXTS))
    image_features, text_features, scale, bias = model(torch.rand(2, 3, 32, 32), tokens)
    torch.testing.assert_close(text_features, F.normalize(wanted))
    torch.testing.assert_close(scale, full.logit_scale.exp()[0])
    torch.testing.assert_close(bias, full.logit_bias[0])
    logits = model.get_logits(torch.rand(2, 3, 32, 32), tokens)[0]
    assert (image_features.shape, logits.shape) == ((2, 20), (2, 3))


def test_a_directory_of_the_text_model_alone(siglip: tuple[Path, Any], tmp_path: Path) -> None:
    for file in siglip[0].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    state = load_file(tmp_path / "model.safetensors")
    text = {name: value for name, value in state.items() if name.startswith("text_model")}
    save_file(text, tmp_path / "model.safetensors", {"format": "pt"})
    radio = random_radio("siglip2:google/siglip2-giant-opt-patch16-384", 20)
    with pytest.warns(UserWarning, match="holds no logit_scale"):
        model, _, tokenizer = load_radio_clip(radio, text_tower=tmp_path)
    assert model.logit_scale.exp().item() == pytest.approx(1 / 0.07)
    assert model.logit_bias is None
    assert model.encode_text(tokenizer("a")).shape == (1, 20)
    nan = {**text, "logit_scale": torch.tensor([torch.nan])}
    save_file(nan, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"model\.safetensors: logit_scale must be one finite"):
        load_radio_clip(radio, text_tower=tmp_path)


def test_a_missing_text_tower_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.pt"):
        load_radio_clip("toy", text_tower=tmp_path / "none.pt")


def test_every_public_name_leads_somewhere() -> None:
    assert set(radio_clip.__all__) <= set(dir(radio_clip))
    assert all(callable(getattr(radio_clip, name)) for name in radio_clip.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = radio_clip.nothing


def test_the_import_is_light_and_needs_no_open_clip() -> None:
    code = """
import sys
sys.modules["open_clip"] = None  # as if it were not installed
import radio_clip
assert "torch" not in sys.modules
for name in radio_clip.__all__:
    getattr(radio_clip, name)
try:
    radio_clip.load_radio_clip("toy")
except ImportError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert "radio-toolkit[clip]" in done.stdout
