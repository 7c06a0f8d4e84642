"""The text side of an adaptor: its teacher's own tokenizer and text tower, on token ids."""

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from radio_core.extras import require
from radio_core.teachers.text import (
    SIGLIP2_TOKENS,
    OpenClipText,
    Siglip2Text,
    canonical_text,
    load_text_tower,
)

OPEN_CLIP_SCALE = 1 / 0.07
"""The factor of the logits with which open_clip starts a training."""


class Tokenizer(Protocol):
    """What open_clip's `get_tokenizer` returns."""

    context_length: int

    def __call__(self, texts: str | list[str], context_length: int | None = None) -> Tensor:
        """Token ids [T, context_length] int64 of T texts, cut or padded to that length."""
        ...


class SiglipTokenizer:
    """transformers' tokenizer of a SigLIP2, called like open_clip's."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.context_length = SIGLIP2_TOKENS

    def __call__(self, texts: str | Sequence[str], context_length: int | None = None) -> Tensor:
        """Token ids [T, context_length] int64 of T texts, made canonical as SigLIP2 wants them."""
        texts = [texts] if isinstance(texts, str) else texts
        ids: Tensor = self.tokenizer(
            [canonical_text(text) for text in texts],
            padding="max_length",
            max_length=context_length or self.context_length,
            truncation=True,
            return_tensors="pt",
        )["input_ids"]
        return ids


class TextEncoder(nn.Module):
    """A frozen text tower on token ids, always in eval mode.

    `scale` and `bias` of the logits are the teacher's: a factor, not its logarithm; no bias: CLIP.
    """

    def __init__(
        self,
        tower: OpenClipText | Siglip2Text,
        tokenizer: Tokenizer,
        vocab_size: int | None,
        scale: float,
        bias: float | None = None,
    ) -> None:
        super().__init__()
        self.tower = tower
        self.tokenizer = tokenizer
        self.vocab_size = vocab_size
        self.scale = scale
        self.bias = bias
        self.context_length = tokenizer.context_length

    def forward(self, tokens: Tensor) -> Tensor:
        """Token ids [T, L] int64 to embeddings [T, D], not normalised."""
        if isinstance(self.tower, OpenClipText):
            embeddings: Tensor = self.tower.model.encode_text(tokens)
        else:
            embeddings = self.tower.model(input_ids=tokens).pooler_output
        return embeddings


def load_text_encoder(source: str, path: str | Path | None = None) -> TextEncoder:
    """Load a text tower with its tokenizer and the scale and bias of its logits.

    Arguments and errors are those of `radio_core.teachers.text.load_text_tower`.
    """
    tower = load_text_tower(source, path)
    if isinstance(tower, Siglip2Text):
        scale, bias = _siglip_logits(path or source.partition(":")[2])
        tokenizer = SiglipTokenizer(tower.tokenizer)
        return TextEncoder(tower, tokenizer, tower.model.config.vocab_size, scale, bias)
    assert isinstance(tower, OpenClipText)
    model = tower.model
    bias = getattr(model, "logit_bias", None)
    return TextEncoder(
        tower,
        tower.tokenizer,  # type: ignore[arg-type]  # open_clip's and ours have the attribute
        getattr(model, "vocab_size", None),
        float(model.logit_scale.exp()),
        None if bias is None else float(bias),
    )


def _siglip_logits(place: str | Path) -> tuple[float, float | None]:
    """Scale and bias of the logits, which are not part of a SigLIP2's text tower.

    `place` is a directory, or a hub id whose files are in the cache.
    """
    from safetensors import safe_open

    folder = Path(place)
    if not folder.exists():
        hub = require("huggingface_hub", extra="hf")
        options = {"local_files_only": True, "allow_patterns": ["*.safetensors"]}
        folder = Path(hub.snapshot_download(str(place), **options))
    found: dict[str, float] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in {"logit_scale", "logit_bias"} & set(file.keys()):
                value: Tensor = file.get_tensor(name).float()
                if value.numel() != 1 or not bool(torch.isfinite(value).all()):
                    raise ValueError(f"{path}: {name} must be one finite number")
                found[name] = float(value)
    if "logit_scale" in found:
        return math.exp(found["logit_scale"]), found.get("logit_bias")
    warnings.warn(
        f"{place} holds no logit_scale: open_clip's initial one is used. Probabilities depend on "
        "it, the order of the classes does not",
        stacklevel=4,
    )
    return OPEN_CLIP_SCALE, None
