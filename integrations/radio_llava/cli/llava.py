"""Commands that train a LLaVA, bring it into other forms, and count what it will see."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from PIL import Image

from radio_core.cli import UsageError
from radio_core.data.folder import ImageFiles
from radio_core.data.images import SAFE_FORMATS, printable

Dtype = Literal["float32", "float16", "bfloat16"]


def train(argv: Sequence[str]) -> int:
    """Train LLaVA on a RADIO vision tower, with all flags of LLaVA's own train.py."""
    from radio_llava.train import main

    return main(argv)


@dataclass(frozen=True, kw_only=True)
class ConvertOptions:
    """Write a LLaVA with a RADIO tower in the form of transformers; its logits stay the same."""

    source: Annotated[Path, tyro.conf.Positional]
    """Directory that LLaVA's training wrote; a LoRA is merged first ("radio llava merge")."""
    destination: Annotated[Path, tyro.conf.Positional]
    """New or empty directory for the model and its processor."""
    dtype: Dtype | None = None
    """Of the new weights; that of the old ones by default."""

    def __post_init__(self) -> None:
        _check_empty(self.destination)


def convert(options: ConvertOptions) -> int:
    """Write a LLaVA in the form of transformers; its logits stay the same."""
    import torch

    from radio_llava.hf import convert_llava

    dtype: torch.dtype | None = None if options.dtype is None else getattr(torch, options.dtype)
    convert_llava(options.source, options.destination, dtype)
    print(f"wrote {options.destination}: radio_llava.hf.load_llava loads model and processor")
    return 0


@dataclass(frozen=True, kw_only=True)
class MergeOptions:
    """Write a complete LLaVA of a LoRA (or a projector alone) and its language model."""

    source: Annotated[Path, tyro.conf.Positional]
    """Directory that LLaVA's training wrote."""
    destination: Annotated[Path, tyro.conf.Positional]
    """New or empty directory. Give it a name with "llava" in it: LLaVA's own code goes by that."""
    base: str
    """Language model that it was trained on: a directory or a hub id."""
    dtype: Dtype = "float16"
    """Of the weights; LLaVA's own script has float16."""

    def __post_init__(self) -> None:
        _check_empty(self.destination)


def merge(options: MergeOptions) -> int:
    """Merge a LoRA, or a projector alone, into the language model that it was trained on."""
    import torch

    from radio_llava.answering import load_original

    dtype: torch.dtype = getattr(torch, options.dtype)
    device = torch.device("cpu")
    model, tokenizer, _ = load_original(options.source, options.base, device=device, dtype=dtype)
    model.save_pretrained(str(options.destination))
    tokenizer.save_pretrained(str(options.destination))
    print(f"wrote {options.destination}: a complete LLaVA, as LLaVA's own code loads it")
    return 0


def _check_empty(directory: Path) -> None:
    if directory.exists() and not (directory.is_dir() and not any(directory.iterdir())):
        raise UsageError(f"{directory} is not empty: name a new directory")


@dataclass(frozen=True, kw_only=True)
class TokensOptions:
    """Count the image tokens that the images of a folder become, in their own aspect ratio."""

    folder: Annotated[Path, tyro.conf.Positional]
    """Folder with images, searched through with all folders in it."""
    resolution: int = 432
    """Long edge that the images are resized to, in pixels."""
    patch: int = 16
    """Side in pixels of one token."""
    json: Path | None = None
    """Also write count, mean, min, max and the skipped files into this file."""

    def __post_init__(self) -> None:
        if min(self.resolution, self.patch) < 1:
            raise ValueError("resolution and patch must be at least 1 pixel")


def tokens(options: TokensOptions) -> int:
    """Count the image tokens that the images of a folder become."""
    from radio_llava.images import token_count  # needs torch

    files = ImageFiles(options.folder)
    counts = []
    for index in range(len(files)):
        try:
            with Image.open(files.path(index), formats=SAFE_FORMATS) as image:
                width, height = image.size
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            files.skipped[str(files.path(index))] = f"not an image: {error}"
            continue
        counts.append(token_count(height, width, options.resolution, options.patch))
    for path, reason in files.skipped.items():
        print(f"{printable(path)}: {reason}", file=sys.stderr)
    mean = sum(counts) / len(counts)
    print(f"{mean:.1f} tokens an image on average ({min(counts)} to {max(counts)})")
    print(f"{len(counts)} images, long edge {options.resolution}, patch {options.patch}")
    if options.json is not None:
        values = {"count": len(counts), "mean": mean, "min": min(counts), "max": max(counts)}
        result = values | {"skipped": files.skipped}
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 0
