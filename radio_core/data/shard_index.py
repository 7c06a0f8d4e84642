"""Where the images of a tar archive lie, so that each can be read without the others.

Only headers are read, nothing is unpacked and nothing in the archive is executed.
"""

import os
import tarfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from radio_core.data.storage import PackedNames, Storage

_KIND = "shards"
_BLOCK = 512
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


@dataclass(frozen=True)
class ShardIndex:
    """The images of one shard, in the order in which it holds them.

    Attributes:
        names: of the archive's members.
        offsets: int64 [images], where each begins in the file.
        sizes: int64 [images], bytes of each.
        fault: what is wrong with the archive, as `UnreadableImage.reason`; "" if nothing.
    """

    names: PackedNames
    offsets: np.ndarray
    sizes: np.ndarray
    fault: str

    def __len__(self) -> int:
        return len(self.names)


def index_shard(path: Path, endings: Collection[str]) -> ShardIndex:
    """List the images of a tar archive.

    Of a damaged archive the images before the damage are listed; `fault` says so.

    Args:
        path: the file.
        endings: of the names of images, lower case.

    Raises:
        OSError: if the file cannot be read at all.
    """
    found: list[tuple[str, int, int]] = []
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        fault = _compression(file.read(6))
        if not fault:
            file.seek(0)
            fault = _read_headers(file, size, tuple(endings), found)
    if not found and not fault:
        fault = "not an image: the shard holds no file that ends in " + " ".join(sorted(endings))
    return ShardIndex(
        PackedNames.of(name for name, _, _ in found),
        np.array([offset for _, offset, _ in found], dtype=np.int64),
        np.array([size for _, _, size in found], dtype=np.int64),
        fault,
    )


def kept_index(
    path: Path, identity: object, endings: Collection[str], storage: Storage
) -> ShardIndex:
    """`index_shard`, made once for each state of a shard.

    Args:
        path: the file.
        identity: what JSON can hold, other for another shard or another state of it.
        endings: of the names of images, lower case.
        storage: where the index is kept.

    Raises:
        OSError: if the file cannot be read.
    """
    key = {"shard": identity, "endings": sorted(endings)}
    arrays = None if storage.refresh else storage.load(_KIND, key)
    if arrays is not None:
        names = PackedNames.from_arrays(arrays, "names")
        return ShardIndex(names, arrays["offsets"], arrays["sizes"], str(arrays["fault"]))
    index = index_shard(path, endings)
    arrays = {"offsets": index.offsets, "sizes": index.sizes, "fault": np.array(index.fault)}
    storage.save(_KIND, key, arrays | index.names.arrays("names"))
    return index


def _compression(start: bytes) -> str:
    for magic, name in _COMPRESSED.items():
        if start.startswith(magic):
            return f"not an image: a {name} archive, unpack it to a plain .tar first"
    return ""


def _read_headers(
    file: IO[bytes], size: int, endings: tuple[str, ...], found: list[tuple[str, int, int]]
) -> str:
    """Append (name, offset, bytes) of every image; returns the fault, or ""."""
    last = -1
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            while (member := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined]  # they would pile up
                if member.offset <= last or member.offset_data + member.size > size:
                    return _damage(len(found))
                last = member.offset
                plain = member.isreg() and not member.issparse()
                if plain and member.name.lower().endswith(endings):
                    found.append((member.name, member.offset_data, member.size))
            file.seek(archive.offset)
            whole = file.read(_BLOCK) == bytes(_BLOCK)  # tarfile stops without a word at damage
    except Exception:  # a hostile header can make tarfile raise nearly anything
        whole = False
    return "" if whole else _damage(len(found))


def _damage(images: int) -> str:
    if images == 0:
        return "broken: no readable tar archive"
    return f"truncated: damaged or cut off, the {images} images before that are used"
