"""WebDataset shards: images inside tar archives on disk or behind http(s), read by index."""

import glob
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from radio_core.data.downloads import DownloadError, Downloads, content_length, fetch_text
from radio_core.data.folder import IMAGE_EXTENSIONS
from radio_core.data.images import UnreadableImage, decode_rgb, printable
from radio_core.data.order import WINDOW_BLOCKS, remember
from radio_core.data.shard_index import ShardIndex, kept_index
from radio_core.data.storage import GIGABYTE, PackedNames, Storage, digest
from radio_core.extras import require

_KIND = "shard-sets"
_OPEN = 64  # shards whose index and file a process holds open
SIZES_FILE = "sizes.json"
"""Beside the shards: {shard's file name: number of samples}, as the field writes it."""


class ShardImages:
    """Every image in a set of tar shards, in their order: a `BlockSource` and `RemoteSource`.

    Images are the members whose names end as image files do; captions and other members are left
    alone. Only headers are read to count them, once: the index is kept. With a `sizes.json`
    beside the shards nothing is counted, and a shard is indexed when it is first read.

    A damaged shard gives the images before the damage and is listed in `faults`. A shard that is
    missing, or cannot be fetched when nothing says how many images it holds, is refused. When one
    disappears later, or cannot be fetched, its images are unreadable: `load` says so.

    Args:
        pattern: a path or http(s) address with {000..099}, {a,b} or, for paths, * ? [ ]; behind
            "#" perhaps the ending of the members to take, e.g. "#jpg".
        storage: where indexes and fetched shards are kept.

    Attributes:
        pattern: as given.
        shards: their paths or addresses.
        counts: images in each, int64 [shards].
        is_remote: whether they are fetched.
        faults: (shard, reason) of those that are damaged or hold no image.

    Raises:
        ValueError: an empty pattern, missing shards, or no image in any of them.
    """

    def __init__(self, pattern: str, storage: Storage) -> None:
        self.pattern = pattern
        where, _, ending = pattern.partition("#")
        self._endings = frozenset(
            {f".{ending.lower().lstrip('.')}"} if ending else IMAGE_EXTENSIONS
        )
        self.shards = PackedNames.of(_expand(where))
        self.is_remote = is_address(where)
        self._downloads = Downloads(storage.folder / "downloads", storage.limit)
        self._storage = Storage(storage.folder, storage.limit)  # what workers need of it
        self.counts, self.faults = self._count(storage)
        if not self.counts.sum():
            raise ValueError(
                f"shards:{printable(pattern)}: no images in {len(self.shards)} shards"
                + "".join(f"; {printable(shard)}: {reason}" for shard, reason in self.faults[:3])
            )
        self._ends = np.cumsum(self.counts)
        self._indexes: dict[int, ShardIndex] = {}
        self._files: dict[int, BinaryIO] = {}
        self._process = os.getpid()
        self._fetching: threading.Thread | None = None

    def __len__(self) -> int:
        """Number of images, the unreadable ones included."""
        return int(self._ends[-1])

    def block_lengths(self) -> np.ndarray:
        """Images in each shard that has any, int64 [blocks]."""
        return self.counts[self.counts > 0]

    def load(self, index: int) -> Image.Image:
        """The image at `index` as 8-bit RGB.

        Raises:
            UnreadableImage: named "shard.tar/member.jpg", or after the shard where that is what
                cannot be read.
        """
        number, place = self._locate(index)
        shard = self.shards[number]
        try:
            file, members = self._open(number)
            if place >= len(members):
                raise UnreadableImage(
                    shard, f"missing: {len(members)} images are there, not {self.counts[number]}"
                )
            file.seek(int(members.offsets[place]))
            content = file.read(int(members.sizes[place]))
        except (OSError, DownloadError) as error:
            text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise UnreadableImage(shard, f"missing: {text}") from error
        return decode_rgb(content, f"{shard}/{members.names[place]}")

    def prefetch(self, index: int) -> None:
        """Begin to fetch the shard of an image, see `RemoteSource`; one at a time."""
        if not self.is_remote or (self._fetching is not None and self._fetching.is_alive()):
            return
        url = self.shards[self._locate(index)[0]]
        if not self._downloads.path(url).exists():
            self._fetching = threading.Thread(target=self._try_to_fetch, args=(url,), daemon=True)
            self._fetching.start()

    def identity(self) -> str:
        """Changes when shards are added, removed, or hold another number of images."""
        content = [self.shards.digest(), self.counts.tolist(), sorted(self._endings)]
        return f"shards:{digest(content)}"

    def __getstate__(self) -> dict[str, object]:
        """For another process: open files and threads stay here."""
        return {**self.__dict__, "_files": {}, "_indexes": {}, "_fetching": None}

    def _locate(self, index: int) -> tuple[int, int]:
        """(number of the shard, place in it) of an image."""
        number = int(np.searchsorted(self._ends, index, "right"))
        return number, index - int(self._ends[number] - self.counts[number])

    def _open(self, number: int) -> tuple[BinaryIO, ShardIndex]:
        if self._process != os.getpid():  # files inherited by a fork share their position
            self._files, self._fetching, self._process = {}, None, os.getpid()
        if number not in self._files or number not in self._indexes:
            self._forget(number)
            try:
                self._open_anew(number)
            except FileNotFoundError:
                if not self.is_remote:
                    raise
                self._forget(number)  # another process has just made room: fetch it again
                self._open_anew(number)
        return self._files[number], self._indexes[number]

    def _open_anew(self, number: int) -> None:
        path = self._path(number)
        remember(self._indexes, number, lambda: self._index(number, path), _OPEN)
        remember(self._files, number, lambda: path.open("rb"), _OPEN)

    def _forget(self, number: int) -> None:
        self._indexes.pop(number, None)
        self._files.pop(number, None)

    def _path(self, number: int) -> Path:
        shard = self.shards[number]
        return self._downloads.fetch(shard) if self.is_remote else Path(shard)

    def _index(self, number: int, path: Path, storage: Storage | None = None) -> ShardIndex:
        status = path.stat()
        shard = self.shards[number]
        if self.is_remote:
            identity = [shard, status.st_size]
        else:
            identity = [os.path.abspath(printable(shard)), status.st_size, status.st_mtime_ns]
        return kept_index(path, identity, self._endings, storage or self._storage)

    def _try_to_fetch(self, url: str) -> None:
        try:
            self._downloads.fetch(url)
        except DownloadError:
            return  # whoever reads the shard meets the same error

    def _count(self, storage: Storage) -> tuple[np.ndarray, list[tuple[str, str]]]:
        """Images in each shard, and (shard, reason) of the faulty ones."""
        stamps = self._stamps()
        key = [self.shards.digest(), sorted(self._endings)]
        kept = None if storage.refresh else storage.load(_KIND, key)
        if kept is not None and np.array_equal(kept["stamps"], stamps):
            faults = json.loads(str(kept["faults"]))
            storage.tell(
                f"shards:{self.pattern}: {int(kept['counts'].sum())} images in {len(stamps)} "
                "shards by the kept index (--refresh-index counts them again)"
            )
            return kept["counts"], [(shard, reason) for shard, reason in faults]
        if self.is_remote:
            self._check_room(storage.limit)
        stated = self._stated_counts()
        counts, faults = [], []
        for number, shard in enumerate(self.shards):
            storage.progress("counting the images in shards", number, len(stamps))
            count = stated.get(shard)
            if count is None:
                index = self._index_now(number, storage)
                count = len(index)
                faults += [(shard, index.fault)] if index.fault else []
            counts.append(count)
        arrays = {"stamps": stamps, "counts": np.array(counts, dtype=np.int64)}
        storage.save(_KIND, key, arrays | {"faults": np.array(json.dumps(faults))})
        return arrays["counts"], faults

    def _index_now(self, number: int, storage: Storage) -> ShardIndex:
        try:
            return self._index(number, self._path(number), storage)
        except (OSError, DownloadError) as error:
            raise ValueError(
                f"cannot read the shard {printable(self.shards[number])}: {error}; restore it, "
                "leave it out of the pattern, or state its number of images in a sizes.json "
                "beside it"
            ) from error

    def _stamps(self) -> np.ndarray:
        """int64 [shards, 2], size and time of each local shard; zeros for remote ones."""
        stamps = np.zeros((len(self.shards), 2), dtype=np.int64)
        if self.is_remote:
            return stamps
        missing = []
        for number, shard in enumerate(self.shards):
            try:
                status = os.stat(shard)
                stamps[number] = status.st_size, status.st_mtime_ns
            except OSError:
                missing.append(printable(shard))
        if missing:
            some = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
            raise ValueError(
                f"shards:{printable(self.pattern)}: {len(missing)} of {len(self.shards)} shards "
                f"are missing: {some}; restore them or correct the pattern"
            )
        return stamps

    def _check_room(self, limit: int) -> None:
        """Refuse a limit with which every shard would be fetched again and again."""
        first = self.shards[0]
        try:
            size = content_length(first)
        except DownloadError as error:
            raise ValueError(
                f"cannot fetch the shard {first}: {error}; correct the pattern"
            ) from error
        window = min(len(self.shards), WINDOW_BLOCKS + 2)  # one leaves, one is fetched ahead
        if size is not None and window * size > limit:
            raise ValueError(
                f"samples are drawn from {window} shards at a time, which at {size / GIGABYTE:.3g} "
                f"GB each need more than the {limit / GIGABYTE:.3g} GB that fetched shards may "
                f"take: set --data-cache-gb to at least {window * size / GIGABYTE:.3g}"
            )

    def _stated_counts(self) -> dict[str, int]:
        """Shard -> number of images, as files called sizes.json state them."""
        stated: dict[str, int] = {}
        places: dict[str, dict[str, int]] = {}
        for shard in self.shards:
            place, _, name = shard.rpartition("/")
            if place not in places:
                places[place] = _read_sizes(place, self.is_remote)
            if name in places[place]:
                stated[shard] = places[place][name]
        return stated


