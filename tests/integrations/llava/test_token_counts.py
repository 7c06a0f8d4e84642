"""One number of tokens for an image, wherever it is counted or made."""

import math
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from radio_core.models import RadioConfig, RadioModel, vit_config
from radio_llava.features import TowerConfig
from radio_llava.images import RadioImageProcessor, token_count
from radio_llava.tower import VisionTower

LONG_EDGE, PATCH = 432, 16
ODD = [(1, 1), (1, 900), (9000, 7), (431, 433), (432, 432), (27, 16), (480, 640), (640, 427)]
HALVES = [(31, 64), (95, 864), (32, 27)]  # resized sides at, or next to, half a pixel


def sizes(count: int) -> list[tuple[int, int]]:
    """The odd ones, and as many (height, width) of chance as make `count`."""
    numbers = np.random.default_rng(0).integers(1, 1500, (count, 2))
    return [*ODD, *HALVES, *((int(h), int(w)) for h, w in numbers)][:count]


def expected(height: int, width: int) -> int:
    """The rule in exact numbers: round the resized sides, halves to even; count patches."""
    longest = max(height, width)
    sides = (max(1, round(Fraction(side * LONG_EDGE, longest))) for side in (height, width))
    rows, cols = (math.ceil(side / PATCH) for side in sides)
    return rows * cols


@pytest.fixture(scope="module")
def tower(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A RADIO of patch 16, as small as can be."""
    folder = tmp_path_factory.mktemp("radio")
    torch.manual_seed(0)
    backbone = vit_config("tiny", patch_size=PATCH, embed_dim=16, depth=1, stem="patch")
    RadioModel(RadioConfig(backbone=backbone)).save_pretrained(folder)
    return folder


def test_the_count_follows_the_rule_exactly() -> None:
    for height, width in sizes(5000):
        assert token_count(height, width, LONG_EDGE, PATCH) == expected(height, width)


def test_processor_and_tower_make_as_many(tower: Path) -> None:
    vision = VisionTower(str(tower), SimpleNamespace())
    processor = vision.image_processor
    assert (processor.resolution, processor.step) == (LONG_EDGE, PATCH)
    for height, width in sizes(60):
        pixels = processor(Image.new("L", (width, height)))["pixel_values"]
        assert len(vision(pixels)[0]) == expected(height, width)


def test_transformers_processor_and_tower_make_as_many(tower: Path, tiny_llama: Path) -> None:
    from transformers import AutoTokenizer

    from radio_core import load_model
    from radio_llava.hf import RadioVisionConfig, RadioVisionModel, build_processor

    radio, choice = load_model(str(tower)), TowerConfig(model=str(tower))
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    processor: Any = build_processor(RadioVisionConfig.of(radio, choice), tokenizer)
    vision = RadioVisionModel.of(radio, choice)
    some = sizes(60)
    counts = [expected(height, width) for height, width in some]
    assert processor._get_num_multimodal_tokens(image_sizes=some).num_image_tokens == counts
    for (height, width), count in zip(some, counts, strict=True):
        inputs = processor(images=Image.new("L", (width, height)), text="<image>")
        found = np.asarray(inputs["input_ids"]) == processor.image_token_id
        images = {key: torch.as_tensor(inputs[key]) for key in ("pixel_values", "image_sizes")}
        assert found.sum() == vision(**images).last_hidden_state.shape[1] == count


def test_training_and_generation_take_as_many(
    tower: Path, tiny_llama: Path, tmp_path: Path, llava_data: Callable[..., Any]
) -> None:
    pytest.importorskip("llava", reason="needs llava-torch, see the extra 'llava'")
    from radio_llava.registration import IMAGE_TOKEN_INDEX, register

    register()
    from llava.model.language_model.llava_llama import LlavaConfig, LlavaLlamaForCausalLM

    config = LlavaConfig.from_pretrained(tiny_llama)
    values = {"mm_vision_tower": str(tower), "mm_projector_type": "linear", "mm_hidden_size": 16}
    config.update(values)
    model = LlavaLlamaForCausalLM(config).eval()
    vision = model.get_vision_tower()
    vision.load_model()
    some = sizes(16)
    samples = []
    for index, (height, width) in enumerate(some):
        Image.new("RGB", (width, height), "red").save(tmp_path / f"{index}.png")
        turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "red"}]
        samples.append({"image": f"{index}.png", "conversations": turns})
    data, collate = llava_data(samples, tmp_path, vision.image_processor)
    batch = collate([data[index] for index in range(len(data))])
    with torch.no_grad():
        made = model.prepare_inputs_labels_for_multimodal(
            batch["input_ids"], None, batch["attention_mask"], None, None, batch["images"]
        )
    texts = (batch["input_ids"] != IMAGE_TOKEN_INDEX) & batch["attention_mask"]
    found = (made[2].sum(dim=1) - texts.sum(dim=1)).tolist()
    assert found == [expected(height, width) for height, width in some]
    ids = torch.tensor([[1, IMAGE_TOKEN_INDEX, 5]])
    seen: list[int] = []

    def see(module: Any, args: Any, options: dict[str, Any]) -> None:
        seen.append(options["inputs_embeds"].shape[1])

    model.model.register_forward_pre_hook(see, with_kwargs=True)
    processor: RadioImageProcessor = vision.image_processor
    for height, width in some[:6]:
        pixels = processor(Image.new("L", (width, height)))["pixel_values"]
        model.generate(ids, images=pixels, max_new_tokens=1, do_sample=False)
        assert seen.pop() == 2 + expected(height, width)
