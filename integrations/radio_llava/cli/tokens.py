"""Count the image tokens that the images of a folder become."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from PIL import Image

from radio_core.cli import parse
from radio_core.data.folder import ImageFiles
from radio_core.data.images import SAFE_FORMATS, printable


@dataclass(frozen=True, kw_only=True)
class TokensOptions:
    """How many image tokens the images of a folder become, in their own aspect ratio."""

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


def main(argv: Sequence[str]) -> int:
    """Run `radio llava tokens DIR`; returns the exit code.

    Raises:
        ValueError: the folder has no readable image.
    """
    from radio_llava.images import token_count  # needs torch

    options = parse(TokensOptions, argv, prog="radio llava tokens")
    files = ImageFiles(options.folder)
    counts = []
    for index in range(len(files)):
        try:
            with Image.open(files.path(index), formats=SAFE_FORMATS) as image:
                width, height = image.size
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            files.skipped.add(files.path(index), f"not an image: {error}")
            continue
        counts.append(token_count(height, width, options.resolution, options.patch))
    for path, reason in files.skipped:
        print(f"{printable(path)}: {reason}", file=sys.stderr)
    mean = sum(counts) / len(counts)
    print(f"{mean:.1f} tokens an image on average ({min(counts)} to {max(counts)})")
    print(f"{len(counts)} images, long edge {options.resolution}, patch {options.patch}")
    if options.json is not None:
        values = {"count": len(counts), "mean": mean, "min": min(counts), "max": max(counts)}
        result = values | {"skipped": dict(files.skipped)}
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 0