def is_address(text: str) -> bool:
    """Whether shards are behind http(s) instead of on disk."""
    return text.lower().startswith(("http://", "https://"))


def local_files(pattern: str, kind: str) -> list[str]:
    """Files that a pattern with braces and * ? [ ] names, each once, sorted within a wildcard.

    Args:
        pattern: as a shell takes it; "~" is the home folder.
        kind: what error messages call the source, e.g. "parquet".

    Raises:
        ValueError: an empty pattern, or wildcards that match nothing.
    """
    names: list[str] = []
    for part in _braces(os.path.expanduser(pattern), kind):
        if os.path.lexists(part) or not glob.has_magic(part):
            names.append(part)
        else:
            names += sorted(glob.glob(part, recursive=True))
    if not names:
        raise ValueError(f"{kind}:{printable(pattern)} matches no file; check the pattern")
    return list(dict.fromkeys(names))


def _expand(pattern: str) -> list[str]:
    if is_address(pattern):
        return list(dict.fromkeys(_braces(pattern, "shards")))
    return local_files(pattern, "shards")


def _braces(pattern: str, kind: str) -> Iterator[str]:
    if not pattern.strip():
        raise ValueError(f"{kind}: needs a pattern, e.g. {kind}:/data/part-{{000..099}}.*")
    if "{" not in pattern:
        return iter((pattern,))
    try:
        expanded: Iterator[str] = require("braceexpand", extra="train").braceexpand(pattern)
    except ValueError as error:
        raise ValueError(f"{kind}:{printable(pattern)}: {error}") from error
    return expanded


def _read_sizes(place: str, is_remote: bool) -> dict[str, int]:
    """The numbers in one sizes.json; whatever else it holds is left alone."""
    text: str | None
    if is_remote:
        text = fetch_text(f"{place}/{SIZES_FILE}")
    else:
        path = Path(place or ".", SIZES_FILE)
        text = path.read_text(encoding="utf-8") if path.is_file() else None
    try:
        sizes = json.loads(text) if text else {}
    except ValueError:
        return {}
    items = sizes.items() if isinstance(sizes, dict) else ()
    return {name: count for name, count in items if type(count) is int and count >= 0}
