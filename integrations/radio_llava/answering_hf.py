"""Answers of a LLaVA in transformers' form."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from radio_core.models.weight_files import read_json
from radio_llava.answering import (
    CONFIG_FILE,
    Query,
    chosen_dtype,
    model_name,
    weights_fingerprint,
    word_streamer,
)
from radio_llava.hf import load_llava
from radio_llava.hf.chat_template import LLAVA_V1

OWN = "the model's own"
VICUNA = "vicuna_v1"


def load_transformers(
    folder: Path,
    *,
    conv_mode: str | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
) -> "TransformersAnswerer":
    """Load a model and its processor; see `radio_llava.answering.load_answerer`."""
    place = torch.device(device)
    _check_conversation(conv_mode)
    precision = chosen_dtype(place, dtype, read_json(folder / CONFIG_FILE))
    model, processor = load_llava(folder, dtype=precision)
    torch.nn.Module.to(model, place)
    return TransformersAnswerer(model, processor, name=model_name(folder), conv_mode=conv_mode)


class TransformersAnswerer:
    """A `LlavaForConditionalGeneration`, see `radio_llava.answering.Answerer`.

    Args:
        model: it is put into eval mode.
        processor: a `RadioLlavaProcessor`, or transformers' own `LlavaProcessor`.
        name: of the model.
        conv_mode: "vicuna_v1" for that of LLaVA-1.5; None for the processor's chat template, and
            LLaVA-1.5's where it has none.

    Raises:
        ValueError: another conversation.
    """

    def __init__(
        self, model: Any, processor: Any, *, name: str = "llava", conv_mode: str | None = None
    ) -> None:
        _check_conversation(conv_mode)
        self.model = model.eval()
        self.processor = processor
        self.name = name
        own = None if conv_mode else processor.chat_template
        self.template: str = own or LLAVA_V1
        self.settings: Mapping[str, Any] = {
            "conversation": VICUNA if self.template == LLAVA_V1 else OWN,
            "dtype": str(model.dtype).removeprefix("torch."),
            "weights": weights_fingerprint(model),
        }

    def prompt(self, query: Query) -> str:
        """See `Answerer`."""
        messages = []
        for question, answer in query.turns():
            messages.append({"role": "user", "content": [{"type": "text", "text": question}]})
            if answer:
                content = [{"type": "text", "text": answer}]
                messages.append({"role": "assistant", "content": content})
        text: str = self.processor.apply_chat_template(
            messages, chat_template=self.template, add_generation_prompt=True, tokenize=False
        )
        return text

    def answers(self, queries: Sequence[Query], max_new_tokens: int = 128) -> list[str]:
        """See `Answerer`."""
        return self._generate(queries, max_new_tokens) if queries else []

    def stream(self, query: Query, listen: Callable[[str], None], max_new_tokens: int = 512) -> str:
        """See `Answerer`."""
        streamer = word_streamer(self.processor.tokenizer, listen)
        return self._generate([query], max_new_tokens, streamer=streamer)[0]

    def image_tokens(self, height: int, width: int) -> int | None:
        """See `Answerer`."""
        counts = self.processor._get_num_multimodal_tokens(image_sizes=[(height, width)])
        count: int = counts["num_image_tokens"][0]
        return count

    @torch.inference_mode()
    def _generate(self, queries: Sequence[Query], max_new_tokens: int, **options: Any) -> list[str]:
        prompts = [self.prompt(query) for query in queries]
        images = [image.convert("RGB") for query in queries for image in query.images]
        inputs = self.processor(
            text=prompts,
            images=images or None,
            padding=True,
            padding_side="left",
            return_tensors="pt",
        ).to(self.model.device, self.model.dtype)
        tokenizer = self.processor.tokenizer
        pad = tokenizer.pad_token_id
        made = self.model.generate(
            **inputs,
            do_sample=False,
            num_beams=1,
            temperature=None,
            top_p=None,
            top_k=None,
            max_new_tokens=max_new_tokens,
            pad_token_id=tokenizer.eos_token_id if pad is None else pad,
            **options,
        )
        new = made[:, inputs["input_ids"].shape[1] :]
        return [text.strip() for text in tokenizer.batch_decode(new, skip_special_tokens=True)]


def _check_conversation(name: str | None) -> None:
    if name not in (None, VICUNA):
        raise ValueError(
            f"unknown conversation {name!r}: a transformers LLaVA has its own (leave it out), or "
            f"that of LLaVA-1.5, {VICUNA!r}"
        )
