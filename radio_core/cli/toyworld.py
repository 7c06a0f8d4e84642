"""`radio toyworld`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from radio_core.data.toyworld.export import export
from radio_core.progress import rich_progress


@dataclass(frozen=True, kw_only=True)
class ToyworldOptions:
    """Write toy-world scenes as ImageFolder, ADE20K, COCO and VQA files.

    The same options give the same bytes. Validation scenes are held out from all training.
    """

    out: Path
    """New or empty folder; each part becomes a folder in it."""
    train: int = 2000
    """Number of training scenes."""
    val: int = 500
    """Number of validation scenes."""
    seed: int = 0
    """Number of the world, not negative."""
    parts: tuple[Literal["classification", "segmentation", "coco", "vqa"], ...] = (
        "classification",
        "segmentation",
        "coco",
        "vqa",
    )
    """Which formats to write."""
    overwrite: bool = False
    """Replace the same parts of an earlier export in the folder."""


def export_toyworld(options: ToyworldOptions) -> int:
    """Write procedural scenes with their ground truth in the field's standard formats."""
    with rich_progress() as progress:
        export(
            options.out,
            options.train,
            options.val,
            seed=options.seed,
            parts=options.parts,
            overwrite=options.overwrite,
            progress=progress,
        )
    print(f"{options.train} + {options.val} scenes in {options.out}: {', '.join(options.parts)}")
    return 0
