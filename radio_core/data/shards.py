"""WebDataset shards: images inside tar archives on disk or behind http(s).

Only headers are read to find the images; nothing is unpacked and nothing in an archive is
executed. The webdataset package reads shards from front to end only, while a resumed run and an
evaluation need any image by its index. Its companion wids does read by index, but gives up at a
damaged shard and keeps every shard that it fetched.
"""

import glob
import json
import os
import tarfile
import threading
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import Image

from radio_core.data.folder import IMAGE_EXTENSIONS
from radio_core.data.images import UnreadableImage, decode_rgb, printable
from radio_core.data.order import WINDOW_BLOCKS, remember
from radio_core.data.storage import (
    GIGABYTE,
    DownloadError,
    Downloads,
    PackedNames,
    Storage,
    content_length,
    digest,
    fetch_text,
    sizes_digest,
)
from radio_core.extras import require

SIZES_FILE = "sizes.json"
"""Beside the shards: {shard's file name: number of samples}, as the field writes it."""

_OPEN = 64  # shards whose index and file a process holds open
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


class ShardSample(NamedTuple):
    """What a shard holds of one sample.

    Attributes:
        name: the path within the archive up to the first dot of the file's name.
        files: ending in lower case ("jpg", "cls", "input.png") -> content.
    """

    name: str
    files: dict[str, bytes]


def index_shard(path: Path, endings: Collection[str]) -> ShardIndex:
    """List the members of a tar archive whose names end in one of `endings` (lower case).

    Of a damaged archive those before the damage are listed; `fault` says so.
    """
    found: list[tuple[str, int, int]] = []
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        start = file.read(6)
        packed = [name for magic, name in _COMPRESSED.items() if start.startswith(magic)]
        whole, last = False, -1
        file.seek(0)
        try:
            with tarfile.open(fileobj=file, mode="r:") as archive:
                while (member := archive.next()) is not None:
                    archive.members.clear()  # type: ignore[attr-defined]  # they would pile up
                    if member.offset <= last or member.offset_data + member.size > size:
                        raise tarfile.ReadError
                    last = member.offset
                    plain = member.isreg() and not member.issparse()
                    if plain and member.name.lower().endswith(tuple(endings)):
                        found.append((member.name, member.offset_data, member.size))
                file.seek(archive.offset)
                # tarfile stops without a word at damage; every whole archive ends in empty blocks
                whole = file.read(tarfile.BLOCKSIZE) == bytes(tarfile.BLOCKSIZE)
        except Exception:  # a hostile header can make tarfile raise nearly anything
            pass
    if packed:
        fault = f"not an image: a {packed[0]} archive, unpack it to a plain .tar first"
    elif not whole and not found:
        fault = "broken: no readable tar archive"
    elif not whole:
        fault = f"truncated: damaged or cut off, the {len(found)} images before that are used"
    else:
        fault = ""
    names, offsets, sizes = zip(*found, strict=True) if found else ((), (), ())
    return ShardIndex(
        PackedNames.of(names),
        np.array(offsets, dtype=np.int64),
        np.array(sizes, dtype=np.int64),
        fault,
    )


def read_samples(path: Path, endings: Collection[str]) -> Iterator[ShardSample]:
    """The samples of a shard from front to end: members that follow each other with one name.

    Only files of the given endings are read, e.g. {".jpg", ".png", ".cls"}.
    """
    index = index_shard(path, endings)
    name, files = "", dict[str, bytes]()
    with path.open("rb") as file:
        members = zip(index.names, index.offsets.tolist(), index.sizes.tolist(), strict=True)
        for member, offset, size in members:
            folder, slash, base = member.rpartition("/")
            stem, _, ending = base.partition(".")
            if folder + slash + stem != name and files:
                yield ShardSample(name, files)
                files = {}
            name = folder + slash + stem
            file.seek(offset)
            files[ending.lower()] = file.read(size)
    if files:
        yield ShardSample(name, files)
    if index.fault:
        raise UnreadableImage(path, index.fault)


