"""Questions on images, answered by a LLaVA: in its own form, or in that of transformers."""

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from radio_core.extras import require
from radio_core.models.fingerprint import weights_fingerprint
from radio_core.models.weight_files import read_json
from radio_llava.compat import language_models, require_llava
from radio_llava.images import IMAGE, RadioImageProcessor, token_count
from radio_llava.registration import padded_left, register
from radio_llava.tower import VisionTower

VICUNA = "vicuna_v1"
"""LLaVA's name of LLaVA-1.5's conversation."""

_TYPES = ("llava_llama", "llava_mistral", "llava_mpt", "llava")
_CONVERSATIONS = {"llava_mistral": "mistral_instruct", "llava_mpt": "mpt"}
_CONVERSATIONS_BY_NAME = {"llama-2": "llava_llama_2", "v1.6-34b": "chatml_direct"}
_PARTS = {"adapter_config.json": "LoRA", "mm_projector.bin": "projector"}
_WEIGHTS = ("model*.safetensors", "pytorch_model*.bin")


@dataclass(frozen=True, kw_only=True)
class Query:
    """A question, perhaps on images and after others.

    "<image>" in `text` marks the place of an image; where neither it nor `history` (earlier
    questions with the model's answers) has any, the images come first, each on a line of its own.
    """

    text: str
    images: tuple[Image.Image, ...] = ()
    history: tuple[tuple[str, str], ...] = ()

    def turns(self) -> list[tuple[str, str]]:
        """(question, answer) of all turns with "<image>" in its places; the last answer is ""."""
        questions = [question for question, _ in self.history] + [self.text]
        said = [answer.replace(IMAGE, "") for _, answer in self.history] + [""]
        marks, count = sum(text.count(IMAGE) for text in questions), len(self.images)
        if not marks:
            questions[0] = f"{IMAGE}\n" * count + questions[0]
        elif not count:
            raise ValueError(f"the text has {IMAGE} {marks} time(s), but no image was given")
        elif marks != count:
            raise ValueError(
                f"the text has {IMAGE} {marks} time(s), but {count} image(s) were given: give one "
                f"image for each {IMAGE}, or leave {IMAGE} out to have the images first"
            )
        return list(zip(questions, said, strict=True))


@dataclass(frozen=True, kw_only=True)
class AnswererSpec:
    """What evaluations ask of every model: its name, and that it talks."""

    name: str
    chat: bool = True


class Answerer(ABC):
    """A LLaVA, ready to be asked. It answers with the likeliest words, never at random.

    `settings` has JSON types: all of the model that decides its answers.
    """

    def __init__(self, model: Any, tokenizer: Any, name: str, conversation: str) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.name = name
        self.spec = AnswererSpec(name=name)
        self.settings: Mapping[str, Any] = {
            "conversation": conversation,
            "dtype": str(model.dtype).removeprefix("torch."),
            "weights": weights_fingerprint(model),
        }

    @abstractmethod
    def prompt(self, query: Query) -> str:
        """The whole text that the model reads, with "<image>" for each image."""

    @abstractmethod
    def image_tokens(self, height: int, width: int) -> int | None:
        """How many tokens an image of this size in pixels becomes; None where nothing tells."""

    @abstractmethod
    def _generate(
        self, prompts: Sequence[str], images: Sequence[Image.Image], **options: Any
    ) -> Tensor:
        """Ids of the new tokens after prompts that either all have RGB images or all have none."""

    def answers(self, queries: Sequence[Query], max_new_tokens: int = 128) -> list[str]:
        """Answer all queries at once; each answer is what it would be by itself."""
        said: dict[int, str] = {}
        for some in (True, False):  # LLaVA treats texts without images differently
            indices = [i for i, query in enumerate(queries) if bool(query.images) == some]
            if indices:
                texts = self._texts([queries[i] for i in indices], max_new_tokens)
                said |= dict(zip(indices, texts, strict=True))
        return [said[index] for index in range(len(queries))]

    def stream(self, query: Query, listen: Callable[[str], None], max_new_tokens: int = 512) -> str:
        """Answer one query word by word: `listen` gets each piece of the text as it is made."""
        transformers = require("transformers", extra="llava")

        class Words(transformers.TextStreamer):  # type: ignore[name-defined,misc]
            def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
                if text:
                    listen(text)

        streamer = Words(self.tokenizer, skip_prompt=True, skip_special_tokens=True)
        return self._texts([query], max_new_tokens, streamer=streamer)[0]

    @torch.inference_mode()
    def _texts(self, queries: Sequence[Query], max_new_tokens: int, **options: Any) -> list[str]:
        pad = self.tokenizer.pad_token_id
        made = self._generate(
            [self.prompt(query) for query in queries],
            [image.convert("RGB") for query in queries for image in query.images],
            do_sample=False,
            num_beams=1,
            temperature=None,
            top_p=None,
            top_k=None,
            max_new_tokens=max_new_tokens,
            pad_token_id=self.tokenizer.eos_token_id if pad is None else pad,
            **options,
        )
        return [x.strip() for x in self.tokenizer.batch_decode(made, skip_special_tokens=True)]


