"""From LLaVA's own training to transformers' classes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

pytest.importorskip("llava", reason="needs llava-torch, see the extra 'llava'")
pytest.importorskip("peft", reason="needs the extra 'llava'")

from radio_core.cli import main
from radio_llava import registration
from radio_llava.hf import convert_llava, load_llava
from radio_llava.hf.processing import MARKED_IMAGE

pytestmark = pytest.mark.slow

CHOICES: dict[str, dict[str, Any]] = {
    "plain": {},
    "all": {
        "mm_use_im_start_end": True,
        "image_aspect_ratio": "pad",
        "radio_layers": [1, -1],
        "radio_normalize": "layer_norm",
        "unfreeze_mm_vision_tower": True,
        "mm_projector_type": "linear",
    },
}
SHORT = {"bf16": True, "max_steps": 3}
LORA = SHORT | {"lora_enable": True, "lora_r": 4, "unfreeze_mm_vision_tower": True}
LORA |= {"radio_adaptor": "clip", "radio_normalize": "unit_scale"}

Run = Callable[..., Path]


def original_model(folder: Path) -> Any:
    """LLaVA's own model in float32, with its tower."""
    from llava.model.language_model.llava_llama import LlavaLlamaForCausalLM

    registration.register()
    model: Any = LlavaLlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    model.get_vision_tower().load_model()
    return model


def assert_same_answers(folder: Path, converted: Path, pictures: Path) -> None:
    """Tokens, logits and answers of the original and of the converted model are the same."""
    from llava.mm_utils import process_images, tokenizer_image_token
    from transformers import AutoTokenizer

    original = original_model(folder)
    tower = original.get_vision_tower()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model, processor = load_llava(converted)
    prompts = [
        "USER: <image>\nWhat colour is the object? ASSISTANT:",
        "<image> red",
        "How many? <image>",
    ]
    for index, prompt in enumerate(prompts):
        if original.config.mm_use_im_start_end:
            prompt = prompt.replace("<image>", MARKED_IMAGE)
        picture = Image.open(pictures / f"{index}.png").convert("RGB")
        images = process_images([picture], tower.image_processor, original.config)
        ids = tokenizer_image_token(prompt, tokenizer, return_tensors="pt")[None]
        inputs = processor(images=picture, text=prompt, return_tensors="pt")
        text = inputs["input_ids"][inputs["input_ids"] != processor.image_token_id]
        assert text.tolist() == ids[ids >= 0].tolist()
        with torch.no_grad():
            wanted = original(ids, images=images).logits
            found = model(**inputs).logits[..., : wanted.shape[-1]]
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=5e-4)
        options: dict[str, Any] = {"do_sample": False, "max_new_tokens": 4}
        said = original.generate(ids, images=images, **options)[0].tolist()
        assert (
            model.generate(**inputs, **options)[0, inputs["input_ids"].shape[1] :].tolist() == said
        )


@pytest.mark.parametrize("choices", CHOICES)
def test_the_converted_model_has_the_same_tokens_logits_and_answers(
    choices: str, run: Run, toy_conversations: Path, tmp_path: Path
) -> None:
    trained = run("llava-toy", **SHORT | CHOICES[choices])
    options = ["--dtype", "float32"]
    assert main(["llava", "convert", str(trained), str(tmp_path / "converted"), *options]) == 0
    assert_same_answers(trained, tmp_path / "converted", toy_conversations)


def merged_by_llava(lora: Path, base: Path) -> tuple[Any, Any]:
    """Tokenizer and model, as LLaVA's merge_lora_weights.py makes them."""
    from llava.mm_utils import get_model_name_from_path
    from llava.model.builder import load_pretrained_model

    registration.register()
    name = get_model_name_from_path(str(lora))
    loaded: Any = load_pretrained_model(str(lora), str(base), name, device_map="cpu")
    return loaded[0], loaded[1]


def test_a_lora_is_merged_and_converted(
    run: Run, tiny_llama: Path, toy_conversations: Path, tmp_path: Path
) -> None:
    lora = run("llava-toy-lora", **LORA)
    with pytest.raises(FileNotFoundError, match="merge it into its base model"):
        convert_llava(lora, tmp_path / "not-merged")
    merged = tmp_path / "llava-merged"
    for part in merged_by_llava(lora, tiny_llama):
        part.save_pretrained(merged)
    convert_llava(merged, tmp_path / "converted", dtype=torch.float32)
    assert_same_answers(merged, tmp_path / "converted", toy_conversations)


def test_our_own_command_merges_as_llavas_script_does(
    run: Run, tiny_llama: Path, tmp_path: Path
) -> None:
    lora, merged = run("llava-toy-lora", **LORA), tmp_path / "llava-merged"
    assert main(["llava", "merge", str(lora), str(merged), "--base", str(tiny_llama)]) == 0
    found = load_file(merged / "model.safetensors")
    _, model = merged_by_llava(lora, tiny_llama)
    tower = model.get_vision_tower().tower_config
    assert (tower.adaptor, tower.normalize, tower.resolution) == ("clip", "unit_scale", 64)
    expected = {name: x for name, x in model.state_dict().items() if x.is_floating_point()}
    assert found["model.mm_projector.0.weight"].dtype == torch.float16
    assert [n for n, x in expected.items() if not torch.equal(x.half(), found[n].half())] == []
