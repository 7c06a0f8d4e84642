"""A model that LLaVA's own code trained, as one of transformers'."""

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

from radio_core.models import RadioModel
from radio_llava.features import tower_features
from radio_llava.hf import convert_llava, load_llava
from radio_llava.images import RadioImageProcessor
from radio_llava.tower_config import TowerConfig


class Original:
    """What LLaVA's code computes, and the files that it saves."""

    def __init__(self, llama: Any, radio: RadioModel, tower: TowerConfig, tokenizer: Any) -> None:
        self.llama, self.radio, self.tower, self.tokenizer = llama, radio, tower, tokenizer
        width = llama.config.hidden_size
        self.projector = nn.Sequential(
            nn.Linear(radio.embed_dim, width), nn.GELU(), nn.Linear(width, width)
        )

    @torch.no_grad()
    def logits(self, before: list[int], image: Image.Image, after: list[int]) -> Tensor:
        """[1, L, V] of a text with an image in it."""
        images = RadioImageProcessor(self.tower.resolution, self.radio.patch_size)
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
        config |= {"radio_tower": self.tower.to_dict(), "mm_use_im_patch_token": False}
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


@pytest.mark.parametrize("changes", [{"layers": (-2,)}, {"normalize": "unit_scale"}])
def test_the_choice_of_features_comes_along(
    changes: dict[str, Any],
    original: Original,
    folders: tuple[Path, Path],
    images: list[Image.Image],
) -> None:
    original.tower = TowerConfig(**({"model": "toy", "resolution": 48} | changes))
    original.save(folders[0])
    convert_llava(*folders)
    assert_same_logits(original, folders[1], images)


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
        ({"mm_projector_type": "linear"}, "has 'mlp2x_gelu' only"),
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
