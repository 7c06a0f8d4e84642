"""Text towers: equal to the library's own full models, loaded offline and without running code."""

import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from radio_core.registry import UnknownName
from radio_core.teachers import load_teacher
from radio_core.teachers.load import toy_teacher_folder
from radio_core.teachers.open_clip import OpenClipTeacher
from radio_core.teachers.text import (
    SIGLIP2_TOKENS,
    OpenClipText,
    Siglip2Text,
    TextTower,
    canonical_text,
    load_text_tower,
)

TEXTS = ["a red star", "A cat_dog, HERE!", "x" * 200]
CLIP_CONFIG = {
    "embed_dim": 12,
    "vision_cfg": {"image_size": 16, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8},
    "text_cfg": {"context_length": 10, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 2},
}


class Malicious:
    """A pickle that creates a file when it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


@pytest.fixture(scope="module")
def clip_model(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any]:
    """An architecture that open_clip knows by name, and a random model of it."""
    open_clip = pytest.importorskip("open_clip", reason="needs the extra 'clip'")
    file = tmp_path_factory.mktemp("configs") / "test-text-tower.json"
    file.write_text(json.dumps(CLIP_CONFIG))
    open_clip.add_model_config(file)
    torch.manual_seed(0)
    return "test-text-tower", open_clip.create_model("test-text-tower").eval()


@pytest.fixture(scope="module", params=["siglip", "siglip2"])
def siglip(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Any]:
    """A directory as the hub has it, and the full model in it. SigLIP2's giant is a "siglip"."""
    transformers = pytest.importorskip("transformers", reason="needs the extra 'hf'")
    names = {"siglip": "Siglip", "siglip2": "Siglip2"}[request.param]
    shape: dict[str, Any] = {"intermediate_size": 24, "num_attention_heads": 2}
    text = {**shape, "hidden_size": 16, "num_hidden_layers": 2, "projection_size": 20}
    special = {"vocab_size": 64, "bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0}
    vision = {**shape, "hidden_size": 20, "num_hidden_layers": 1, "patch_size": 8}
    config = getattr(transformers, f"{names}Config")(
        text_config={**text, **special}, vision_config=vision
    )
    torch.manual_seed(0)
    model = getattr(transformers, f"{names}Model")(config).eval()
    folder = tmp_path_factory.mktemp(request.param)
    model.save_pretrained(folder)
    write_tokenizer(folder)
    return folder, model


def write_tokenizer(folder: Path) -> None:
    """A Gemma tokenizer of 33 pieces, in the two files that SigLIP2's repositories have."""
    from tokenizers import Tokenizer as RustTokenizer
    from tokenizers import normalizers, pre_tokenizers, processors
    from tokenizers.models import BPE

    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    pieces = [*special, *"abcdefghijklmnopqrstuvwxyz", "▁", "ca", "cat"]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    merges = [("c", "a"), ("ca", "t")]
    tokenizer = RustTokenizer(BPE(vocab=vocabulary, merges=merges, unk_token="<unk>"))
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


def check_equal(tower: TextTower, wanted: Tensor) -> None:
    """Same embeddings, plain and normalised; frozen and in eval mode."""
    encoded = tower.encode_text(TEXTS)
    torch.testing.assert_close(encoded, wanted)
    torch.testing.assert_close(tower.encode_text(TEXTS, normalize=True), F.normalize(wanted))
    assert encoded.dtype == torch.float32
    assert not encoded.requires_grad
    assert not any(parameter.requires_grad for parameter in tower.parameters())
    assert not any(module.training for module in tower.train().modules())


@pytest.mark.parametrize("ending", ["pt", "safetensors"])
def test_open_clip_equals_its_full_model(
    ending: str, clip_model: tuple[str, Any], tmp_path: Path
) -> None:
    import open_clip

    name, model = clip_model
    file = tmp_path / f"weights.{ending}"
    if ending == "pt":  # what open_clip's training writes
        state = {f"module.{key}": value for key, value in model.state_dict().items()}
        torch.save({"epoch": 3, "state_dict": state}, file)
    else:
        save_file(model.state_dict(), file)
    with torch.no_grad():
        wanted = model.encode_text(open_clip.get_tokenizer(name)(TEXTS))
    tower = load_text_tower(f"open_clip:{name}/unknown_tag", file)
    check_equal(tower, wanted)
    check_equal(load_text_tower(f"open_clip:{name}/{file}"), wanted)
    assert isinstance(tower, OpenClipText)
    assert not [key for key in tower.state_dict() if "visual" in key]


def test_open_clip_directories_and_the_bundled_toy(clip_folder: Path) -> None:
    teacher = load_teacher(f"open_clip:local-dir:{clip_folder}")
    assert isinstance(teacher, OpenClipTeacher)
    wanted = teacher.encode_text(TEXTS)
    check_equal(load_text_tower(f"open_clip:local-dir:{clip_folder}"), wanted)
    check_equal(load_text_tower("open_clip:ViT-B-32/openai", clip_folder), wanted)
    toy = load_teacher("toy-clip")
    assert isinstance(toy, OpenClipTeacher)
    check_equal(load_text_tower("toy-clip"), toy.encode_text(TEXTS))
    check_equal(
        load_text_tower("open_clip:x/y", toy_teacher_folder("toy-clip")), toy.encode_text(TEXTS)
    )


def test_siglip2_equals_its_full_model(siglip: tuple[Path, Any]) -> None:
    from tokenizers import Tokenizer as RustTokenizer

    folder, model = siglip
    rust = RustTokenizer.from_file(str(folder / "tokenizer.json"))
    rust.enable_truncation(SIGLIP2_TOKENS)
    rust.enable_padding(length=SIGLIP2_TOKENS, pad_id=0, pad_token="<pad>")
    canonical = ["a red star", "a cat dog here", "x" * 200]
    tokens = torch.tensor([rust.encode(text).ids for text in canonical])
    assert tokens.shape == (3, SIGLIP2_TOKENS)
    with torch.no_grad():
        features = model.get_text_features(input_ids=tokens)
    wanted = features if isinstance(features, Tensor) else features.pooler_output
    tower = load_text_tower("siglip2:google/siglip2-giant-opt-patch16-384", folder)
    check_equal(tower, wanted)
    check_equal(load_text_tower(f"siglip2:{folder}"), wanted)
    assert isinstance(tower, Siglip2Text)
    assert wanted.shape == (3, 20)
    assert not [key for key in tower.state_dict() if "vision" in key]


def test_siglip2_half_precision_files_and_log(
    siglip: tuple[Path, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    transformers = pytest.importorskip("transformers", reason="needs the extra 'hf'")
    folder = shutil.copytree(siglip[0], tmp_path / "half")
    state = load_file(folder / "model.safetensors")
    save_file(
        {k: v.half() for k, v in state.items()}, folder / "model.safetensors", {"format": "pt"}
    )
    before = transformers.utils.logging.get_verbosity()
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    tower = load_text_tower(f"siglip2:{folder}")
    assert not caplog.records  # the vision weights are left out on purpose
    assert {parameter.dtype for parameter in tower.parameters()} == {torch.float32}
    assert transformers.utils.logging.get_verbosity() == before


def test_many_texts_are_encoded_in_parts(clip_folder: Path) -> None:
    tower = load_text_tower(f"open_clip:local-dir:{clip_folder}")
    texts = ["red star", "blue ring", "a ring"] * 200
    encoded = tower.encode_text(texts)
    torch.testing.assert_close(encoded, tower.encode_text(texts[:3]).repeat(200, 1))
    with pytest.raises(ValueError, match="list of one or more strings, not 'red star'"):
        tower.encode_text("red star")
    with pytest.raises(ValueError, match="list of one or more strings"):
        tower.encode_text([])


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("A photo of a Cat.", "a photo of a cat"),
        ("snake_case__here", "snake case here"),
        ("don't, stop -- now!", "dont stop now"),
        ("  tabs\tand\n lines  ", "tabs and lines"),
        (r"!\"#$%&'()*+,-./:;<=>?@[\]^`{|}~", ""),
        ("ÄPFEL für «Zürich»", "äpfel für «zürich»"),  # only ASCII punctuation goes
        ("x - y", "x y"),
        ("", ""),
    ],
)
def test_canonical_text(text: str, wanted: str) -> None:
    assert canonical_text(text) == wanted


def test_names_that_are_no_text_tower(tmp_path: Path, clip_folder: Path) -> None:
    for source in ("clip", "open_clip:", "siglip2", "dinov2:facebook/dinov2-base"):
        with pytest.raises(UnknownName, match="open_clip:MODEL/PRETRAINED, siglip2:HUB_ID"):
            load_text_tower(source)
    with pytest.raises(UnknownName, match="unknown open_clip model 'ViT-Z'; known: "):
        load_text_tower("open_clip:ViT-Z/openai")
    with pytest.raises(UnknownName, match=r"no weights 'nix'; name one of .*openai"):
        load_text_tower("open_clip:ViT-B-32/nix")
    with pytest.raises(FileNotFoundError, match=r"missing\.pt"):
        load_text_tower("open_clip:ViT-B-32/openai", tmp_path / "missing.pt")


def test_an_open_clip_file_runs_no_code(clip_model: tuple[str, Any], tmp_path: Path) -> None:
    mark, file = tmp_path / "mark", tmp_path / "evil.pt"
    torch.save({"state_dict": Malicious(mark)}, file)
    with pytest.raises(ValueError, match=r"evil\.pt: not a plain weights file; nothing"):
        load_text_tower(f"open_clip:{clip_model[0]}/x", file)
    assert not mark.exists()


def test_open_clip_files_that_do_not_fit(
    clip_model: tuple[str, Any], clip_folder: Path, tmp_path: Path
) -> None:
    name, model = clip_model
    state = dict(model.state_dict())
    del state["ln_final.weight"]
    save_file(state, tmp_path / "less.safetensors")
    with pytest.raises(ValueError, match=r"Missing key.*ln_final\.weight"):
        load_text_tower(f"open_clip:{name}/x", tmp_path / "less.safetensors")
    nan = {**model.state_dict(), "ln_final.weight": torch.full((8,), torch.nan)}
    save_file(nan, tmp_path / "nan.safetensors")
    with pytest.raises(ValueError, match="nan or infinity"):
        load_text_tower(f"open_clip:{name}/x", tmp_path / "nan.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "nan.safetensors").read_bytes()[:5000])
    with pytest.raises(ValueError, match="cannot load the text tower"):
        load_text_tower(f"open_clip:{name}/x", tmp_path / "cut.safetensors")
    with pytest.raises(ValueError, match=r"config file missing.*open_clip_config\.json"):
        load_text_tower(f"open_clip:{name}/x", tmp_path)
    shutil.copy(clip_folder / "open_clip_config.json", tmp_path)
    (tmp_path / "alone").mkdir()
    shutil.copy(clip_folder / "open_clip_config.json", tmp_path / "alone")
    with pytest.raises(ValueError, match="could not be loaded"):  # never random weights
        load_text_tower(f"open_clip:{name}/x", tmp_path / "alone")


def test_siglip2_directories_that_do_not_fit(siglip: tuple[Path, Any], tmp_path: Path) -> None:
    def broken(name: str) -> Path:
        return shutil.copytree(siglip[0], tmp_path / name)

    with pytest.raises(ValueError, match=r"no config\.json"):
        load_text_tower("siglip2:google/siglip2-so400m-patch16-naflex", tmp_path)
    folder = broken("tokenizer")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match="tokenizer is missing"):
        load_text_tower(f"siglip2:{folder}")
    folder = broken("weights")
    state = load_file(folder / "model.safetensors")
    removed = state.pop("text_model.head.weight")
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"text weights are missing: .*head\.weight"):
        load_text_tower(f"siglip2:{folder}")
    (folder / "model.safetensors").unlink()
    torch.save({**state, "text_model.head.weight": removed}, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"model\.safetensors"):  # pickles are not read
        load_text_tower(f"siglip2:{folder}")
    folder = broken("other")
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ValueError, match="is a 'bert' model, not siglip or siglip2"):
        load_text_tower("siglip2:x", folder)


