"""The cache folder: kept indexes, and files fetched from http(s) addresses."""

import base64
import contextlib
import hashlib
import json
import os
import threading
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from email.message import Message
from http.client import HTTPException
from pathlib import Path
from typing import IO, Any

import numpy as np
from filelock import FileLock

from radio_core.progress import Progress, silent

GIGABYTE = 1000**3
ATTEMPTS = 5
"""Times that a file is asked for before it counts as missing."""

_FORMAT = 1  # counted up when older index files would be misread
_FIRST_WAIT, _LONGEST_WAIT = 1.0, 60.0  # seconds; doubled after every attempt
_TIMEOUT = 60.0  # seconds without a byte
_COOL_DOWN = 300.0  # seconds before a file that could not be fetched is asked for again
_PIECE = 1 << 20
_PARTIAL = ".partial-"
_MAY_PASS = {408, 425, 429}  # of the errors 4xx; all 5xx may pass


def cache_folder() -> Path:
    """$RADIO_CACHE, or "radio" in the user's cache folder."""
    own = os.environ.get("RADIO_CACHE")
    if own:
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "radio"


def _keep_quiet(message: str) -> None:
    """A listener that can be pickled."""


@dataclass(frozen=True)
class Storage:
    """The place for what sources work out or fetch once; `folder` is made when it is needed.

    `limit` is the bytes that fetched shards may take; `refresh` builds indexes anew; `tell` gets
    one line about what is used or cannot be kept.
    """

    folder: Path = field(default_factory=cache_folder)
    limit: int = 50 * GIGABYTE
    refresh: bool = False
    tell: Callable[[str], None] = _keep_quiet
    progress: Progress = silent

    def _index_file(self, kind: str, key: object) -> Path:
        return self.folder / kind / f"{digest(key)}.npz"

    def load(self, kind: str, key: object) -> dict[str, np.ndarray] | None:
        """The arrays of a kept index; None with `refresh`, or if there is none or it is damaged."""
        if self.refresh:
            return None
        try:
            with np.load(self._index_file(kind, key), allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None
        return arrays if arrays.pop("format", None) == _FORMAT else None

    def save(self, kind: str, key: object, arrays: Mapping[str, np.ndarray]) -> None:
        """Keep the arrays of an index, at once or not at all; a full disk is told, not raised."""
        path = self._index_file(kind, key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with written_at_once(path) as temporary, temporary.open("wb") as file:
                np.savez(file, format=np.array(_FORMAT), **arrays)  # type: ignore[arg-type]
        except OSError as error:
            self.tell(f"cannot keep an index in {path.parent}: {error.strerror or error}")


@contextlib.contextmanager
def written_at_once(path: Path) -> Iterator[Path]:
    """A temporary file beside `path` that takes its name at the end; removed on an error."""
    writer = f"{os.getpid()}-{threading.get_ident()}"
    temporary = path.with_name(f"{_PARTIAL}{writer}{path.suffix}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def digest(key: object) -> str:
    """32 hexadecimal digits for a value that JSON can hold."""
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]


def sizes_digest(paths: Iterable[Path]) -> str:
    """A hash of the files' sizes; one that cannot be reached counts as such."""
    sizes = hashlib.sha256()
    for path in paths:
        try:
            sizes.update(b"%d," % os.stat(path).st_size)
        except OSError:
            sizes.update(b"-,")
    return sizes.hexdigest()


class PackedNames:
    """Many names in two arrays: a list of a million strings would be copied into every worker.

    `text` holds the bytes of all names, `ends` [names] where each of them ends.
    """

    def __init__(self, text: np.ndarray, ends: np.ndarray) -> None:
        self.text, self.ends = text, ends

    @classmethod
    def of(cls, names: Iterable[str]) -> "PackedNames":
        """Pack names; undecodable bytes of file names survive."""
        text, ends = bytearray(), []
        for name in names:
            text += name.encode("utf-8", "surrogateescape")
            ends.append(len(text))
        return cls(np.frombuffer(bytes(text), np.uint8), np.array(ends, dtype=np.int64))

    def __len__(self) -> int:
        return len(self.ends)

    def __iter__(self) -> Iterator[str]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> str:
        place = range(len(self))[index]
        start = int(self.ends[place - 1]) if place else 0
        part: bytes = self.text[start : int(self.ends[place])].tobytes()
        return part.decode("utf-8", "surrogateescape")

    def arrays(self, prefix: str) -> dict[str, np.ndarray]:
        """What `from_arrays` takes, for an index file."""
        return {f"{prefix}.text": self.text, f"{prefix}.ends": self.ends}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Any], prefix: str) -> "PackedNames":
        """The inverse of `arrays`."""
        return cls(arrays[f"{prefix}.text"], arrays[f"{prefix}.ends"])

    def digest(self) -> str:
        """A hash of all names in their order."""
        return hashlib.sha256(self.ends.tobytes() + self.text.tobytes()).hexdigest()[:32]


class DownloadError(Exception):
    """A file that could not be fetched; the message says why, without its address."""


