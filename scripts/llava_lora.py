"""Fine-tune a transformers LLaVA that has a RADIO tower: a new projector, and LoRA in the LLM.

On a laptop, with a tiny random Llama on the toy world:

    radio toyworld export --out toyworld --parts vqa
    accelerate launch --cpu --num_processes 1 -m scripts.llava_lora \\
        --data toyworld/vqa/llava/instruct_train.json --images toyworld/vqa/images \\
        --resolution 64 --out runs/llava-lora

On GPUs, with LLaVA's own files:

    accelerate launch --mixed_precision bf16 -m scripts.llava_lora \\
        --language-model lmsys/vicuna-7b-v1.5 --vision-tower radio_h \\
        --data llava_v1_5_mix665k.json --images data --out runs/llava-lora

The result is a merged model with its processor, for `radio_llava.hf.load_llava`.
"""

import argparse
import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import (  # type: ignore[import-untyped]
    Accelerator,
    DistributedDataParallelKwargs,
)
from accelerate.utils import set_seed  # type: ignore[import-untyped]
from peft import LoraConfig, get_peft_model
from rich.progress import track
from tokenizers import Tokenizer, models, pre_tokenizers
from torch.utils.data import DataLoader
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from radio_core import load_model
from radio_core.data.images import load_rgb
from radio_llava.data import check_samples
from radio_llava.features import TowerConfig
from radio_llava.hf import RadioLlavaProcessor, build_llava, build_processor
from radio_llava.hf.processing import LLAVA_V1

Sample = dict[str, Any]
TINY = "tiny"
IGNORED = -100  # label of the tokens that are not to be learnt
LORA_LAYERS = r".*language_model.*\.(q|k|v|o|gate|up|down)_proj"


def main() -> None:
    """Train, and write the merged model, its processor and the losses."""
    options = parse_options()
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)  # batches without images
    accelerator = Accelerator(kwargs_handlers=[unused])
    set_seed(options.seed)
    samples: list[Sample] = json.loads(options.data.read_text(encoding="utf-8"))
    check_samples(samples, options.images)
    dtype = torch.bfloat16 if accelerator.mixed_precision == "bf16" else torch.float32
    model, processor = build(options, samples, dtype)
    lora = LoraConfig(
        r=options.rank,
        lora_alpha=2 * options.rank,
        target_modules=LORA_LAYERS,
        modules_to_save=["multi_modal_projector"],
    )
    model = get_peft_model(model, lora)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=options.learning_rate)
    loader: Any = DataLoader(
        samples,  # type: ignore[arg-type]
        batch_size=options.batch_size,
        shuffle=True,
        collate_fn=Collator(processor, options.images),
    )
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    losses = train(accelerator, model, optimizer, loader, options.steps)
    if accelerator.is_main_process:
        accelerator.unwrap_model(model).merge_and_unload().save_pretrained(options.out)
        processor.save_pretrained(options.out)
        (options.out / "losses.json").write_text(json.dumps(losses), encoding="utf-8")
    accelerator.end_training()


def parse_options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="conversations, LLaVA's JSON")
    parser.add_argument("--images", type=Path, required=True, help="folder of their images")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--language-model", default=TINY, help="directory or hub id, or 'tiny'")
    parser.add_argument("--vision-tower", default="toy", help="as radio_core.load_model takes it")
    parser.add_argument("--resolution", type=int, default=432, help="long edge in pixels")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=8, help="of each process")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--rank", type=int, default=16, help="of LoRA")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def build(
    options: argparse.Namespace, samples: list[Sample], dtype: torch.dtype
) -> tuple[Any, RadioLlavaProcessor]:
    """The model in `dtype`, with a fresh projector, and its processor."""
    language_model: Any
    tokenizer: Any
    if options.language_model == TINY:
        language_model, tokenizer = tiny_parts(samples)
        language_model.to(dtype)
    else:
        language_model = AutoModelForCausalLM.from_pretrained(options.language_model, dtype=dtype)
        tokenizer = AutoTokenizer.from_pretrained(options.language_model)
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.unk_token or tokenizer.eos_token
    tokenizer.padding_side = "right"
    tower = TowerConfig(model=options.vision_tower, resolution=options.resolution)
    model: Any = build_llava(load_model(options.vision_tower), tower, language_model, tokenizer)
    return model, build_processor(model.config.vision_config, tokenizer, LLAVA_V1)


def tiny_parts(samples: list[Sample]) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """A random Llama of two layers, and a tokenizer of the words of the conversations."""
    texts = [turn["value"] for sample in samples for turn in sample["conversations"]]
    words = re.findall(r"\w+|[^\w\s]+", " ".join([LLAVA_V1, *texts]))
    vocabulary = dict.fromkeys(["<unk>", "<s>", "</s>", "<pad>", *words])
    ids = {word: index for index, word in enumerate(vocabulary)}
    plain = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    config = LlamaConfig(
        vocab_size=len(ids),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        bos_token_id=ids["<s>"],
        eos_token_id=ids["</s>"],
        pad_token_id=ids["<pad>"],
    )
    return LlamaForCausalLM(config), PreTrainedTokenizerFast(tokenizer_object=plain, **special)


@dataclass
class Collator:
    """Makes batches of LLaVA's conversations; only the answers are labelled.

    Attributes:
        processor: has a chat template that marks the answers.
        images: the folder that the images' names are relative to.
    """

    processor: RadioLlavaProcessor
    images: Path

    def __call__(self, samples: list[Sample]) -> dict[str, Any]:
        """Inputs and labels of a batch."""
        batch: Any = self.processor.apply_chat_template(
            [self.messages(sample) for sample in samples],
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            return_assistant_tokens_mask=True,
            processor_kwargs={"padding": True},
        )
        learnt = torch.as_tensor(batch.pop("assistant_masks")).bool()
        return dict(batch) | {"labels": batch["input_ids"].masked_fill(~learnt, IGNORED)}

    def messages(self, sample: Sample) -> list[dict[str, Any]]:
        """A conversation of LLaVA's as the chat template takes it; it may have several images."""
        given = sample.get("image", [])
        names = iter([given] if isinstance(given, str) else given)
        messages: list[dict[str, Any]] = []
        for turn in sample["conversations"]:
            text, count = turn["value"], turn["value"].count("<image>")
            parts: list[dict[str, Any]] = [
                {"type": "image", "image": load_rgb(self.images / name, upright=False)}
                for name in itertools.islice(names, count)
            ]
            parts.append({"type": "text", "text": text.replace("<image>", "").strip()})
            role = "user" if turn["from"] == "human" else "assistant"
            messages.append({"role": role, "content": parts})
        return messages


def train(
    accelerator: Accelerator, model: Any, optimizer: Any, loader: Any, steps: int
) -> list[float]:
    """The loss of every step, of this process."""
    model.train()
    losses = []
    batches: Iterator[Any] = itertools.chain.from_iterable(itertools.repeat(loader))
    visible = accelerator.is_main_process
    for batch in track(itertools.islice(batches, steps), "training", steps, disable=not visible):
        loss = model(**batch).loss
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    accelerator.print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}")
    return losses


if __name__ == "__main__":
    main()
