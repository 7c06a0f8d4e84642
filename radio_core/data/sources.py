"""The images of a run by name: where they come from, and how several sources are mixed."""

import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from radio_core.data.folder import ImageFiles
from radio_core.data.folder_index import indexed_scan
from radio_core.data.images import ImageSource
from radio_core.data.mixture import Mixture
from radio_core.data.shards import ShardImages
from radio_core.data.storage import Storage, digest
from radio_core.data.tables import TableImages, open_hugging_face, open_parquet
from radio_core.data.toyworld import ToyWorldImages

TOYWORLD = "toyworld"
SCENES = 6000
"""Scenes of the toy world unless a number is given."""


def open_source(
    data: Sequence[str],
    weights: Sequence[float] = (),
    *,
    scenes: int = SCENES,
    storage: Storage | None = None,
) -> ImageSource:
    """Open the images of a run.

    Args:
        data: one or more of
            "toyworld" (`scenes` scenes of it);
            a folder, searched at any depth;
            "shards:PATTERN[#ending]", tar archives on disk or behind http(s) (`ShardImages`);
            "hf:PATH_OR_ID[@split][#column]", a Hugging Face dataset (`open_hugging_face`);
            "parquet:PATTERN[#column]", parquet files (`open_parquet`).
        weights: how often a sample comes from which of them; by default in proportion to their
            numbers of images.
        scenes: see above.
        storage: where indexes and fetched shards are kept; None for the user's cache folder.

    Raises:
        ValueError: a source that is missing, damaged or without images, or weights that do not
            fit; the message names it and the fix.
        ImportError: a source needs an extra that is not installed.
    """
    if not data:
        raise ValueError(f"no training data: name a folder, or {TOYWORLD!r}")
    if weights and len(weights) != len(data):
        raise ValueError(
            f"{len(weights)} data weights for {len(data)} sources ({', '.join(data)}): give one "
            "for each"
        )
    storage = storage or Storage()
    sources = [_open(name, scenes, storage) for name in data]
    return sources[0] if len(sources) == 1 else Mixture(sources, weights or None)


def faults(source: ImageSource) -> list[tuple[str, str]]:
    """(path, reason) of what is known to be unreadable before anything is read."""
    if isinstance(source, Mixture):
        return [fault for part in source.sources for fault in faults(part)]
    if isinstance(source, ImageFiles):
        return list(source.skipped)
    return list(source.faults) if isinstance(source, ShardImages) else []


def data_layout(source: ImageSource) -> str:
    """A string that changes when other images are counted, or in another order.

    Two runs over the same layout with the same seed meet the same samples. The content of files
    is not looked at.
    """
    if isinstance(source, Mixture):
        parts = [data_layout(part) for part in source.sources]
        return f"mixture:{digest([parts, source.shares])}"
    if isinstance(source, ImageFiles):
        return f"folder:{source.names.digest()}"
    if isinstance(source, ShardImages | TableImages):
        return source.identity()
    return f"{TOYWORLD}:{len(source)}"


def data_identity(source: ImageSource) -> str:
    """As `data_layout`, and it changes with the size of any file: part of a cache's key."""
    if isinstance(source, Mixture):
        parts = [data_identity(part) for part in source.sources]
        return f"mixture:{digest([parts, source.shares])}"
    if isinstance(source, ShardImages) and not source.is_remote:
        return f"{source.identity()}:{_sizes(map(Path, source.shards))}"
    if not isinstance(source, ImageFiles):
        return data_layout(source)
    sizes = _sizes(source.root / name for name in source.names)
    return f"{source.root.resolve()}:{source.names.digest()}:{sizes}"


def _sizes(paths: Iterable[Path]) -> str:
    """A hash of the files' sizes; those that cannot be reached are skipped when they are read."""
    sizes = hashlib.sha256()
    for path in paths:
        try:
            sizes.update(b"%d," % os.stat(path).st_size)
        except OSError:
            sizes.update(b"-,")
    return sizes.hexdigest()


def _open(name: str, scenes: int, storage: Storage) -> ImageSource:
    kind, _, rest = name.partition(":")
    if name == TOYWORLD:
        return ToyWorldImages(scenes)
    if kind == "shards":
        return ShardImages(rest, storage)
    if kind == "hf":
        return open_hugging_face(rest)
    if kind == "parquet":
        return open_parquet(rest, storage)
    root = Path(name).expanduser()
    return ImageFiles(root, scan=indexed_scan(root, storage))