class ShardImages:
    """Every image in a set of tar shards, in their order: a `BlockSource` and `RemoteSource`.

    Images are the members whose names end as image files do; captions and other members are left
    alone. Only headers are read to count them, once: the index is kept. With a `sizes.json`
    beside the shards nothing is counted, and a shard is indexed when it is first read.

    A damaged shard gives the images before the damage and is listed in `faults`. A shard that is
    missing, or cannot be fetched when nothing says how many images it holds, is refused. When one
    disappears later, or cannot be fetched, its images are unreadable.

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
    """

    def __init__(self, pattern: str, storage: Storage) -> None:
        self.pattern = pattern
        where, _, ending = pattern.partition("#")
        self._endings = frozenset(
            {f".{ending.lower().lstrip('.')}"} if ending else IMAGE_EXTENSIONS
        )
        self.is_remote = where.lower().startswith(("http://", "https://"))
        self.shards = PackedNames.of(
            dict.fromkeys(_braces(where, "shards"))
            if self.is_remote
            else local_files(where, "shards")
        )
        self._downloads = Downloads(storage.folder / "downloads", storage.limit)
        self._storage = Storage(storage.folder, storage.limit)  # what workers need of it
        self.counts, self.faults = self._count(storage)
        if not self.counts.sum():
            raise ValueError(
                f"shards:{printable(pattern)}: no images in {len(self.shards)} shards"
                + "".join(f"; {printable(shard)}: {reason}" for shard, reason in self.faults[:3])
            )
        self._ends = np.cumsum(self.counts)
        self._opened: dict[int, tuple[BinaryIO, ShardIndex]] = {}
        self._process = os.getpid()
        self._fetching: threading.Thread | None = None

    def __len__(self) -> int:
        """Number of images, the unreadable ones included."""
        return int(self._ends[-1])

    def block_lengths(self) -> np.ndarray:
        """Images in each shard that has any, int64 [blocks]."""
        return self.counts[self.counts > 0]

    def read(self, index: int) -> Image.Image:
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

        def fetch() -> None:
            try:
                self._downloads.fetch(url)
            except DownloadError:
                return  # whoever reads the shard meets the same error

        if not self._downloads.path(url).exists():
            self._fetching = threading.Thread(target=fetch, daemon=True)
            self._fetching.start()

    def layout(self) -> str:
        """Changes when shards are added, removed, or hold another number of images."""
        content = [self.shards.digest(), self.counts.tolist(), sorted(self._endings)]
        return f"shards:{digest(content)}"

    def identity(self) -> str:
        """As `layout`, and it changes with the size of a shard on disk."""
        if self.is_remote:
            return self.layout()
        return f"{self.layout()}:{sizes_digest(map(Path, self.shards))}"

    def __getstate__(self) -> dict[str, object]:
        """For another process: open files and threads stay here."""
        return {**self.__dict__, "_opened": {}, "_fetching": None}

    def _locate(self, index: int) -> tuple[int, int]:
        """(number of the shard, place in it) of an image."""
        number = int(np.searchsorted(self._ends, index, "right"))
        return number, index - int(self._ends[number] - self.counts[number])

    def _open(self, number: int) -> tuple[BinaryIO, ShardIndex]:
        if self._process != os.getpid():  # files inherited by a fork share their position
            self._opened, self._fetching, self._process = {}, None, os.getpid()

        def open_shard() -> tuple[BinaryIO, ShardIndex]:
            path = self._path(number)
            index = self._index(number, path, self._storage)
            return path.open("rb"), index

        try:
            return remember(self._opened, number, open_shard, _OPEN)
        except FileNotFoundError:
            if not self.is_remote:
                raise
            # Another process has just made room: fetch it again.
            return remember(self._opened, number, open_shard, _OPEN)

    def _path(self, number: int) -> Path:
        shard = self.shards[number]
        return self._downloads.fetch(shard) if self.is_remote else Path(shard)

    def _index(self, number: int, path: Path, storage: Storage) -> ShardIndex:
        """`index_shard`, made once for each state of a shard."""
        status = path.stat()
        if self.is_remote:
            state = [self.shards[number], status.st_size]
        else:
            place = os.path.abspath(printable(self.shards[number]))
            state = [place, status.st_size, status.st_mtime_ns]
        key = {"shard": state, "endings": sorted(self._endings)}
        kept = storage.load("shards", key)
        if kept is not None:
            names = PackedNames.from_arrays(kept, "names")
            return ShardIndex(names, kept["offsets"], kept["sizes"], str(kept["fault"]))
        index = index_shard(path, self._endings)
        arrays = {"offsets": index.offsets, "sizes": index.sizes, "fault": np.array(index.fault)}
        storage.save("shards", key, arrays | index.names.arrays("names"))
        return index

    def _count(self, storage: Storage) -> tuple[np.ndarray, list[tuple[str, str]]]:
        """Images in each shard, int64 [shards], and (shard, reason) of the faulty ones."""
        stamps = np.zeros((len(self.shards), 2), np.int64) if self.is_remote else self._stamps()
        key = [self.shards.digest(), sorted(self._endings)]
        kept = storage.load("shard-sets", key)
        if kept is not None and np.array_equal(kept["stamps"], stamps):
            storage.tell(
                f"shards:{self.pattern}: {int(kept['counts'].sum())} images in {len(stamps)} "
                "shards by the kept index (--refresh-index counts them again)"
            )
            return kept["counts"], [(shard, why) for shard, why in json.loads(str(kept["faults"]))]
        if self.is_remote:
            self._check_room(storage.limit)
        stated = self._stated_counts()
        counts: list[int] = []
        faults: list[tuple[str, str]] = []
        for number, shard in enumerate(self.shards):
            storage.progress("counting the images in shards", number, len(stamps))
            if shard in stated:
                counts.append(stated[shard])
                continue
            try:
                index = self._index(number, self._path(number), storage)
            except (OSError, DownloadError) as error:
                raise ValueError(
                    f"cannot read the shard {printable(shard)}: {error}; restore it, leave it out "
                    "of the pattern, or state its number of images in a sizes.json beside it"
                ) from error
            counts.append(len(index))
            endings = " ".join(sorted(self._endings))
            nothing = f"not an image: the shard holds no file that ends in {endings}"
            if index.fault or not len(index):
                faults.append((shard, index.fault or nothing))
        arrays = {"stamps": stamps, "counts": np.array(counts, dtype=np.int64)}
        storage.save("shard-sets", key, arrays | {"faults": np.array(json.dumps(faults))})
        return arrays["counts"], faults

    def _stamps(self) -> np.ndarray:
        """int64 [shards, 2], size and time of each shard on disk."""
        stamps = np.zeros((len(self.shards), 2), dtype=np.int64)
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
        for place in {shard.rpartition("/")[0] for shard in self.shards}:
            path = Path(place or ".", SIZES_FILE)
            if self.is_remote:
                text = fetch_text(f"{place}/{SIZES_FILE}")
            else:
                text = path.read_text(encoding="utf-8") if path.is_file() else None
            try:
                sizes = json.loads(text) if text else {}
            except ValueError:
                continue
            for name, count in sizes.items() if isinstance(sizes, dict) else ():
                if type(count) is int and count >= 0:
                    stated[f"{place}/{name}" if place else name] = count
        return stated


def local_files(pattern: str, kind: str) -> list[str]:
    """Files that a shell's pattern (~ * ? [ ] { }) names, each once, sorted within a wildcard.

    `kind` is what errors call the source. Raises ValueError for a pattern that matches nothing.
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


def _braces(pattern: str, kind: str) -> list[str]:
    if not pattern.strip():
        raise ValueError(f"{kind}: needs a pattern, e.g. {kind}:/data/part-{{000..099}}.*")
    if "{" not in pattern:
        return [pattern]
    try:
        return list(require("braceexpand", extra="train").braceexpand(pattern))
    except ValueError as error:
        raise ValueError(f"{kind}:{printable(pattern)}: {error}") from error
