"""Train toy-llm: a Llama of two million weights that has read of the toy world but never seen it.

    radio toyworld export --out runs/toyworld --train 12000 --val 300 --parts vqa
    python -m scripts.toy_llm --data runs/toyworld/vqa --out runs/toy-llm

and the result's files are copied into integrations/radio_llava/weights/toy-llm.

It reads LLaVA's conversations with the picture's description in the picture's place, so that it
knows what the questions mean before it sees; each ends with the request to repeat the description.
"""

import argparse
import io
import json
import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from torch import Tensor
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from scripts.toy_teachers import train

SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives "
    "helpful, detailed, and polite answers to the user's questions."
)
"""The beginning of LLaVA's "vicuna_v1" conversations."""

_VOCABULARY = 640
_FILES = ("pretrain", "instruct")
_IGNORED = -100
_LEARNING_RATE = 1.5e-3


def conversations(data: Path) -> list[list[tuple[str, str]]]:
    """(question, answer) pairs of every training scene; the first names what is to be seen."""
    read = [json.loads((data / f"llava/{name}_train.json").read_text()) for name in _FILES]
    described = []
    for captioned, asked in zip(*read, strict=True):
        request, caption = (turn["value"] for turn in captioned["conversations"])
        said = [turn["value"] for turn in asked["conversations"]]
        said += [request.removeprefix("<image>\n"), caption]
        said[0] = said[0].replace("<image>", caption)
        described.append(list(zip(said[::2], said[1::2], strict=True)))
    return described


def encode(
    turns: list[tuple[str, str]], tokenizer: PreTrainedTokenizerBase
) -> tuple[list[int], list[int]]:
    """Token ids of a conversation, and the labels: the answers."""
    ids, labels = [], []
    description, _, question = turns[0][0].partition("\n")
    asked = [
        f"{SYSTEM} USER: {description}\n{question}",
        *(f"USER: {text}" for text, _ in turns[1:]),
    ]
    for number, (text, (_, answer)) in enumerate(zip(asked, turns, strict=True)):
        # What follows on the end of an answer has no space before it, as in LLaVA's conversations
        before = "</s>" if number else ""
        new = tokenizer(f"{before}{text} ASSISTANT:", add_special_tokens=not number)["input_ids"]
        said = tokenizer(f" {answer}</s>", add_special_tokens=False)["input_ids"]
        new = new[bool(number) :]
        ids += new + said
        labels += [_IGNORED] * len(new) + said
    return ids, labels


def batches(
    samples: list[tuple[list[int], list[int]]], size: int, steps: int, seed: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Padded ids, masks and labels [B, L] of random samples, `steps` times."""
    rng = random.Random(seed)
    order: list[int] = []
    for _ in range(steps):
        if len(order) < size:
            order = rng.sample(range(len(samples)), len(samples))
        chosen = [samples[order.pop()] for _ in range(size)]
        length = max(len(ids) for ids, _ in chosen)
        ids = torch.tensor([x + [0] * (length - len(x)) for x, _ in chosen])
        labels = torch.tensor([x + [_IGNORED] * (length - len(x)) for _, x in chosen])
        mask = torch.tensor([[1] * len(x) + [0] * (length - len(x)) for x, _ in chosen])
        yield ids, mask, labels


def train_tokenizer(texts: Iterable[str], folder: Path) -> None:
    """Learn a sentencepiece model (BPE with bytes for what is unknown) and write it as Llama's.

    Args:
        texts: what the pieces are learned from; the same texts give the same pieces.
        folder: gets tokenizer.model and tokenizer_config.json.
    """
    lines = [line for text in texts for line in text.split("\n") if line]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        vocab_size=_VOCABULARY,
        model_type="bpe",
        byte_fallback=True,
        character_coverage=1.0,
        hard_vocab_limit=False,
        split_digits=True,
        minloglevel=2,
    )
    config = {
        "tokenizer_class": "LlamaTokenizer",
        "legacy": False,
        "add_bos_token": True,
        "model_max_length": 2048,
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
    }
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n")


def build(vocabulary: int) -> LlamaForCausalLM:
    """A fresh language model of that many tokens."""
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=2048,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():  # to repeat a word is where it begins, and most of what it has to learn
        model.lm_head.weight.copy_(model.model.embed_tokens.weight)
    return model


def main() -> None:
    """Train and write a directory in transformers' format."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--init", type=Path, help="go on from this result of an earlier run")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    read = conversations(options.data)
    options.out.mkdir(parents=True, exist_ok=True)
    turns = [turn for conversation in read for turn in conversation]
    # No space before USER: like Llama's own vocabulary this has a piece "USER" but no "▁USER", and
    # LLaVA's masks of the questions count on that.
    texts = [SYSTEM, *(f"0USER: {asked} ASSISTANT: {answer}" for asked, answer in turns)]
    train_tokenizer(texts, options.out)
    tokenizer: Any = AutoTokenizer.from_pretrained(options.out)
    model = (
        LlamaForCausalLM.from_pretrained(options.init) if options.init else build(len(tokenizer))
    )
    model.float()
    samples = [encode(turns, tokenizer) for turns in read]
    data = batches(samples, options.batch_size, options.steps, seed=0)

    def loss(batch: tuple[Tensor, Tensor, Tensor], done: float) -> tuple[Tensor, dict[str, float]]:
        ids, mask, labels = batch
        total = model(input_ids=ids, attention_mask=mask, labels=labels).loss
        return total, {"loss": total.item()}

    train(model, data, loss, _LEARNING_RATE, options.steps)
    model.half().save_pretrained(options.out)


if __name__ == "__main__":
    main()
