"""Write the toy world as files in the field's standard formats."""

import io
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from radio_core.data.toyworld.export_parts import (
    ClassificationWriter,
    CocoWriter,
    PartWriter,
    SegmentationWriter,
    VqaWriter,
)
from radio_core.data.toyworld.scenes import render_scene

HELD_OUT_START = 1_000_000_000
"""First index of the held-out scenes; teachers and students train on indices below it."""

MANIFEST = "toyworld.json"

_WRITERS: dict[str, Callable[[Path, int], PartWriter]] = {
    "classification": ClassificationWriter,
    "segmentation": SegmentationWriter,
    "coco": CocoWriter,
    "vqa": VqaWriter,
}

PARTS: tuple[str, ...] = tuple(_WRITERS)
"""Parts that can be exported; each is a folder of that name, laid out as its writer says."""


def export(
    out: str | os.PathLike[str],
    train: int,
    val: int,
    *,
    seed: int = 0,
    parts: Sequence[str] = PARTS,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Render scenes and write them below `out`, one folder a part; see the writers for layouts.

    The training split is scenes 0 .. train - 1 of world `seed`, the validation split is scenes
    HELD_OUT_START .. HELD_OUT_START + val - 1, which no trainer draws, so validation is always
    held out. The same arguments give the same bytes. `out`/toyworld.json tells what was written.

    Args:
        out: new or empty folder.
        train: number of training scenes.
        val: number of validation scenes.
        seed: the world.
        parts: which of `PARTS` to write.
        overwrite: replace `parts` of an earlier export; nothing else in the folder is touched.
        progress: called with (scenes done, scenes in all) after each scene.

    Raises:
        ValueError: for unknown parts, sizes below 1, or a folder that is not empty.
        OSError: if a file cannot be written.
    """
    root = Path(out)
    _check(train, val, seed, parts)
    _clear(root, parts, overwrite)
    wanted = [part for part in PARTS if part in parts]
    manifest: dict[str, Any] = {"seed": seed, "train": train, "val": val, "parts": wanted}
    _write_manifest(root, {**manifest, "complete": False})
    writers = [_WRITERS[part](root / part, seed) for part in wanted]
    scenes = [("train", index) for index in range(train)]
    scenes += [("val", HELD_OUT_START + index) for index in range(val)]
    for done, (split, index) in enumerate(scenes, start=1):
        scene = render_scene(seed, index)
        png = io.BytesIO()
        Image.fromarray(scene.image).save(png, "PNG", compress_level=1)
        for writer in writers:
            writer.add(split, index, scene, png.getvalue())
        if progress is not None:
            progress(done, len(scenes))
    for writer in writers:
        writer.close()
    _write_manifest(root, {**manifest, "complete": True})


def _check(train: int, val: int, seed: int, parts: Sequence[str]) -> None:
    unknown = [part for part in parts if part not in _WRITERS]
    if unknown or not parts:
        what = f"unknown export parts {', '.join(unknown)}" if unknown else "no parts to export"
        raise ValueError(f"{what}; known parts: {', '.join(PARTS)}")
    for name, count in (("train", train), ("val", val)):
        if not 1 <= count <= HELD_OUT_START:
            raise ValueError(f"{name} must be between 1 and {HELD_OUT_START} scenes, not {count}")
    if seed < 0:
        raise ValueError(f"seed must not be negative, but is {seed}")


def _clear(root: Path, parts: Sequence[str], overwrite: bool) -> None:
    """Make `root` ready; only folders of an earlier export are ever removed."""
    if root.exists() and not root.is_dir():
        raise ValueError(f"{root} is a file; name a folder to export into")
    root.mkdir(parents=True, exist_ok=True)
    if not any(root.iterdir()):
        return
    if not (root / MANIFEST).is_file():
        raise ValueError(f"{root} is not empty and not an export of the toy world; name another")
    if not overwrite:
        raise ValueError(f"{root} holds an export already; name another folder or use --overwrite")
    for part in parts:
        shutil.rmtree(root / part, ignore_errors=True)


def _write_manifest(root: Path, content: dict[str, Any]) -> None:
    (root / MANIFEST).write_text(json.dumps(content) + "\n", encoding="utf-8")
