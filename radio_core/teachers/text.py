"""Text towers: the text half of a CLIP-like teacher, for zero-shot use of a student's adaptor."""

import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from radio_core.extras import require
from radio_core.registry import UnknownName
from radio_core.teachers.files import one_line, quiet
from radio_core.teachers.load import toy_teacher_folder
from radio_core.teachers.open_clip import Tokenizer, create_open_clip, split_model

SIGLIP2_TOKENS = 64
"""Length to which SigLIP2 pads and cuts its texts: it was trained so, without a mask."""

_FORMS = ("toy-clip", "open_clip:MODEL/PRETRAINED", "siglip2:HUB_ID_OR_DIRECTORY")
_TEXTS_AT_ONCE = 256
_TEXT_MODELS = {"siglip": "SiglipTextModel", "siglip2": "Siglip2TextModel"}
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "spiece.model")
_WITHOUT_PUNCTUATION = str.maketrans("_", " ", string.punctuation.replace("_", ""))


class TextTower(nn.Module):
    """Base class: a frozen text encoder, always in eval mode. A new one implements `embed`."""

    def freeze(self) -> "TextTower":
        """Stop gradients to every weight and enter eval mode."""
        self.requires_grad_(False)
        return self.eval()

    def train(self, mode: bool = True) -> "TextTower":
        """Stay in eval mode whatever `mode` says."""
        super().train(False)
        return self

    def embed(self, texts: list[str]) -> Tensor:
        """Embeddings [T, D], not normalised, of a few texts."""
        raise NotImplementedError

    @torch.no_grad()
    def encode_text(self, texts: Sequence[str], normalize: bool = False) -> Tensor:
        """Encode texts.

        Args:
            texts: T texts, any number.
            normalize: scale each vector to length 1.

        Returns:
            [T, D] float32 on the tower's device, comparable by cosine with the image summary of
            the same teacher.

        Raises:
            ValueError: no texts, or one string in place of a sequence of them.
        """
        if isinstance(texts, str) or not texts:
            raise ValueError(f"texts must be a list of one or more strings, not {texts!r}")
        starts = range(0, len(texts), _TEXTS_AT_ONCE)
        parts = [self.embed(list(texts[i : i + _TEXTS_AT_ONCE])).float() for i in starts]
        embeddings = torch.cat(parts)
        return F.normalize(embeddings, dim=-1) if normalize else embeddings


class OpenClipText(TextTower):
    """The text tower of an open_clip model."""

    def __init__(self, model: Any, tokenizer: Tokenizer) -> None:
        super().__init__()
        del model.visual
        self.model = model
        self.tokenizer = tokenizer
        self.freeze()

    def embed(self, texts: list[str]) -> Tensor:
        """Projected embeddings [T, D] of the end token (or as the model pools)."""
        tokens = self.tokenizer(texts).to(next(self.parameters()).device)
        embeddings: Tensor = self.model.encode_text(tokens)
        return embeddings


class Siglip2Text(TextTower):
    """The text tower of a SigLIP2 model."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self.freeze()

    def embed(self, texts: list[str]) -> Tensor:
        """Pooled output [T, D]."""
        tokens = self.tokenizer(
            [canonical_text(text) for text in texts],
            padding="max_length",
            max_length=SIGLIP2_TOKENS,
            truncation=True,
            return_tensors="pt",
        )
        pooled: Tensor = self.model(
            input_ids=tokens["input_ids"].to(next(self.parameters()).device)
        ).pooler_output
        return pooled


def canonical_text(text: str) -> str:
    """Text as SigLIP2 was trained on: underscores are spaces, no ASCII punctuation, lower case,
    single spaces, none at the ends."""
    return " ".join(text.translate(_WITHOUT_PUNCTUATION).lower().split())


def load_text_tower(source: str, path: str | Path | None = None) -> TextTower:
    """Load a frozen text tower, in float32, on the CPU.

    Nothing in a file is executed: open_clip's checkpoints are read with `weights_only=True`,
    transformers' as safetensors and without remote code.

    Args:
        source: "toy-clip", "open_clip:MODEL/PRETRAINED" (or "open_clip:hf-hub:ORG/REPO",
            "open_clip:local-dir:PATH"), or "siglip2:HUB_ID_OR_DIRECTORY".
        path: weights to take instead of a download. For open_clip a checkpoint file of MODEL or
            a directory with open_clip_config.json; for siglip2 a transformers directory with
            model and tokenizer.

    Raises:
        UnknownName: another form of source, or a name that open_clip does not know; the known
            ones are listed.
        FileNotFoundError: there is nothing at `path`.
        ValueError: what was found or downloaded is not such a model, or cannot be downloaded.
        ImportError: a library is missing; the message names the extra.
    """
    if path is not None and not Path(path).exists():
        raise FileNotFoundError(f"no file or directory {path} (weights of text tower {source})")
    kind, _, rest = source.partition(":")
    if source != "toy-clip" and (kind not in ("open_clip", "siglip2") or not rest):
        raise UnknownName(f"unknown text tower {source!r}; known: {', '.join(_FORMS)}")
    try:
        if kind == "siglip2":
            tower: TextTower = _load_siglip2(path or rest)
        else:
            model, pretrained = split_model(rest or f"local-dir:{toy_teacher_folder('toy-clip')}")
            if path is not None and Path(path).is_dir():
                model, pretrained = f"local-dir:{path}", ""
            elif path is not None:
                pretrained = str(path)
            tower = OpenClipText(*create_open_clip(model, pretrained))
        if not all(bool(parameter.isfinite().all()) for parameter in tower.parameters()):
            raise ValueError("its weights hold nan or infinity")
    except (ImportError, UnknownName):
        raise
    except Exception as error:  # the libraries raise nearly everything on broken files
        where = "" if path is None else f" from {path}"
        instead = (
            ". Without network, download it elsewhere and name the file or directory: "
            "load_model(..., text_towers={ADAPTOR: PATH})"
        )
        raise ValueError(
            f"cannot load the text tower {source}{where}: {one_line(error, 400)}"
            f"{instead if path is None else ''}"
        ) from error
    return tower


def _load_siglip2(place: str | Path) -> TextTower:
    """From a directory without any network, or from the hub."""
    transformers = require("transformers", extra="hf")
    folder = Path(place)
    options = {"trust_remote_code": False, "local_files_only": folder.exists()}
    if folder.exists() and not (folder / "config.json").is_file():
        raise ValueError("it is not a transformers directory: it has no config.json")
    if folder.exists() and not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        raise ValueError(f"the tokenizer is missing: none of {', '.join(_TOKENIZER_FILES)}")
    config = transformers.AutoConfig.from_pretrained(place, **options)
    if config.model_type not in _TEXT_MODELS:
        raise ValueError(f"it is a {config.model_type!r} model, not {' or '.join(_TEXT_MODELS)}")
    text_model = getattr(transformers, _TEXT_MODELS[config.model_type])
    with quiet(transformers.utils.logging, bars=not folder.exists()):
        model, report = text_model.from_pretrained(
            place, use_safetensors=True, output_loading_info=True, **options
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(place, **options)
    if report["missing_keys"]:
        raise ValueError(
            f"its text weights are missing: {', '.join(sorted(report['missing_keys']))}"
        )
    return Siglip2Text(model.float(), tokenizer)
