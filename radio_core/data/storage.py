"""Where image sources keep indexes and downloads, and whom they tell about long work."""

import contextlib
import hashlib
import json
import os
import threading
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, overload

import numpy as np

GIGABYTE = 1000**3
_FORMAT = 1  # counted up when older index files would be misread


def cache_folder() -> Path:
    """$RADIO_CACHE, or "radio" in the user's cache folder."""
    own = os.environ.get("RADIO_CACHE")
    if own:
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "radio"


def keep_quiet(_message: str) -> None:
    """A listener that ignores messages."""


def no_progress(_what: str, _done: int, _total: int | None) -> None:
    """A listener that ignores progress."""


@dataclass(frozen=True)
class Storage:
    """The place for what sources work out or fetch once.

    Attributes:
        folder: made when something is first kept there; never inside the data unless it was
            chosen so.
        limit: bytes that fetched shards may take.
        refresh: build indexes anew although there are kept ones.
        tell: called with one line about what is used or cannot be kept.
        progress: called as progress(what, done, total); the total may be unknown.
    """

    folder: Path = field(default_factory=cache_folder)
    limit: int = 50 * GIGABYTE
    refresh: bool = False
    tell: Callable[[str], None] = keep_quiet
    progress: Callable[[str, int, int | None], None] = no_progress

    def index_file(self, kind: str, key: object) -> Path:
        """The file of one index: `kind` names its folder, `key` (JSON) what it is of."""
        return self.folder / kind / f"{digest(key)}.npz"

    def load(self, kind: str, key: object) -> dict[str, np.ndarray] | None:
        """The arrays of a kept index; None if there is none or it is damaged."""
        try:
            with np.load(self.index_file(kind, key), allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None
        return arrays if arrays.pop("format", None) == _FORMAT else None

    def save(self, kind: str, key: object, arrays: Mapping[str, np.ndarray]) -> None:
        """Keep the arrays of an index, at once or not at all; a full disk is told, not raised."""
        path = self.index_file(kind, key)
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
    temporary = path.with_name(f".partial-{writer}{path.suffix}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def digest(key: object) -> str:
    """32 hexadecimal digits for a value that JSON can hold."""
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]


class PackedNames(Sequence[str]):
    """Many names in two arrays: a list of a million strings would be copied into every worker.

    Args:
        text: uint8 [bytes], all names one after the other.
        ends: int64 [names], where each of them ends.
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

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> list[str]: ...

    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
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
        content = hashlib.sha256(self.ends.tobytes())
        content.update(self.text.tobytes())
        return content.hexdigest()[:32]
