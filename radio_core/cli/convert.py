"""Write a model in this toolkit's layout, or in the one that plain transformers loads."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import tyro

from radio_core.cli import parse
from radio_core.zoo.convert import Conversion, Layout, StoredDtype, convert


@dataclass(frozen=True, kw_only=True)
class ConvertOptions:
    """Write a model in another layout, and compare what both compute on one image."""

    source: Annotated[str, tyro.conf.Positional]
    """A model's name, a file, a directory or a hub id."""
    destination: Annotated[Path, tyro.conf.Positional]
    """New or empty directory."""
    to: Layout
    """This toolkit's layout, or that of transformers' own `radio` model; both keep adaptors."""
    dtype: StoredDtype = "float32"
    """The weights are stored in it."""
    overwrite: bool = False
    """Write into a directory that has files, and replace those with the same names."""
    json: Path | None = None
    """Also write what was found to this file as JSON."""


def main(argv: Sequence[str]) -> int:
    """Run `radio convert SRC DST --to LAYOUT`; returns the exit code."""
    options = parse(ConvertOptions, argv, prog="radio convert")
    done = convert(
        options.source,
        options.destination,
        options.to,
        options.dtype,
        overwrite=options.overwrite,
    )
    print(report(done))
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(asdict(done), indent=2, default=str)
        options.json.write_text(text + "\n", encoding="utf-8")
    return 0


def report(done: Conversion) -> str:
    """What was written and how far its outputs are from the source's, in a few lines."""
    lines = [
        f"wrote {done.directory} with adaptors: {', '.join(done.adaptors) or 'none'}",
        f"largest difference of outputs, loaded again: {done.difference:.1e} of the largest value",
    ]
    if done.transformers_difference is not None:
        lines.append(f"the same, loaded by transformers: {done.transformers_difference:.1e}")
    return "\n".join(lines)
