"""What an evaluation has found so far, on disk: it goes on wherever its processes were stopped.

`Records` is a file of JSON lines that grows item by item (answers, the scores of an image's masks);
`Blocks` a folder of tensors, block by block, that need not fit into memory (summaries). Both belong
to an identity, JSON types with all that decides the results: what was found with another one is
refused, and the difference named. Both are shared by the processes of a run.

Why no library: sqlite and HDF5 lose files whose writer is killed, or that two machines write over a
network file system; safetensors, which we use for the tensors, has no notion of unfinished work.
"""

import hashlib
import json
import os
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from radio_core.data.images import printable
from radio_core.processes import Processes

Json = dict[str, Any]
IDENTITY_FILE = "identity.json"
_PART = ".part-"
_ABOUT = "radio eval"


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file, whole or not at all; its folder is made, and processes may do so at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    text = content.encode("utf-8", "replace") if isinstance(content, str) else content
    partial.write_bytes(text)
    os.replace(partial, path)


def plain(value: Any) -> Any:
    """A value as JSON gives it back: tuples become lists, paths and other things text."""
    return json.loads(json.dumps(value, default=str))


def digest(identity: Mapping[str, Any]) -> str:
    """A short name for an identity, for folders that several evaluations share."""
    text = json.dumps(plain(identity), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_result(path: Path, identity: Mapping[str, Any]) -> Json | None:
    """What `write_result` left; None if there is nothing of this identity, or it is damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        result: Json = content["result"]
        return result if content["identity"] == plain(identity) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_result(path: Path, identity: Mapping[str, Any], result: Mapping[str, Any]) -> None:
    """Keep a finished result, such as a `TaskResult`, with what it depends on."""
    content = {"identity": plain(identity), "result": plain(result)}
    write_whole(path, json.dumps(content, indent=2) + "\n")


class Skipped:
    """The account of what could not be used: each thing once, by its name, id or place."""

    def __init__(self, reasons: Mapping[str, str] | None = None) -> None:
        self.reasons: dict[str, str] = dict(reasons or {})

    def add(self, name: object, reason: str) -> None:
        """Record one; recording it again changes nothing."""
        self.reasons.setdefault(str(name), reason)

    def __len__(self) -> int:
        return len(self.reasons)

    def to_json(self) -> Json:
        """How many, how many of each kind of reason (what stands before a colon), and each one."""
        kinds = Counter(reason.partition(":")[0] for reason in self.reasons.values())
        return {"count": len(self), "reasons": dict(kinds), "each": self.reasons}


class Records:
    """A file of JSON lines that grows item by item; every process of a run must make one.

    While processes work, the first appends to the file itself, the others to FILE.part-RANK;
    `merge` makes one file of them. FILE.identity.json says what the records belong to.

    Args:
        path: the file.
        identity: JSON types: all that decides the records.
        processes: those that share the work; None for this one alone.
        overwrite: remove what an earlier run left.
        check: raises ValueError, KeyError or TypeError for a line that is none of these records.

    Attributes:
        found: the records of earlier runs, in the order in which they were written, at every
            process: nobody appends before everybody has read. Of several records of one item the
            last one counts.

    Raises:
        ValueError: the file holds records of another identity, or a damaged line. A last line that
            was not written to its end is not damaged, but cut off.
    """

    def __init__(
        self,
        path: Path,
        identity: Mapping[str, Any],
        processes: Processes | None = None,
        *,
        overwrite: bool = False,
        check: Callable[[Json], object] = lambda record: None,
    ) -> None:
        self.path, self._identity_file = path, path.with_name(f"{path.name}.{IDENTITY_FILE}")
        self._processes, self._check = processes or Processes(), check
        self._file: IO[bytes] | None = None
        if overwrite and self._processes.first:
            for file in (path, self._identity_file, *_parts(path)):
                file.unlink(missing_ok=True)
        self._processes.gather(None, patient=True)
        if any(file.stat().st_size for file in self._files()):
            check_identity(
                self._identity_file,
                identity,
                f"{printable(path)} holds results of another run",
                "choose another place, or pass --overwrite to remove them",
            )
        self.found = list(self._read())
        self._processes.gather(None, patient=True)
        if self._processes.first:
            write_whole(self._identity_file, json.dumps(plain(identity), indent=1) + "\n")

    def append(self, *records: Mapping[str, Any]) -> None:
        """Add records: all of them or none are there, whenever the process ends."""
        if self._file is None:
            own, rank = self.path, self._processes.rank
            if rank:
                own = own.with_name(f"{own.name}{_PART}{rank}")
            own.parent.mkdir(parents=True, exist_ok=True)
            whole_lines = own.read_bytes().rfind(b"\n") + 1 if own.is_file() else 0
            self._file = own.open("ab")
            self._file.truncate(whole_lines)
        self._file.write("".join(json.dumps(record) + "\n" for record in records).encode())
        self._file.flush()

    def merge(self, place: Callable[[Json], Any]) -> list[Json]:
        """Make one file of all processes' records, when all of them have come here.

        Args:
            place: of a record's item in the file, anything that can be hashed and sorted; of
                records with the same place the last one stays.

        Returns:
            All records in their order, at every process.
        """
        self.close()
        self._processes.gather(None, patient=True)
        if self._processes.first:
            kept = {place(record): record for record in self._read()}
            lines = (json.dumps(record) + "\n" for _, record in sorted(kept.items()))
            write_whole(self.path, "".join(lines))
            for part in _parts(self.path):
                part.unlink()
        self._processes.gather(None, patient=True)
        return list(self._read())

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> "Records":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _files(self) -> list[Path]:
        return [file for file in (self.path, *_parts(self.path)) if file.is_file()]

    def _read(self) -> Iterator[Json]:
        for file in self._files():
            for number, line in enumerate(file.read_bytes().split(b"\n")[:-1], start=1):
                try:
                    record = json.loads(line)
                    self._check(record)
                except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                    raise ValueError(
                        f"{printable(file)}: line {number} is damaged or does not belong here "
                        f"({type(error).__name__}: {error}); remove it, or pass --overwrite to "
                        "begin anew"
                    ) from error
                yield record


class Blocks:
    """A folder with rows of numbers, labels and names, in numbered blocks; a file each.

    A block's file is there whole or not at all, and is the same whoever writes it: processes share
    the missing ones, and an interrupted run repeats at most one block a process.

    Args:
        folder: made if it is not there.
        identity: JSON types: all that decides the rows.
        count: blocks; all is there when each has its file.
        dtype: of the rows: float32, or float16 for half the size.

    Raises:
        ValueError: the folder has another identity; the difference is named.
    """

    def __init__(
        self, folder: Path, identity: Mapping[str, Any], count: int, dtype: torch.dtype
    ) -> None:
        self.folder, self.count, self._dtype = folder, count, dtype
        own = plain({"format": "radio eval summaries, 2", **identity})
        text = json.dumps(own, indent=1, sort_keys=True)
        self._hash = hashlib.sha256(text.encode()).hexdigest()
        path = folder / IDENTITY_FILE
        if path.is_file():
            check_identity(
                path,
                own,
                f"{printable(folder)} belongs to other weights, data or settings",
                "remove the folder, or choose another --cache",
            )
        else:
            write_whole(path, text + "\n")

    def path(self, block: int) -> Path:
        """File of a block."""
        return self.folder / f"{block:06d}.safetensors"

    def missing(self) -> list[int]:
        """Numbers of the blocks that have no file yet."""
        return [block for block in range(self.count) if not self.path(block).is_file()]

    def write(
        self,
        block: int,
        features: Tensor,
        labels: Tensor,
        names: Sequence[str] = (),
        skipped: Mapping[str, str] | None = None,
    ) -> None:
        """Write a block's file.

        Args:
            block: its number.
            features: [n, D] float.
            labels: [n] int64.
            names: n names of the rows.
            skipped: name -> reason, of what is in no row.
        """
        path = self.path(block)
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        tensors = {
            "features": features.to(self._dtype).contiguous(),
            "labels": labels.contiguous(),
        }
        about = {"identity": self._hash, "names": list(names), "skipped": dict(skipped or {})}
        # One entry: several would come in a different order in every file.
        save_file(tensors, partial, metadata={_ABOUT: json.dumps(about)})
        os.replace(partial, path)

    def read(self) -> "StoredRows":
        """The rows of all blocks.

        Raises:
            ValueError: a file is missing, damaged or from another folder.
        """
        return StoredRows([self.path(block) for block in range(self.count)], self._hash)


class StoredRows:
    """Complete rows; only what is asked for is in memory. Satisfies `scores.knn.FeatureRows`.

    Args:
        paths: the files, in order.
        identity: hash that each must carry.

    Attributes:
        dim: numbers a row, D.
        labels: [N] int64 of all rows.
        skipped: name -> reason, of what is in no row.

    Raises:
        ValueError: a file is missing, damaged or from another folder.
    """

    def __init__(self, paths: Sequence[Path], identity: str) -> None:
        self._paths: list[Path] = []
        self.dim = 0
        self.skipped: dict[str, str] = {}
        labels: list[Tensor] = []
        for path in paths:
            with _open(path) as file:
                about = _about(file)
                if about.get("identity") != identity:
                    raise ValueError(
                        f"{printable(path)} was computed with other weights, data or settings: "
                        "remove it, and run again"
                    )
                self.skipped.update(about["skipped"])
                found = file.get_tensor("labels").clone()
                if len(found):
                    self._paths.append(path)
                    labels.append(found)
                    self.dim = file.get_slice("features").get_shape()[1]
        self.labels = torch.cat(labels) if labels else torch.zeros(0, dtype=torch.long)
        self._starts = [0, *accumulate(len(part) for part in labels)]

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.labels)

    def rows(self, start: int, stop: int) -> Tensor:
        """Rows [stop - start, D] float32."""
        found = torch.empty(stop - start, self.dim)
        self.read_rows(start, found)
        return found

    def read_rows(self, start: int, out: Tensor) -> None:
        """Fill [n, D] float32, on any device, with the rows from `start` on."""
        stop = start + len(out)
        for shard in range(self._shard_of(start), len(self._paths)):
            first, end = self._starts[shard], self._starts[shard + 1]
            if first >= stop:
                break
            begin, end = max(start, first), min(stop, end)
            # Copied out: what is mapped of the file is given back when it is closed.
            with _open(self._paths[shard]) as file:
                stored = file.get_slice("features")[begin - first : end - first]
                out[begin - start : end - start].copy_(stored)

    def name(self, row: int) -> str:
        """Name of a row."""
        shard = self._shard_of(row)
        with _open(self._paths[shard]) as file:
            return str(_about(file)["names"][row - self._starts[shard]])

    def _shard_of(self, row: int) -> int:
        return bisect_right(self._starts, row) - 1


def check_identity(path: Path, identity: Mapping[str, Any], what: str, remedy: str) -> None:
    """Compare an identity with the one that a file holds.

    Args:
        path: the file.
        identity: JSON types.
        what: beginning of the message: what is wrong if they differ.
        remedy: its end.

    Raises:
        ValueError: they differ (the message names each difference), or the file cannot be read.
    """
    wanted = plain(identity)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if found == wanted:
        return
    why = f"there is no readable {printable(path.name)}"
    if isinstance(found, dict):
        names = [n for n in {**wanted, **found} if found.get(n) != wanted.get(n)]
        why = "; ".join(f"{n}: {found.get(n)}, now {wanted.get(n)}" for n in names)
    raise ValueError(f"{what} ({why}); {remedy}")


def _parts(path: Path) -> list[Path]:
    """The files of the other processes, by their names."""
    start = path.name + _PART
    names = sorted(os.listdir(path.parent)) if path.parent.is_dir() else []
    return [
        path.with_name(name)
        for name in names
        if name.startswith(start) and name.removeprefix(start).isdigit()
    ]


def _open(path: Path) -> Any:
    """A safetensors file, mapped into memory while it is open."""
    try:
        return safe_open(path, framework="pt")
    except FileNotFoundError as error:
        raise ValueError(
            f"{printable(path)} is missing: remove the folder and run again; processes on several "
            "machines need a folder that all of them see"
        ) from error
    except SafetensorError as error:
        raise ValueError(f"{printable(path)} is damaged ({error}): remove it, and run again") from (
            error
        )


def _about(file: Any) -> Json:
    """What a file says of itself; nothing where it is not ours."""
    about: Json = json.loads((file.metadata() or {}).get(_ABOUT, "{}"))
    return about
