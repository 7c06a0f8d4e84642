"""One file of a cache: so many views with everything that is stored of them, as safetensors."""

import contextlib
import json
import os
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from radio_core.distill.cache.codec import StoredError
from radio_core.distill.cache.layout import Tensors

Skipped = tuple[str, str]
"""(path, reason) of an unreadable image file."""

_ABANDONED_SECONDS = 3600
FIX = "delete it and run the same command again, which computes what is missing"


class ShardNotes(NamedTuple):
    """What a shard says of itself beside its tensors.

    Attributes:
        errors: teacher -> how exact its stored features are.
        skipped: unreadable image files met on the way.
    """

    errors: dict[str, StoredError]
    skipped: list[Skipped]


def temporary_beside(path: Path) -> Path:
    """A name of its own for a file that will become `path`."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")


def remove_abandoned(folder: Path) -> None:
    """Remove the temporary files of processes that were killed."""
    for path in folder.glob(".*.tmp"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > _ABANDONED_SECONDS:
                path.unlink()


def write_shard(path: Path, key: str, tensors: Mapping[str, Tensor], notes: ShardNotes) -> None:
    """Write a shard, which appears under its name only when it is complete on disk.

    Raises:
        OSError: it cannot be written; nothing is left behind.
    """
    about = {
        "key": key,
        "errors": {name: [error.rms, error.worst] for name, error in notes.errors.items()},
        "skipped": notes.skipped,
    }
    temporary = temporary_beside(path)
    try:
        save_file(dict(tensors), temporary, metadata={"about": json.dumps(about)})
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        raise OSError(
            f"cannot write {path}: {error}; the shards before it are complete: make room and run "
            "the same command again"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


class Shard:
    """A shard that is open for reading: rows are copied out of the mapped file, and only they.

    Args:
        path: the file.
        key: of the cache that it must belong to.
        layout: the tensors of one view.
        views: how many views it must hold.

    Raises:
        FileNotFoundError: it is missing.
        ValueError: it is damaged, or not what its place wants; the message names file and fix.
    """

    def __init__(self, path: Path, key: str, layout: Tensors, views: int) -> None:
        self._path = path
        if not path.is_file():
            raise FileNotFoundError(
                f"the teacher cache has no {path}: fill it with radio cache-teachers and the same "
                "options; what is there stays"
            )
        try:
            file: Any = safe_open(path, "pt")
            self._about: dict[str, Any] = json.loads((file.metadata() or {})["about"])
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, ValueError, KeyError) as error:
            raise ValueError(f"{path} is damaged or incomplete ({error}): {FIX}") from error
        found = {name: tuple(part.get_shape()) for name, part in slices.items()}
        wanted = {name: (views, *shape) for name, (_, shape) in layout.items()}
        if self._about.get("key") != key or found != wanted:
            raise ValueError(f"{path} belongs to another cache: {FIX}")
        self._slices, self._dtypes = slices, {name: dtype for name, (dtype, _) in layout.items()}

    @property
    def notes(self) -> ShardNotes:
        """What it says of itself."""
        errors = {name: StoredError(*pair) for name, pair in self._about["errors"].items()}
        skipped = [(str(path), str(reason)) for path, reason in self._about["skipped"]]
        return ShardNotes(errors, skipped)

    def row(self, name: str, row: int) -> Tensor:
        """What is stored of one view under a name of the layout."""
        try:
            tensor: Tensor = self._slices[name][row]
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{self._path} is damaged ({error}): {FIX}") from error
        return tensor


def stack_rows(shards: Sequence[tuple[Shard, int]], name: str, layout: Tensors) -> Tensor:
    """Rows of several shards as one batch [B, ...]."""
    dtype, shape = layout[name]
    batch = torch.empty((len(shards), *shape), dtype=dtype)
    for place, (shard, row) in enumerate(shards):
        batch[place] = shard.row(name, row)
    return batch
