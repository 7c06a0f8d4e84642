"""A model that LLaVA's own code trained, as one of transformers'."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

pytest.importorskip("transformers", reason="needs the extra 'llava'")

from radio_core.config_file import to_mapping
from radio_core.models import RadioModel
from radio_llava.features import TowerConfig, feature_dim, tower_features
from radio_llava.hf import convert_llava, load_llava
from radio_llava.images import RadioImageProcessor


class Original:
    """What LLaVA's code computes, and the files that it saves."""

    projector: nn.Module

    def __init__(self, llama: Any, radio: RadioModel, tower: TowerConfig, tokenizer: Any) -> None:
        self.llama, self.radio, self.tower, self.tokenizer = llama, radio, tower, tokenizer
        width = llama.config.hidden_size
        layers = nn.Linear(feature_dim(radio, tower), width), nn.GELU(), nn.Linear(width, width)
        self.projector = nn.Sequential(*layers)

    @torch.no_grad()
    def logits(self, before: list[int], image: Image.Image, after: list[int]) -> Tensor:
        """[1, L, V] of a text with an image in it."""
        images = RadioImageProcessor(
            self.tower.resolution, self.radio.patch_size, self.tower.aspect
        )
        pixels = images.preprocess(image)["pixel_values"]
        patches = self.projector(tower_features(self.radio, pixels, self.tower)[0])
        words = self.llama.get_input_embeddings()
        parts = [words(torch.tensor(before)), patches, words(torch.tensor(after))]
        result: Tensor = self.llama(inputs_embeds=torch.cat(parts)[None]).logits
        return result

    def state(self, with_tower: bool) -> dict[str, Tensor]:
        state = dict(self.llama.state_dict())
        if self.llama.config.tie_word_embeddings:
            del state["lm_head.weight"]
        state |= {f"model.mm_projector.{n}": t for n, t in self.projector.state_dict().items()}
        if with_tower:
            tower = self.radio.state_dict()
            state |= {f"model.vision_tower.radio.{name}": t for name, t in tower.items()}
        return state

    def save(self, directory: Path, with_tower: bool = True, **fields: Any) -> None:
        config = self.llama.config.to_dict() | {"model_type": "llava_llama"}
        config |= {"architectures": ["LlavaLlamaForCausalLM"], "mm_vision_tower": "toy"}
        config |= {"mm_projector_type": "mlp2x_gelu", "mm_hidden_size": self.radio.embed_dim}
        config |= {"radio_tower": to_mapping(self.tower), "mm_use_im_patch_token": False}
        (directory / "config.json").write_text(json.dumps(config | fields), encoding="utf-8")
        state = {name: t.contiguous().clone() for name, t in self.state(with_tower).items()}
        save_file(state, directory / "model.safetensors", metadata={"format": "pt"})
        self.tokenizer.save_pretrained(directory)


