"""From LLaVA's own training to transformers' classes."""

import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

pytest.importorskip("llava", reason="needs llava-torch, see the extra 'llava'")
pytest.importorskip("peft", reason="needs the extra 'llava'")

from radio_llava import registration, train
from radio_llava.hf import convert_llava, load_llava

pytestmark = pytest.mark.slow

FLAGS = (
    "--version v1 --vision_tower toy --mm_projector_type mlp2x_gelu --mm_vision_select_layer -2 "
    "--mm_use_im_start_end False --mm_use_im_patch_token False --radio_resolution 64 --bf16 True "
    "--use_cpu True --per_device_train_batch_size 4 --save_strategy no --learning_rate 1e-2 "
    "--model_max_length 512 --lazy_preprocess True --report_to none --max_steps 3"
)


@pytest.fixture(scope="module")
def trained(
    tiny_llama: Path, toy_conversations: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A LLaVA of a few steps of training."""
    folder = tmp_path_factory.mktemp("run") / "llava-toy"
    paths = ["--model_name_or_path", tiny_llama, "--output_dir", folder]
    paths += ["--data_path", toy_conversations / "train.json"]
    paths += ["--image_folder", toy_conversations]
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.setattr(sys, "argv", ["train"])
        assert train.main([*FLAGS.split(), *map(str, paths)]) == 0
    return folder


def test_the_converted_model_has_the_same_tokens_logits_and_answers(
    trained: Path, toy_conversations: Path, tmp_path: Path
) -> None:
    from llava.mm_utils import process_images, tokenizer_image_token
    from llava.model.language_model.llava_llama import LlavaLlamaForCausalLM
    from transformers import AutoTokenizer

    registration.register()
    original: Any = LlavaLlamaForCausalLM.from_pretrained(trained, dtype=torch.float32).eval()
    tower = original.get_vision_tower()
    tower.load_model()
    tokenizer = AutoTokenizer.from_pretrained(trained)
    convert_llava(trained, tmp_path, dtype=torch.float32)
    model, processor = load_llava(tmp_path)
    prompts = [
        "USER: <image>\nWhat colour is the object? ASSISTANT:",
        "<image> red",
        "How many? <image>",
    ]
    for index, prompt in enumerate(prompts):
        picture = Image.open(toy_conversations / f"{index}.png").convert("RGB")
        images = process_images([picture], tower.image_processor, original.config)
        ids = tokenizer_image_token(prompt, tokenizer, return_tensors="pt")[None]
        inputs = processor(images=picture, text=prompt, return_tensors="pt")
        text = inputs["input_ids"][inputs["input_ids"] != processor.image_token_id]
        assert text.tolist() == ids[ids >= 0].tolist()
        with torch.no_grad():
            wanted = original(ids, images=images).logits
            found = model(**inputs).logits[..., : wanted.shape[-1]]
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
        options: dict[str, Any] = {"do_sample": False, "max_new_tokens": 4}
        said = original.generate(ids, images=images, **options)[0].tolist()
        assert (
            model.generate(**inputs, **options)[0, inputs["input_ids"].shape[1] :].tolist() == said
        )
