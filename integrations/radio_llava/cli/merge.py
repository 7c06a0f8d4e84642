"""Merge a LoRA, or a projector alone, into the language model that it was trained on."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from radio_core.cli import parse
from radio_llava.cli.convert import check_empty


@dataclass(frozen=True, kw_only=True)
class MergeOptions:
    """Write a complete LLaVA of a LoRA (or a projector alone) and its language model."""

    source: Annotated[Path, tyro.conf.Positional]
    """Directory that LLaVA's training wrote."""
    destination: Annotated[Path, tyro.conf.Positional]
    """New or empty directory. Give it a name with "llava" in it: LLaVA's own code goes by that."""
    base: str
    """Language model that it was trained on: a directory or a hub id."""
    dtype: Literal["float32", "float16", "bfloat16"] = "float16"
    """Of the weights; LLaVA's own script has float16."""


def main(argv: Sequence[str]) -> int:
    """Run `radio llava merge SRC DST --base MODEL`; returns the exit code.

    Raises:
        ImportError: LLaVA is missing, or transformers is too old.
        ValueError: the destination is not empty, or the source is no part of a LLaVA.
    """
    options = parse(MergeOptions, argv, prog="radio llava merge")
    check_empty(options.destination)
    import torch

    from radio_llava.answering_original import load_original

    dtype: torch.dtype = getattr(torch, options.dtype)
    loaded = load_original(options.source, base=options.base, dtype=dtype)
    loaded.model.save_pretrained(str(options.destination))
    loaded.tokenizer.save_pretrained(str(options.destination))
    print(f"wrote {options.destination}: a complete LLaVA, as LLaVA's own code loads it")
    return 0