def test_remote_code_is_never_run(siglip: tuple[Path, Any], tmp_path: Path) -> None:
    folder = shutil.copytree(siglip[0], tmp_path / "remote")
    mark = tmp_path / "mark"
    (folder / "evil.py").write_text(f"import os\nos.mkdir({str(mark)!r})\n")
    config = json.loads((folder / "config.json").read_text())
    names = ("AutoConfig", "AutoModel", "AutoTokenizer")
    config["auto_map"] = dict.fromkeys(names, "evil.Evil")
    (folder / "config.json").write_text(json.dumps(config))
    load_text_tower(f"siglip2:{folder}").encode_text(["a cat"])
    config["model_type"] = "evil"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="cannot load the text tower"):
        load_text_tower(f"siglip2:{folder}")
    assert not mark.exists()


def test_without_network_the_error_names_the_way_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("transformers", reason="needs the extra 'hf'")
    import huggingface_hub.constants as hub

    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match=r"text_towers=\{ADAPTOR: PATH\}"):
        load_text_tower("siglip2:google/siglip2-so400m-patch16-naflex")


@pytest.mark.parametrize(
    ("source", "package", "extra"),
    [("open_clip:ViT-B-32/openai", "open_clip", "clip"), ("siglip2:a/b", "transformers", "hf")],
)
def test_a_missing_library_names_its_extra(
    source: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from radio_core import extras

    def missing(name: str) -> None:
        raise ModuleNotFoundError(name=name)

    monkeypatch.setattr(extras, "import_module", missing)
    with pytest.raises(ImportError, match=rf"{package}.*radio-toolkit\[{extra}\]"):
        load_text_tower(source)