class Downloads:
    """Fetched files in a folder; those used longest ago make room for new ones.

    Several processes may share the folder: a file is fetched by one of them, the others wait. A
    file appears under its name only when it is complete and has the length, and where the server
    tells it the checksum, that the server announced. The libraries at hand (huggingface_hub,
    torch.hub, webdataset's cache) fetch once and keep all: none retries, checks what a server
    announces, and stays below a limit.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit
        self._failed: dict[str, tuple[float, str]] = {}

    def path(self, url: str) -> Path:
        """Where a file is or would be."""
        return self.folder / f"{digest(url)}.tar"

    def fetch(self, url: str) -> Path:
        """The file of an address, fetched if missing; a failure is remembered for a while."""
        path = self.path(url)
        if _touch(path):
            return path
        failed_at, reason = self._failed.get(url, (-_COOL_DOWN, ""))
        if time.monotonic() - failed_at < _COOL_DOWN:
            raise DownloadError(reason)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(path.with_suffix(".lock")):
                if not _touch(path):  # another process may have fetched it meanwhile
                    self._fetch(url, path)
        except (DownloadError, OSError) as error:
            reason = str(error)
            self._failed[url] = (time.monotonic(), reason)
            raise DownloadError(reason) from error
        return path

    def _fetch(self, url: str, path: Path) -> None:
        partial = path.with_name(_PARTIAL + path.name)
        wait, reason = _FIRST_WAIT, ""
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(wait)
                wait = min(2 * wait, _LONGEST_WAIT)
            try:
                with urllib.request.urlopen(url, timeout=_TIMEOUT) as answer:
                    self._make_room(int(answer.headers.get("Content-Length") or 0))
                    _write_checked(answer, answer.headers, partial)
                partial.replace(path)
                _touch(path)
                return
            except urllib.error.HTTPError as error:
                reason = f"HTTP {error.code} {error.reason}"
                if error.code < 500 and error.code not in _MAY_PASS:
                    raise DownloadError(reason) from error
                asked = error.headers.get("Retry-After", "")
                wait = max(wait, min(float(asked) if asked.isdigit() else 0.0, _LONGEST_WAIT))
            except (OSError, HTTPException, ValueError) as error:
                reason = str(error) or type(error).__name__
            finally:
                partial.unlink(missing_ok=True)
        raise DownloadError(f"{reason} ({ATTEMPTS} attempts)")

    def _make_room(self, needed: int) -> None:
        """Remove the files used longest ago until `needed` bytes fit."""
        files = []
        for path in self.folder.glob("*.tar"):
            with contextlib.suppress(FileNotFoundError):  # another process makes room too
                status = path.stat()
                if not path.name.startswith(_PARTIAL):
                    files.append((status.st_mtime_ns, status.st_size, path))
        taken = sum(size for _, size, _ in files) + needed
        for _, size, path in sorted(files):
            if taken <= self.limit:
                break
            path.unlink(missing_ok=True)
            taken -= size


def content_length(url: str) -> int | None:
    """The bytes of a file as its server announces them, or None where it does not."""
    request = urllib.request.Request(url, method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT) as answer:
            length = answer.headers.get("Content-Length")
            return int(length) if length else None
    except urllib.error.HTTPError as error:
        if error.code in (404, 410):
            raise DownloadError(f"HTTP {error.code} {error.reason}") from error
        return None  # some servers refuse HEAD
    except (OSError, HTTPException, ValueError) as error:
        raise DownloadError(str(error) or type(error).__name__) from error


def fetch_text(url: str, limit: int = 64 << 20) -> str | None:
    """A small text file, or None where the server has none or does not answer."""
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT) as answer:
            content: bytes = answer.read(limit)
            return content.decode()
    except (OSError, HTTPException, ValueError):
        return None


def _write_checked(answer: IO[bytes], headers: Message, path: Path) -> None:
    """Write a response to a file. Raises ValueError if it is not what the headers announce."""
    announced = _checksums(headers)
    hashes = {name: hashlib.new(name, usedforsecurity=False) for name in announced}
    length = 0
    with path.open("wb") as file:
        while piece := answer.read(_PIECE):
            file.write(piece)
            length += len(piece)
            for running in hashes.values():
                running.update(piece)
        file.flush()
        os.fsync(file.fileno())
    expected = headers.get("Content-Length")
    if expected is not None and length != int(expected):
        raise ValueError(f"{length} of {expected} bytes arrived")
    for name, running in hashes.items():
        if running.digest() != announced[name]:
            raise ValueError(f"the {name} checksum is not the one that the server announced")


def _checksums(headers: Message) -> dict[str, bytes]:
    """Hash name -> checksum, from the headers with which servers announce them."""
    fields = [f"md5={value}" for value in headers.get_all("Content-MD5") or []]
    fields += [f"sha256={value}" for value in headers.get_all("x-amz-checksum-sha256") or []]
    for header in ("x-goog-hash", "Repr-Digest", "Digest"):
        fields += [part for value in headers.get_all(header) or [] for part in value.split(",")]
    found: dict[str, bytes] = {}
    for announced in fields:
        name, _, value = announced.strip().partition("=")
        name = name.lower().replace("-", "")
        if name in ("md5", "sha256"):
            with contextlib.suppress(ValueError):
                found[name] = base64.b64decode(value.strip(":"), validate=True)
    return found


def _touch(path: Path) -> bool:
    """Mark the file as just used; False if there is none."""
    now = time.time_ns()  # finer than the file system's own clock
    try:
        os.utime(path, ns=(now, now))
    except OSError:
        return False
    return True
