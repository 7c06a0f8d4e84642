"""Images and texts for transformers' LLaVA with RADIO inside."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("transformers", reason="needs the extra 'llava'")

from transformers import MODEL_MAPPING, AutoConfig
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

from radio_core.models import RadioModel
from radio_llava.features import TowerConfig
from radio_llava.hf import (
    RadioLlavaImageProcessor,
    RadioLlavaProcessor,
    RadioVisionConfig,
    RadioVisionModel,
    build_processor,
    register,
)
from radio_llava.hf.processing import LLAVA_V1


def tokens_of(processor: Any, inputs: Any) -> list[int]:
    return [int(n) for n in (inputs["input_ids"] == processor.image_token_id).sum(dim=1)]


@pytest.fixture
def big(tokenizer: Any) -> RadioLlavaProcessor:
    """A processor like that of a released model: patch 16, 432 pixels."""
    images = RadioLlavaImageProcessor(resolution=432, step=16)
    tokenizer.add_tokens(["<image>"], special_tokens=True)
    return RadioLlavaProcessor(images, tokenizer, patch_size=16)


def test_pixels_are_in_the_unit_range_and_black_beyond_the_image(
    big: Any, images: list[Image.Image]
) -> None:
    data = big.image_processor(images)
    assert data["pixel_values"].dtype == torch.float32
    assert data["pixel_values"].shape[:2] == (3, 3)
    assert 0 <= float(data["pixel_values"].min()) < float(data["pixel_values"].max()) <= 1
    for pixels, (height, width) in zip(data["pixel_values"], data["image_sizes"], strict=True):
        assert float(pixels[:, height:].abs().sum() + pixels[:, :, width:].abs().sum()) == 0
        assert (pixels[:, :height, :width].amax(dim=0) > 0).all()


def test_arrays_paths_and_nested_lists_are_as_good(
    big: Any, images: list[Image.Image], tmp_path: Path
) -> None:
    wanted = big.image_processor(images)["pixel_values"]
    paths = []
    for index, image in enumerate(images):
        image.save(tmp_path / f"{index}.png")
        paths.append(str(tmp_path / f"{index}.png"))
    arrays = [np.asarray(image) for image in images]
    tensors = [torch.from_numpy(array.copy()).permute(2, 0, 1) for array in arrays]
    for form in (paths, arrays, tensors, [[images[0]], images[1:]]):
        torch.testing.assert_close(big.image_processor(form)["pixel_values"], wanted)
    numbers = big.image_processor(images, return_tensors="np")
    assert isinstance(numbers["pixel_values"], np.ndarray)


@pytest.mark.parametrize("aspect", ["pad", "square"])
def test_squares(aspect: Any, radio: RadioModel, tokenizer: Any, images: list[Any]) -> None:
    tower = TowerConfig(model="toy", resolution=64, aspect=aspect)
    processor = build_processor(RadioVisionConfig.of(radio, tower), tokenizer)
    inputs = processor(images=images, text=["<image>"] * 3, return_tensors="pt")
    assert inputs["image_sizes"].tolist() == [[64, 64]] * 3
    assert tokens_of(processor, inputs) == [64] * 3
    counts = processor._get_num_multimodal_tokens(image_sizes=[(100, 50), (1, 9)])
    assert counts.num_image_tokens == [64, 64]


def test_the_sizes_of_a_call_can_differ(processor: Any, images: list[Any]) -> None:
    inputs = processor(
        images=images[:1], text="<image>", return_tensors="pt", images_kwargs={"resolution": 32}
    )
    assert inputs["image_sizes"].tolist() == [[32, 16]]
    assert tokens_of(processor, inputs) == [8]


def test_texts_and_images_must_match(processor: Any, images: list[Any]) -> None:
    for given, text, message in [
        (images[:1], "<image> and <image>", r"1 image\(s\) were given for 2 <image>"),
        (images[:2], ["<image>", "what"], r"2 image\(s\) were given for 1 <image> in 2 text"),
        (None, "<image>", r"0 image\(s\) were given for 1 <image>"),
        (images[:1], "what is this", r"1 image\(s\) were given for 0 <image>"),
    ]:
        with pytest.raises(ValueError, match=message):
            processor(images=given, text=text)


def test_an_image_that_is_cut_off_is_not_passed_on(processor: Any, images: list[Any]) -> None:
    with pytest.raises(ValueError, match="Mismatch in `image` token count"):
        processor(images=images[:1], text="<image> what", truncation=True, max_length=5)


def test_chat_has_llavas_own_prompt_and_marks_the_answers(
    processor: Any, images: list[Image.Image]
) -> None:
    conversation = pytest.importorskip("llava.conversation", reason="needs llava-torch")
    own = conversation.conv_templates["v1"].copy()
    turns = [("<image>\nwhat is this", "red square"), ("two", "a circle")]
    for question, answer in turns:
        own.append_message(own.roles[0], question)
        own.append_message(own.roles[1], answer)
    processor.chat_template = LLAVA_V1
    messages: list[dict[str, Any]] = []
    for index, (question, answer) in enumerate(turns):
        parts: list[dict[str, Any]] = [{"type": "text", "text": question.replace("<image>\n", "")}]
        if index == 0:
            parts.append({"type": "image", "image": images[0]})
        messages.append({"role": "user", "content": parts})
        messages.append({"role": "assistant", "content": answer})
    assert processor.apply_chat_template(messages) == own.get_prompt()
    asked = processor.apply_chat_template(messages[:1], add_generation_prompt=True)
    assert asked == own.get_prompt().partition(" red square")[0]
    inputs = processor.apply_chat_template(
        [messages],
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        return_assistant_tokens_mask=True,
    )
    learnt = inputs["input_ids"][inputs["assistant_masks"].bool()]
    assert processor.tokenizer.decode(learnt) == "red square </s> a circle </s>"
    assert tokens_of(processor, inputs) == [32]


def test_what_a_processor_needs_is_said(tokenizer: Any) -> None:
    images = RadioLlavaImageProcessor(resolution=64, step=8)
    with pytest.raises(ValueError, match="does not know '<image>' as one token"):
        RadioLlavaProcessor(images, tokenizer, patch_size=8)
    tokenizer.add_tokens(["<image>"], special_tokens=True)
    with pytest.raises(ValueError, match='needs "full"'):
        RadioLlavaProcessor(
            images, tokenizer, patch_size=8, vision_feature_select_strategy="default"
        )
    with pytest.raises(ValueError, match="patch_size is needed"):
        RadioLlavaProcessor(images, tokenizer)


def test_the_auto_classes_know_the_tower_after_registering_twice() -> None:
    register()
    register()
    config = AutoConfig.for_model(RadioVisionConfig.model_type)
    assert type(config) is RadioVisionConfig
    assert MODEL_MAPPING[RadioVisionConfig] is RadioVisionModel
    assert PROCESSOR_MAPPING[RadioVisionConfig] is RadioLlavaProcessor
