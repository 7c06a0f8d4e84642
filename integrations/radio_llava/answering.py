"""Questions on images, answered by a LLaVA: in its own form, or in that of transformers."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from PIL import Image

from radio_core.extras import require
from radio_core.models.weight_files import read_json

if TYPE_CHECKING:
    import torch
    from torch import nn

IMAGE = "<image>"
"""Stands for an image in a text."""
CONFIG_FILE = "config.json"
ORIGINAL_TYPES = ("llava_llama", "llava_mistral", "llava_mpt", "llava")
"""`model_type` of models that LLaVA's own code trained; transformers' has a vision_config, too."""

_SAMPLES = 64  # values of a tensor that go into its fingerprint


@dataclass(frozen=True, kw_only=True)
class Query:
    """A question, perhaps on images and after others.

    Attributes:
        text: the question. "<image>" marks the place of an image; where neither it nor `history`
            has any, the images come before the first question, each on a line of its own.
        images: of any sizes and modes, in the order of their "<image>".
        history: earlier questions with the model's answers, the oldest first.
    """

    text: str
    images: tuple[Image.Image, ...] = ()
    history: tuple[tuple[str, str], ...] = ()

    def turns(self) -> list[tuple[str, str]]:
        """(question, answer) of all turns with "<image>" in its places; the last answer is "".

        Raises:
            ValueError: not as many "<image>" as images.
        """
        questions = [question for question, _ in self.history] + [self.text]
        said = [answer.replace(IMAGE, "") for _, answer in self.history] + [""]
        return list(zip(place_images(questions, len(self.images)), said, strict=True))


class Answerer(Protocol):
    """A LLaVA, ready to be asked. It answers with the likeliest words, never at random.

    Attributes:
        name: of the model, as LLaVA's answer files have it.
        settings: JSON types; all of the model that decides its answers.
    """

    name: str
    settings: Mapping[str, Any]

    def prompt(self, query: Query) -> str:
        """The whole text that the model reads, with "<image>" for each image.

        Raises:
            ValueError: not as many "<image>" as images.
        """
        ...

    def answers(self, queries: Sequence[Query], max_new_tokens: int = 128) -> list[str]:
        """Answer all queries at once; each answer is what it would be by itself.

        Raises:
            ValueError: not as many "<image>" as images in one of them.
        """
        ...

    def stream(self, query: Query, listen: Callable[[str], None], max_new_tokens: int = 512) -> str:
        """Answer one query word by word: `listen` gets each piece of the text as it is made.

        Raises:
            ValueError: as `answers`.
        """
        ...

    def image_tokens(self, height: int, width: int) -> int | None:
        """How many tokens an image of this size in pixels becomes; None where nothing tells."""
        ...


def place_images(questions: Sequence[str], count: int) -> list[str]:
    """The questions of a conversation with an "<image>" for each of `count` images.

    Raises:
        ValueError: they have some, but not as many.
    """
    placed = list(questions)
    marks = sum(text.count(IMAGE) for text in placed)
    if not marks:
        placed[0] = f"{IMAGE}\n" * count + placed[0]
    elif not count:
        raise ValueError(f"the text has {IMAGE} {marks} time(s), but no image was given")
    elif marks != count:
        raise ValueError(
            f"the text has {IMAGE} {marks} time(s), but {count} image(s) were given: give one "
            f"image for each {IMAGE}, or leave {IMAGE} out to have the images first"
        )
    return placed


def load_answerer(
    path: str | Path,
    *,
    base: str | Path | None = None,
    conv_mode: str | None = None,
    device: "str | torch.device" = "cpu",
    dtype: "torch.dtype | None" = None,
) -> Answerer:
    """Load a LLaVA, whichever of the two forms it has.

    Args:
        path: a directory that LLaVA's training wrote (a whole model, a LoRA, a projector alone), or
            one with a transformers LLaVA and its processor.
        base: the language model that a LoRA or a projector was trained on.
        conv_mode: LLaVA's name of the conversation's form; None for the one that fits the model.
        device: where it runs, as a whole.
        dtype: None for float32 on the CPU, and elsewhere bfloat16 for a model that was saved in
            it, else float16.

    Raises:
        ValueError: no such directory, no LLaVA, a missing base, an unknown conversation.
        ImportError: LLaVA's own code (for its own form) or transformers is missing.
    """
    folder = Path(path)
    config = read_llava_config(folder)
    require("transformers", extra="llava")
    if "vision_config" in config:
        if base is not None:
            raise ValueError(f"{folder} is a whole model: leave the base model out")
        from radio_llava.answering_hf import load_transformers

        return load_transformers(folder, conv_mode=conv_mode, device=device, dtype=dtype)
    from radio_llava.answering_original import load_original

    return load_original(folder, base=base, conv_mode=conv_mode, device=device, dtype=dtype)


def read_llava_config(folder: Path) -> dict[str, Any]:
    """The config.json of a LLaVA.

    Raises:
        ValueError: there is none, it is another model's, or the model brings code of its own.
    """
    file = folder / CONFIG_FILE
    if not file.is_file():
        raise ValueError(
            f"{folder} is no directory with a LLaVA model: it has no {CONFIG_FILE} (give the "
            "--output_dir of its training, or download a released model to a directory)"
        )
    config = read_json(file)
    kind = config.get("model_type")
    if kind not in ORIGINAL_TYPES:
        raise ValueError(
            f"{file}: model_type {kind!r} is no LLaVA; known: {', '.join(ORIGINAL_TYPES)}"
        )
    if "auto_map" in config:
        raise ValueError(f"{file}: the model brings code of its own (auto_map), which is never run")
    return config


def model_name(folder: Path) -> str:
    """The name of a model in answer files, by LLaVA's rule: its directory's."""
    parts = folder.resolve().parts
    if parts[-1].startswith("checkpoint-"):
        return "_".join(parts[-2:])
    return parts[-1]


def chosen_dtype(
    device: "torch.device", wanted: "torch.dtype | None", config: Mapping[str, Any]
) -> "torch.dtype":
    """The dtype to run in; see `load_answerer`."""
    import torch

    if wanted is not None:
        return wanted
    if device.type == "cpu":
        return torch.float32
    saved = str(config.get("dtype", config.get("torch_dtype")))
    return torch.bfloat16 if saved.endswith("bfloat16") else torch.float16


def weights_fingerprint(model: "nn.Module") -> str:
    """A digest of the weights that tells trained models apart at once.

    Names, types and shapes of all tensors, and values of each at even distances.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        flat = tensor.detach().reshape(-1)
        some = flat[:: max(1, len(flat) // _SAMPLES)]
        digest.update(some.double().cpu().numpy().tobytes())
    return digest.hexdigest()


def word_streamer(tokenizer: Any, listen: Callable[[str], None]) -> Any:
    """transformers' streamer of words for `generate`, handing them to `listen`."""
    transformers = require("transformers", extra="llava")

    class Words(transformers.TextStreamer):  # type: ignore[name-defined,misc]
        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            if text:
                listen(text)

    return Words(tokenizer, skip_prompt=True, skip_special_tokens=True)
