"""A tiny Llama, data for LLaVA, and the flags of a short training."""

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from radio_core.data.toyworld import render_scene

LLAVA_TEXT = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives "
    "helpful, detailed, and polite answers to the user's questions. USER: ASSISTANT: Is there a "
    "red green blue yellow square circle star ring? What colour is the object? How many? yes no "
    "Answer the question using a single word or phrase. what are they doing to the dog"
)


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of two layers and width 64, with its tokenizer, in the real format."""
    spm = pytest.importorskip("sentencepiece", reason="needs the extra 'llava'")
    transformers = pytest.importorskip("transformers", reason="needs the extra 'llava'")
    folder = tmp_path_factory.mktemp("models") / "tiny-llama"
    folder.mkdir()
    model = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter([LLAVA_TEXT] * 4),
        model_writer=model,
        vocab_size=400,
        model_type="bpe",
        byte_fallback=True,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    tokenizer = {"tokenizer_class": "LlamaTokenizer", "legacy": False, "model_max_length": 2048}
    tokenizer |= {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    tokenizer["add_bos_token"] = True
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    torch.manual_seed(5)
    config = transformers.LlamaConfig(
        vocab_size=400,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=2048,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def toy_conversations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of toy-world images of mixed sizes, and train.json with a question on each."""
    folder = tmp_path_factory.mktemp("toy-conversations")
    samples: list[dict[str, Any]] = []
    for index in range(12):
        scene = render_scene(0, index)
        height, width = [(128, 128), (128, 72), (60, 128)][index % 3]
        Image.fromarray(scene.image[:height, :width]).save(folder / f"{index}.png")
        question = "<image>\nWhat colour is the object?"
        sentences = [("human", question), ("gpt", scene.objects[0].colour)]
        conversation = [{"from": who, "value": text} for who, text in sentences]
        samples.append({"id": str(index), "image": f"{index}.png", "conversations": conversation})
    (folder / "train.json").write_text(json.dumps(samples))
    return folder


@pytest.fixture(scope="session")
def mixed_conversations(toy_conversations: Path) -> Path:
    """A file beside train.json: by turns a sample with one image, with none, and with two."""
    samples = json.loads((toy_conversations / "train.json").read_text())
    for sample in samples[1::3]:
        del sample["image"]
        sample["conversations"][0]["value"] = "What colour is the sky?"
    for sample in samples[2::3]:
        sample["image"] = ["0.png", sample["image"]]
        sample["conversations"][0]["value"] = "Is <image> or <image> larger?"
    file = toy_conversations / "mixed.json"
    file.write_text(json.dumps(samples))
    return file


LLAVA_FLAGS: dict[str, Any] = {
    "version": "v1",
    "vision_tower": "toy",
    "mm_projector_type": "mlp2x_gelu",
    "mm_vision_select_layer": -2,
    "mm_use_im_start_end": False,
    "mm_use_im_patch_token": False,
    "radio_resolution": 64,
    "bf16": False,
    "fp16": False,
    "tf32": False,
    "use_cpu": True,
    "num_train_epochs": 1,
    "per_device_train_batch_size": 4,
    "per_device_eval_batch_size": 4,
    "gradient_accumulation_steps": 1,
    "evaluation_strategy": "no",
    "save_strategy": "no",
    "learning_rate": 1e-2,
    "weight_decay": 0.0,
    "warmup_ratio": 0.03,
    "lr_scheduler_type": "cosine",
    "logging_steps": 1,
    "model_max_length": 512,
    "gradient_checkpointing": True,
    "lazy_preprocess": True,
    "dataloader_num_workers": 0,
    "report_to": "none",
    "max_steps": 20,
}


@pytest.fixture(scope="session")
def llava_flags(tiny_llama: Path, toy_conversations: Path) -> Callable[..., list[str]]:
    """The command line of a short training; keywords replace flags, None takes one out."""
    paths = {"model_name_or_path": tiny_llama, "image_folder": toy_conversations}
    paths |= {"data_path": toy_conversations / "train.json"}

    def command_line(**changes: Any) -> list[str]:
        argv: list[str] = []
        for name, value in (LLAVA_FLAGS | paths | changes).items():
            values = value if isinstance(value, list) else [value]
            argv += [] if value is None else [f"--{name}", *map(str, values)]
        return argv

    return command_line


@pytest.fixture(scope="module")
def run(llava_flags: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Trains with `llava_flags` and the given ones; returns the folder of the model."""
    from radio_llava import train

    def train_model(name: str, **changes: Any) -> Path:
        folder: Path = changes.pop("output_dir", tmp_path_factory.mktemp("run") / name)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["train"])
            torch.manual_seed(0)
            assert train.main(llava_flags(output_dir=folder, **changes)) == 0
        return folder

    return train_model


@pytest.fixture(scope="session")
def images() -> Any:
    """Noise [3, H, W] of three sizes, of 40, 24 and 64 patches of 8 pixels."""
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(3, *size, generator=generator) for size in ((64, 40), (24, 64), (64, 64))]


@pytest.fixture(scope="session")
def llava_data(tiny_llama: Path) -> Callable[..., Any]:
    """Builds LLaVA's data set of samples with our checks around it, and its collator."""
    pytest.importorskip("llava", reason="needs llava-torch, see the extra 'llava'")
    from transformers import AutoTokenizer

    from radio_llava.compat import apply_to_training
    from radio_llava.data import CheckedDataset, MixedSizes

    train = apply_to_training()
    conversation = pytest.importorskip("llava.conversation")

    def build(
        samples: list[dict[str, Any]], folder: Path, processor: Any, max_length: int = 160
    ) -> tuple[CheckedDataset, MixedSizes]:
        tokenizer = AutoTokenizer.from_pretrained(tiny_llama, model_max_length=max_length)
        tokenizer.pad_token = tokenizer.unk_token
        conversation.default_conversation = conversation.conv_templates["v1"]  # as --version v1
        (folder / "data.json").write_text(json.dumps(samples))
        data_args = SimpleNamespace(
            image_folder=str(folder),
            image_aspect_ratio="square",
            image_processor=processor,
            is_multimodal=True,
            mm_use_im_start_end=False,
        )
        inner = train.LazySupervisedDataset(str(folder / "data.json"), tokenizer, data_args)
        return CheckedDataset(inner), MixedSizes(train.DataCollatorForSupervisedDataset(tokenizer))

    return build
