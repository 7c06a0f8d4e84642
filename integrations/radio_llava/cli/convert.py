"""Write a LLaVA that LLaVA's own code trained as a model of transformers' own classes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from radio_core.cli import UsageError, parse


@dataclass(frozen=True, kw_only=True)
class ConvertOptions:
    """Convert a LLaVA with a RADIO tower for transformers; its logits stay the same."""

    source: Annotated[Path, tyro.conf.Positional]
    """Directory that LLaVA's training wrote; a LoRA is merged first ("radio llava merge")."""
    destination: Annotated[Path, tyro.conf.Positional]
    """New or empty directory for the model and its processor."""
    dtype: Literal["float32", "float16", "bfloat16"] | None = None
    """Of the new weights; that of the old ones by default."""


def main(argv: Sequence[str]) -> int:
    """Run `radio llava convert SRC DST`; returns the exit code.

    Raises:
        FileNotFoundError: the source is not complete.
        ImportError: transformers is missing, or too old.
        ValueError: the destination is not empty, or the source cannot be converted.
    """
    options = parse(ConvertOptions, argv, prog="radio llava convert")
    check_empty(options.destination)
    import torch

    from radio_llava.hf import convert_llava

    dtype: torch.dtype | None = None if options.dtype is None else getattr(torch, options.dtype)
    convert_llava(options.source, options.destination, dtype)
    print(f"wrote {options.destination}: radio_llava.hf.load_llava loads model and processor")
    return 0


def check_empty(directory: Path) -> None:
    """Refuse to write into what has something in it.

    Raises:
        UsageError: it is a file, or a directory that is not empty.
    """
    if directory.exists() and not (directory.is_dir() and not any(directory.iterdir())):
        raise UsageError(f"{directory} is not empty: name a new directory")
