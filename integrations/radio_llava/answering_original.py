"""Answers of a LLaVA in its own form, through its own prompts and its own `generate`."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from radio_core.extras import require
from radio_llava.answering import (
    IMAGE,
    Query,
    chosen_dtype,
    model_name,
    read_llava_config,
    weights_fingerprint,
    word_streamer,
)
from radio_llava.compat import language_models, require_llava
from radio_llava.images import RadioImageProcessor, token_count
from radio_llava.registration import register
from radio_llava.tower import RadioVisionTower

DEFAULT_CONVERSATION = "vicuna_v1"
"""That of LLaVA-1.5."""

_BY_TYPE = {"llava_mistral": "mistral_instruct", "llava_mpt": "mpt"}
_BY_NAME = {"llama-2": "llava_llama_2", "v1.6-34b": "chatml_direct"}
_PARTS = {"adapter_config.json": "LoRA", "mm_projector.bin": "projector"}
_WEIGHTS = ("model*.safetensors", "pytorch_model*.bin")


def load_original(
    folder: Path,
    *,
    base: str | Path | None = None,
    conv_mode: str | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
) -> "OriginalAnswerer":
    """Load what LLaVA's training wrote; see `radio_llava.answering.load_answerer`.

    Raises:
        ValueError: a LoRA or a projector without its base, a whole model with one, no weights, an
            unknown conversation.
        ImportError: LLaVA is missing.
    """
    config = read_llava_config(folder)
    name = model_name(folder)
    conversation = conv_mode or conversation_of(config, name)
    _check_conversation(conversation)
    place = torch.device(device)
    precision = chosen_dtype(place, dtype, config)
    register()
    for kind in language_models():  # a frozen tower is saved too, but read from where it comes from
        kind._keys_to_ignore_on_load_unexpected = [r"^model\.vision_tower\."]
    builder = require_llava("llava.model.builder")
    with redirect_stdout(sys.stderr):  # it prints what it does
        tokenizer, model, processor, _ = builder.load_pretrained_model(
            str(folder),
            None if base is None else str(base),
            _kind(folder, base, config),
            device="cuda:0" if place == torch.device("cuda") else str(place),
            **_exact(precision),
        )
    model.to(place, precision)
    model.get_vision_tower().to(device=place, dtype=precision)
    return OriginalAnswerer(model, tokenizer, processor, name=name, conv_mode=conversation)


def conversation_of(config: Mapping[str, Any], name: str) -> str:
    """LLaVA's name of the conversation that a model was trained with.

    Args:
        config: the model's config.json, whose model_type decides.
        name: of the model; LLaVA's own code goes by it for the rest.
    """
    kind = config.get("model_type")
    if kind in _BY_TYPE:
        return _BY_TYPE[kind]
    found = [mode for part, mode in _BY_NAME.items() if part in name.lower()]
    return found[0] if found else DEFAULT_CONVERSATION


class OriginalAnswerer:
    """A LLaVA of LLaVA's own classes, see `radio_llava.answering.Answerer`.

    Args:
        model: a `LlavaLlamaForCausalLM` or one of its kin, with its vision tower loaded; it is put
            into eval mode.
        tokenizer: of the model.
        processor: the vision tower's image processor.
        name: of the model.
        conv_mode: LLaVA's name of the conversation's form.

    Raises:
        ValueError: an unknown conversation; the known ones are listed.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        processor: Any,
        *,
        name: str = "llava",
        conv_mode: str = DEFAULT_CONVERSATION,
    ) -> None:
        _check_conversation(conv_mode)
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.processor = processor
        self.name = name
        self.conv_mode = conv_mode
        self.settings: Mapping[str, Any] = {
            "conversation": conv_mode,
            "dtype": str(model.dtype).removeprefix("torch."),
            "weights": weights_fingerprint(model),
        }

    def prompt(self, query: Query) -> str:
        """See `Answerer`."""
        templates = require_llava("llava.conversation").conv_templates
        conversation = templates[self.conv_mode].copy()
        asks, answers = conversation.roles
        for question, answer in query.turns():
            conversation.append_message(asks, self._marked(question))
            conversation.append_message(answers, answer or None)
        text: str = conversation.get_prompt()
        return text

    def answers(self, queries: Sequence[Query], max_new_tokens: int = 128) -> list[str]:
        """See `Answerer`."""
        said: dict[int, str] = {}
        for some in (True, False):  # LLaVA treats texts without images differently
            indices = [i for i, query in enumerate(queries) if bool(query.images) == some]
            if indices:
                texts = self._generate([queries[i] for i in indices], max_new_tokens)
                said |= dict(zip(indices, texts, strict=True))
        return [said[index] for index in range(len(queries))]

    def stream(self, query: Query, listen: Callable[[str], None], max_new_tokens: int = 512) -> str:
        """See `Answerer`."""
        streamer = word_streamer(self.tokenizer, listen)
        return self._generate([query], max_new_tokens, streamer=streamer)[0]

    def image_tokens(self, height: int, width: int) -> int | None:
        """See `Answerer`."""
        aspect = getattr(self.model.config, "image_aspect_ratio", None)
        if aspect == "anyres":
            return None
        tower, processor = self.model.get_vision_tower(), self.processor
        if not isinstance(tower, RadioVisionTower) or not isinstance(
            processor, RadioImageProcessor
        ):
            count: int = tower.num_patches
            return count
        if aspect == "pad" or processor.aspect != "native":
            height = width = 1
        patch = tower.config.patch_size
        tokens = token_count(height, width, processor.resolution, patch, processor.step)
        scales = {a.name: a.upsample for a in tower.radio.config.adaptors}
        return tokens * scales.get(tower.tower_config.adaptor, 1) ** 2

    def _marked(self, question: str) -> str:
        if not getattr(self.model.config, "mm_use_im_start_end", False):
            return question
        return question.replace(IMAGE, f"<im_start>{IMAGE}<im_end>")

    @torch.inference_mode()
    def _generate(self, queries: Sequence[Query], max_new_tokens: int, **options: Any) -> list[str]:
        """The answers to queries that either all have images or all have none."""
        ids, mask = self._tokens([self.prompt(query) for query in queries])
        images = [image for query in queries for image in query.images]
        pad = self.tokenizer.pad_token_id
        with _padded_left(self.model.config):
            made = self.model.generate(
                ids,
                images=self._pixels(images) if images else None,
                image_sizes=[image.size for image in images] or None,
                attention_mask=mask,
                do_sample=False,
                num_beams=1,
                temperature=None,
                top_p=None,
                top_k=None,
                max_new_tokens=max_new_tokens,
                use_cache=True,
                pad_token_id=self.tokenizer.eos_token_id if pad is None else pad,
                **options,
            )
        texts = self.tokenizer.batch_decode(made, skip_special_tokens=True)
        return [text.strip() for text in texts]

    def _tokens(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Token ids and attention mask [B, L], padded at the left."""
        tokenize = require_llava("llava.mm_utils").tokenizer_image_token
        rows = [tokenize(prompt, self.tokenizer, return_tensors="pt") for prompt in prompts]
        shape = (len(rows), max(map(len, rows)))
        ids = torch.zeros(shape, dtype=torch.long)
        mask = torch.zeros(shape, dtype=torch.bool)
        for place, row in enumerate(rows):
            ids[place, -len(row) :] = row
            mask[place, -len(row) :] = True
        return ids.to(self.model.device), mask.to(self.model.device)

    def _pixels(self, images: Sequence[Image.Image]) -> Any:
        """Images as the tower takes them: [B, 3, H, W], or a list where their sizes differ."""
        process = require_llava("llava.mm_utils").process_images
        pixels = process([i.convert("RGB") for i in images], self.processor, self.model.config)
        if isinstance(pixels, Tensor):
            return pixels.to(self.model.device, self.model.dtype)
        return [tensor.to(self.model.device, self.model.dtype) for tensor in pixels]


@contextmanager
def _padded_left(config: Any) -> Iterator[None]:
    """LLaVA pads what it has put together of texts and images; for answers, at the left.

    `register` does so for RADIO towers alone; other towers answer in batches here too.
    """
    before = getattr(config, "tokenizer_padding_side", "right")
    config.tokenizer_padding_side = "left"
    try:
        yield
    finally:
        config.tokenizer_padding_side = before


def _check_conversation(name: str) -> None:
    known = require_llava("llava.conversation").conv_templates
    if name not in known:
        raise ValueError(f"unknown conversation {name!r}; known: {', '.join(known)}")


def _kind(folder: Path, base: str | Path | None, config: Mapping[str, Any]) -> str:
    """A name from which LLaVA's loader sees what is in a directory, whatever that is called.

    Raises:
        ValueError: a part without its base, a whole model with one, no weights.
    """
    whole = any(next(folder.glob(pattern), None) for pattern in _WEIGHTS)
    part = next((what for file, what in _PARTS.items() if (folder / file).is_file()), None)
    if part is None and not whole:
        raise ValueError(f"{folder} has no weights: no model.safetensors, no pytorch_model.bin")
    if part is not None and base is None and (part == "LoRA" or not whole):
        raise ValueError(
            f"{folder} has a {part} alone: name the language model that it was trained on as its "
            "base (--base DIR)"
        )
    if part is None and base is not None:
        raise ValueError(f"{folder} is a whole model: leave the base model out")
    family = {"llava_mistral": "-mistral", "llava_mpt": "-mpt"}.get(config["model_type"], "")
    return f"llava{family}{'-lora' if part == 'LoRA' else ''}"


def _exact(dtype: torch.dtype) -> dict[str, Any]:
    """Options for `from_pretrained` against LLaVA's float16, where transformers knows them.

    Elsewhere the weights are rounded to float16 before they are cast.
    """
    version = require("transformers", extra="llava").__version__
    major, minor = (int(part) for part in version.split(".")[:2])
    return {"dtype": dtype} if (major, minor) >= (4, 56) else {}