@pytest.fixture
def original(
    make_llama: Callable[..., Any], radio: RadioModel, tower: TowerConfig, tokenizer: Any
) -> Original:
    torch.manual_seed(3)
    return Original(make_llama(), radio, tower, tokenizer)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Where the original is, and where the converted model goes."""
    (tmp_path / "llava").mkdir()
    return tmp_path / "llava", tmp_path / "converted"


def assert_same_logits(original: Original, out: Path, images: list[Image.Image]) -> None:
    model, processor = load_llava(out)
    for image in images:
        inputs = processor(images=image, text="red <image> what is", return_tensors="pt")
        before, after = (original.tokenizer(text)["input_ids"] for text in ("red", "what is"))
        wanted = original.logits(before, image, after)
        with torch.no_grad():
            found = model(**inputs).logits
        assert found.shape[:2] == wanted.shape[:2]
        torch.testing.assert_close(found[..., : wanted.shape[-1]], wanted, rtol=1e-4, atol=1e-4)


def test_logits_stay_and_the_released_tower_comes_along(
    original: Original, folders: tuple[Path, Path], images: list[Image.Image]
) -> None:
    original.save(folders[0], with_tower=False)
    convert_llava(*folders)
    assert_same_logits(original, folders[1], images)
    assert (folders[0] / "model.safetensors").stat().st_size < 1_000_000


def test_a_trained_tower_is_taken_from_the_checkpoint(
    original: Original, folders: tuple[Path, Path], images: list[Image.Image], radio: RadioModel
) -> None:
    trained = RadioModel(radio.config).eval()
    trained.load_state_dict({n: t * 1.5 for n, t in radio.state_dict().items()})
    original.radio = trained
    original.save(folders[0], unfreeze_mm_vision_tower=True)
    convert_llava(*folders)
    assert_same_logits(original, folders[1], images)


def test_a_frozen_tower_is_the_released_one_however_it_was_saved(
    original: Original, folders: tuple[Path, Path], images: list[Image.Image], radio: RadioModel
) -> None:
    rounded = RadioModel(radio.config).to(torch.bfloat16)
    rounded.load_state_dict(radio.state_dict())
    original.radio = rounded
    original.save(folders[0])
    original.radio = radio
    convert_llava(*folders)
    assert_same_logits(original, folders[1], images)


@pytest.mark.parametrize(
    "changes",
    [{"layers": (-2, 0)}, {"normalize": "unit_scale"}, {"adaptor": "sam"}, {"aspect": "square"}],
)
def test_the_choice_of_features_comes_along(
    changes: dict[str, Any],
    make_llama: Callable[..., Any],
    radio: RadioModel,
    tokenizer: Any,
    folders: tuple[Path, Path],
    images: list[Image.Image],
) -> None:
    tower = TowerConfig(**({"model": "toy", "resolution": 48} | changes))
    original = Original(make_llama(), radio, tower, tokenizer)
    original.save(folders[0])
    convert_llava(*folders)
    assert_same_logits(original, folders[1], images)


def test_images_that_llava_padded_to_squares_are_padded_on(
    original: Original, folders: tuple[Path, Path], images: list[Image.Image]
) -> None:
    original.save(folders[0], image_aspect_ratio="pad")
    original.tower = dataclasses.replace(original.tower, aspect="pad")  # LLaVA's, done by us
    convert_llava(*folders)
    assert_same_logits(original, folders[1], images)


@pytest.mark.parametrize("kind", ["linear", "mlp1x_gelu"])
def test_a_projector_of_one_layer_is_converted(
    kind: str, original: Original, folders: tuple[Path, Path], images: list[Image.Image]
) -> None:
    layer = nn.Linear(original.radio.embed_dim, original.llama.config.hidden_size)
    original.projector = layer if kind == "linear" else nn.Sequential(layer)
    original.save(folders[0], mm_projector_type=kind)
    convert_llava(*folders)
    assert_same_logits(original, folders[1], images)


def test_marks_around_images_are_in_the_chat_template(
    original: Original, folders: tuple[Path, Path], images: list[Image.Image]
) -> None:
    original.tokenizer.add_tokens(["<im_start>", "<im_end>"], special_tokens=True)
    original.llama.resize_token_embeddings(len(original.tokenizer), mean_resizing=False)
    original.save(folders[0], mm_use_im_start_end=True)
    convert_llava(*folders)
    assert_same_logits(original, folders[1], images)
    _, processor = load_llava(folders[1])
    question: dict[str, Any] = {"type": "text", "text": "what is this"}
    named = {"type": "text", "text": "what <image> is"}
    for content, expected in [
        ([{"type": "image"}, question], "USER: <im_start><image><im_end>\nwhat is this "),
        ([named], "USER: what <im_start><image><im_end> is "),
        (named["text"], "USER: what <im_start><image><im_end> is "),
    ]:
        messages = [{"role": "user", "content": content}]
        assert processor.apply_chat_template(messages, tokenize=False).endswith(expected)


def test_generation_settings_come_along_as_far_as_they_count(
    original: Original, folders: tuple[Path, Path]
) -> None:
    original.save(folders[0])
    settings = {"eos_token_id": [2, 5], "temperature": 0.9, "max_length": 99}
    (folders[0] / "generation_config.json").write_text(json.dumps(settings))
    convert_llava(*folders)
    found = load_llava(folders[1])[0].generation_config
    assert (found.eos_token_id, found.max_length) == ([2, 5], 99)
    assert found.temperature in (None, 1.0)


def test_shards_of_pickled_tensors_are_read(
    original: Original, folders: tuple[Path, Path], images: list[Image.Image]
) -> None:
    original.save(folders[0])
    (folders[0] / "model.safetensors").unlink()
    state = list(original.state(with_tower=True).items())
    weight_map = {}
    for number, part in enumerate((state[::2], state[1::2])):
        name = f"pytorch_model-{number}.bin"
        torch.save(dict(part), folders[0] / name)
        weight_map |= {key: name for key, _ in part}
    index = json.dumps({"weight_map": weight_map})
    (folders[0] / "pytorch_model.bin.index.json").write_text(index, encoding="utf-8")
    convert_llava(*folders)
    assert_same_logits(original, folders[1], images)


def test_tied_embeddings_stay_tied(
    original: Original,
    make_llama: Callable[..., Any],
    folders: tuple[Path, Path],
    images: list[Image.Image],
) -> None:
    original.llama = make_llama(tie_word_embeddings=True)
    original.save(folders[0])
    convert_llava(*folders)
    assert_same_logits(original, folders[1], images)
    model, _ = load_llava(folders[1])
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight


def test_the_dtype_is_kept_or_changed(original: Original, folders: tuple[Path, Path]) -> None:
    original.llama.to(torch.float16)
    original.save(folders[0])
    convert_llava(*folders)
    model, _ = load_llava(folders[1], dtype="auto")
    assert {p.dtype for p in model.parameters()} == {torch.float16}
    convert_llava(*folders, dtype=torch.bfloat16)
    model, _ = load_llava(folders[1], dtype="auto")
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


def test_what_cannot_be_converted_is_named(original: Original, folders: tuple[Path, Path]) -> None:
    source = folders[0]
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        convert_llava(*folders)
    for fields, message in [
        ({"mm_vision_tower": None}, "no mm_vision_tower: not a LLaVA"),
        ({"vision_config": {}}, "has the form of transformers' LLaVA already"),
        ({"mm_vision_tower": "openai/clip-vit-large-patch14-336"}, r"is 'openai/.*RADIO.*script"),
        ({"mm_projector_type": "mlp3x_gelu"}, r"two layers; known: mlp2x_gelu, linear, mlp1x_gelu"),
        ({"mm_projector_type": "linear"}, r"linear_1\.weight"),
        ({"image_aspect_ratio": "anyres"}, "'anyres' cannot be converted: only square and pad"),
        ({"model_type": "llava_mpt"}, "'llava_mpt' cannot be converted; known: llava_llama"),
        ({"unfreeze_mm_vision_tower": True}, r"missing_keys: .*vision_tower\.radio\."),
        ({"num_hidden_layers": 3}, r"missing_keys: .*layers\.2\."),
    ]:
        original.save(source, with_tower=False, **fields)
        with pytest.raises(ValueError, match=message):
            convert_llava(*folders)
    original.save(source)
    (source / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"no model\.safetensors and no pytorch_model\.bin"):
        convert_llava(*folders)
    (source / "mm_projector.bin").touch()
    with pytest.raises(FileNotFoundError, match=r"has mm_projector\.bin but no complete model"):
        convert_llava(*folders)
    assert not folders[1].exists()
