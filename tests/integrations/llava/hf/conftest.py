"""A tiny Llama, a tokenizer of a few words, and images of different sizes."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from radio_core import load_model
from radio_core.models import RadioModel
from radio_llava.features import TowerConfig

WORDS = ("<unk>", "<s>", "</s>", "<pad>", "USER", "ASSISTANT", ":", ".", "what", "is", "this")
COLOURS = ("red", "green", "blue", "a", "square", "circle", "two", "three", "The", "color")
SIZES = ((100, 50), (33, 90), (64, 64))
TEXTS = (
    "USER: <image> what is this ASSISTANT:",
    "USER: red <image> ASSISTANT:",
    "<image> a square",
)


@pytest.fixture
def tokenizer() -> Any:
    """A word-level tokenizer without an image token."""
    transformers = pytest.importorskip("transformers", reason="needs the extra 'llava'")
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {word: index for index, word in enumerate(WORDS + COLOURS)}
    words_only = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    words_only.pre_tokenizer = pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=words_only,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        padding_side="right",
    )


@pytest.fixture
def make_llama() -> Callable[..., Any]:
    """Builds a random LlamaForCausalLM of width 32; keywords replace fields of its config."""
    transformers = pytest.importorskip("transformers", reason="needs the extra 'llava'")

    def make(**changes: Any) -> Any:
        torch.manual_seed(0)
        fields: dict[str, Any] = {"vocab_size": len(WORDS + COLOURS), "hidden_size": 32}
        fields |= {"intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
        fields |= {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3}
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**(fields | changes)))
        for parameter in model.parameters():  # large enough for the image to matter
            torch.nn.init.normal_(parameter, std=0.2)
        return model.eval()

    return make


@pytest.fixture(scope="session")
def radio() -> RadioModel:
    """The bundled student; not to be changed."""
    return load_model("toy")


@pytest.fixture
def tower() -> TowerConfig:
    """Its features, of images of 64 pixels."""
    return TowerConfig(model="toy", resolution=64)


@pytest.fixture(scope="session")
def images() -> list[Image.Image]:
    """Pictures of noise, of the sizes `SIZES`."""
    generator = np.random.default_rng(0)
    return [
        Image.fromarray(generator.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in SIZES
    ]


@pytest.fixture
def texts() -> list[str]:
    """One text with an image for each of the images."""
    return list(TEXTS)


@pytest.fixture
def llava(
    radio: RadioModel, tower: TowerConfig, make_llama: Callable[..., Any], tokenizer: Any
) -> Any:
    """A LLaVA of all these."""
    from radio_llava.hf import build_llava

    torch.manual_seed(1)
    return build_llava(radio, tower, make_llama(), tokenizer)


@pytest.fixture
def processor(llava: Any, tokenizer: Any) -> Any:
    """The processor of `llava`."""
    from radio_llava.hf import build_processor

    return build_processor(llava.config.vision_config, tokenizer)


@pytest.fixture
def batch(processor: Any, images: list[Image.Image], texts: list[str]) -> Any:
    """The inputs of `llava` for all images with their texts."""
    return processor(images=images, text=texts, return_tensors="pt", padding=True)


@pytest.fixture
def build(make_llama: Callable[..., Any], tokenizer: Any) -> Callable[..., tuple[Any, Any]]:
    """Builds a LLaVA of a RADIO model and the choice of its features, and its processor."""
    from radio_llava.hf import build_llava, build_processor

    def both(radio: RadioModel, tower: TowerConfig) -> tuple[Any, Any]:
        model = build_llava(radio, tower, make_llama(), tokenizer)
        return model, build_processor(model.config.vision_config, tokenizer)

    return both