class OriginalAnswerer(Answerer):
    """A LLaVA of LLaVA's own classes, through its own prompts (`conv_templates`) and `generate`."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        processor: Any,
        name: str = "llava",
        conv_mode: str = VICUNA,
    ) -> None:
        super().__init__(model, tokenizer, name, conv_mode)
        self.processor = processor
        self._conversation = require_llava("llava.conversation").conv_templates[conv_mode]

    def prompt(self, query: Query) -> str:
        """See `Answerer`."""
        conversation = self._conversation.copy()
        asks, answers = conversation.roles
        marked = getattr(self.model.config, "mm_use_im_start_end", False)
        for question, answer in query.turns():
            if marked:
                question = question.replace(IMAGE, f"<im_start>{IMAGE}<im_end>")
            conversation.append_message(asks, question)
            conversation.append_message(answers, answer or None)
        text: str = conversation.get_prompt()
        return text

    def image_tokens(self, height: int, width: int) -> int | None:
        """See `Answerer`."""
        aspect = getattr(self.model.config, "image_aspect_ratio", None)
        tower, processor = self.model.get_vision_tower(), self.processor
        if aspect == "anyres":
            return None
        if not isinstance(processor, RadioImageProcessor) or not isinstance(tower, VisionTower):
            count: int = tower.num_patches
            return count
        if aspect == "pad" or processor.aspect != "native":
            height = width = 1
        patch = tower.config.patch_size
        return token_count(height, width, processor.resolution, patch, processor.step)

    def pixels(self, images: Sequence[Image.Image]) -> Any:
        """Images as the tower takes them: [B, 3, H, W], or a list where their sizes differ."""
        process = require_llava("llava.mm_utils").process_images
        pixels = process(list(images), self.processor, self.model.config)
        if isinstance(pixels, Tensor):
            return pixels.to(self.model.device, self.model.dtype)
        return [tensor.to(self.model.device, self.model.dtype) for tensor in pixels]

    def _generate(
        self, prompts: Sequence[str], images: Sequence[Image.Image], **options: Any
    ) -> Tensor:
        tokenize = require_llava("llava.mm_utils").tokenizer_image_token
        rows = [tokenize(prompt, self.tokenizer, return_tensors="pt") for prompt in prompts]
        ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
        mask = torch.zeros_like(ids, dtype=torch.bool)
        for place, row in enumerate(rows):  # padded at the left
            ids[place, -len(row) :] = row
            mask[place, -len(row) :] = True
        with padded_left(self.model.config):  # `register` does so for our towers alone
            made: Tensor = self.model.generate(
                ids.to(self.model.device),
                images=self.pixels(images) if images else None,
                image_sizes=[image.size for image in images] or None,
                attention_mask=mask.to(self.model.device),
                use_cache=True,
                **options,
            )
        return made


class TransformersAnswerer(Answerer):
    """A `LlavaForConditionalGeneration` with its processor.

    `conv_mode` None stands for the processor's chat template, and LLaVA-1.5's where it has none.
    """

    def __init__(
        self, model: Any, processor: Any, name: str = "llava", conv_mode: str | None = None
    ) -> None:
        from radio_llava.hf.processing import LLAVA_V1

        self.processor = processor
        self._template: str = (None if conv_mode else processor.chat_template) or LLAVA_V1
        conversation = VICUNA if self._template == LLAVA_V1 else "the model's own"
        super().__init__(model, processor.tokenizer, name, conversation)

    def prompt(self, query: Query) -> str:
        """See `Answerer`."""
        messages = []
        for question, answer in query.turns():
            for role, text in (("user", question), ("assistant", answer)):
                if text or role == "user":
                    messages.append({"role": role, "content": [{"type": "text", "text": text}]})
        prompt: str = self.processor.apply_chat_template(
            messages, chat_template=self._template, add_generation_prompt=True, tokenize=False
        )
        return prompt

    def image_tokens(self, height: int, width: int) -> int | None:
        """See `Answerer`."""
        counts = self.processor._get_num_multimodal_tokens(image_sizes=[(height, width)])
        count: int = counts["num_image_tokens"][0]
        return count

    def _generate(
        self, prompts: Sequence[str], images: Sequence[Image.Image], **options: Any
    ) -> Tensor:
        inputs = self.processor(
            text=list(prompts),
            images=list(images) or None,
            padding=True,
            padding_side="left",
            return_tensors="pt",
        ).to(self.model.device, self.model.dtype)
        made: Tensor = self.model.generate(**inputs, **options)
        return made[:, inputs["input_ids"].shape[1] :]


def load_answerer(
    path: str | Path,
    *,
    base: str | Path | None = None,
    conv_mode: str | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
) -> Answerer:
    """Load what LLaVA's training wrote, or a transformers LLaVA with its processor.

    `base` is the language model that a LoRA or a projector alone was trained on. `dtype` None is
    float32 on the CPU, elsewhere bfloat16 for a model that was saved in it, else float16.
    """
    folder, place = Path(path), torch.device(device)
    config = _read_config(folder)
    require("transformers", extra="llava")
    if dtype is None:
        saved = str(config.get("dtype", config.get("torch_dtype")))
        half = torch.bfloat16 if saved.endswith("bfloat16") else torch.float16
        dtype = torch.float32 if place.type == "cpu" else half
    parts = folder.resolve().parts
    name = "_".join(parts[-2:]) if parts[-1].startswith("checkpoint-") else parts[-1]
    if "vision_config" not in config:
        conv_mode = conv_mode or conversation_of(config, name)
        known = require_llava("llava.conversation").conv_templates
        if conv_mode not in known:
            raise ValueError(f"unknown conversation {conv_mode!r}; known: {', '.join(known)}")
        model, tokenizer, processor = load_original(folder, base, device=place, dtype=dtype)
        return OriginalAnswerer(model, tokenizer, processor, name, conv_mode)
    if conv_mode not in (None, VICUNA):
        raise ValueError(
            f"unknown conversation {conv_mode!r}: a transformers LLaVA has its own (leave it out), "
            f"or that of LLaVA-1.5, {VICUNA!r}"
        )
    if base is not None:
        raise ValueError(f"{folder} is a whole model: leave the base model out")
    from radio_llava.hf import load_llava

    model, processor = load_llava(folder, dtype=dtype)
    torch.nn.Module.to(model, place)
    return TransformersAnswerer(model, processor, name, conv_mode)


def load_original(
    folder: Path, base: str | Path | None, *, device: torch.device, dtype: torch.dtype
) -> tuple[Any, Any, Any]:
    """(model, tokenizer, image processor) of what LLaVA's training wrote, as `load_answerer`."""
    kind = _read_config(folder)["model_type"]
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
    # LLaVA's loader sees by a name what is in a directory, whatever that is called
    family = {"llava_mistral": "-mistral", "llava_mpt": "-mpt"}.get(kind, "")
    register()
    for model_class in language_models():  # a frozen tower is saved too, but never read back
        model_class._keys_to_ignore_on_load_unexpected = [r"^model\.vision_tower\."]
    version = require("transformers", extra="llava").__version__
    major, minor = (int(number) for number in version.split(".")[:2])
    with redirect_stdout(sys.stderr):  # it prints what it does
        tokenizer, model, processor, _ = require_llava("llava.model.builder").load_pretrained_model(
            str(folder),
            None if base is None else str(base),
            f"llava{family}{'-lora' if part == 'LoRA' else ''}",
            device="cuda:0" if device == torch.device("cuda") else str(device),
            # LLaVA says float16; an older transformers rounds to it before the cast below
            **({"dtype": dtype} if (major, minor) >= (4, 56) else {}),
        )
    model.to(device, dtype)
    model.get_vision_tower().to(device=device, dtype=dtype)
    return model, tokenizer, processor


def conversation_of(config: Mapping[str, Any], name: str) -> str:
    """LLaVA's name of the conversation that a model was trained with, by its type and its name."""
    kind = config.get("model_type")
    if kind in _CONVERSATIONS:
        return _CONVERSATIONS[kind]
    named = (mode for part, mode in _CONVERSATIONS_BY_NAME.items() if part in name.lower())
    return next(named, VICUNA)


def _read_config(folder: Path) -> dict[str, Any]:
    file = folder / "config.json"
    if not file.is_file():
        raise ValueError(
            f"{folder} is no directory with a LLaVA model: it has no {file.name} (give the "
            "--output_dir of its training, or download a released model to a directory)"
        )
    config = read_json(file)
    kind = config.get("model_type")
    if kind not in _TYPES:
        raise ValueError(f"{file}: model_type {kind!r} is no LLaVA; known: {', '.join(_TYPES)}")
    if "auto_map" in config:
        raise ValueError(f"{file}: the model brings code of its own (auto_map), which is never run")
    return config
