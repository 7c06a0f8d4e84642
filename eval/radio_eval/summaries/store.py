"""Summaries on disk: one safetensors file a block of images, written whole or not at all."""

import hashlib
import json
import os
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from radio_core.data.images import printable

IDENTITY_FILE = "identity.json"
_FORMAT = "radio eval summaries, 2"
_ABOUT = "radio eval"


@dataclass(frozen=True, kw_only=True)
class Shard:
    """The summaries of one block.

    Attributes:
        features: [n, D] float32 of unit length, the images that could be read.
        labels: [n] int64.
        names: n names.
        skipped: name -> reason, the images that could not be read.
    """

    features: Tensor
    labels: Tensor
    names: Sequence[str]
    skipped: Mapping[str, str]


class SummaryStore:
    """A folder with the summaries of one data split as one model gives them.

    Args:
        folder: made if it is not there.
        identity: JSON types: all that decides the summaries.
        num_blocks: blocks of the split; the store is complete when each has its file.
        dtype: float32, or float16 for half the size.

    Raises:
        ValueError: the folder holds other summaries.
    """

    def __init__(
        self, folder: Path, identity: Mapping[str, Any], num_blocks: int, dtype: torch.dtype
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.num_blocks = num_blocks
        self._dtype = dtype
        text = json.dumps({"format": _FORMAT, **identity}, indent=1, sort_keys=True)
        self._hash = hashlib.sha256(text.encode()).hexdigest()
        path = folder / IDENTITY_FILE
        if not path.is_file():
            _replace(path, (text + "\n").encode())
        elif path.read_text(encoding="utf-8").strip() != text:
            raise ValueError(
                f"{printable(path)} belongs to other weights, data or settings: remove the folder "
                f"{printable(folder)}, or choose another --cache"
            )

    def path(self, block: int) -> Path:
        """File of a block."""
        return self.folder / f"{block:06d}.safetensors"

    def missing(self) -> list[int]:
        """Numbers of the blocks that have no file yet."""
        return [block for block in range(self.num_blocks) if not self.path(block).is_file()]

    def write(self, block: int, shard: Shard) -> None:
        """Write a block's file; it is there whole when this returns, or not at all."""
        path = self.path(block)
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        tensors = {
            "features": shard.features.to(self._dtype).contiguous(),
            "labels": shard.labels.contiguous(),
        }
        about = {
            "identity": self._hash,
            "names": list(shard.names),
            "skipped": dict(shard.skipped),
        }
        # One entry: several would come in a different order in every file.
        save_file(tensors, partial, metadata={_ABOUT: json.dumps(about)})
        os.replace(partial, path)

    def read(self) -> "StoredSummaries":
        """The summaries of all blocks.

        Raises:
            ValueError: a file is missing, damaged or from another store.
        """
        paths = [self.path(block) for block in range(self.num_blocks)]
        return StoredSummaries(paths, self._hash)


class StoredSummaries:
    """Complete summaries; only what is asked for is in memory. Satisfies `FeatureRows`.

    Args:
        paths: the files, in order.
        identity: hash that each must carry.

    Attributes:
        dim: numbers a summary, D.
        labels: [N] int64 of all rows.
        skipped: name -> reason, the images that could not be read.

    Raises:
        ValueError: a file is missing, damaged or from another store.
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
        """Number of rows: the images that could be read."""
        return len(self.labels)

    def rows(self, start: int, stop: int) -> Tensor:
        """Summaries [stop - start, D] float32, of unit length."""
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
        """Name of the image of a row."""
        shard = self._shard_of(row)
        with _open(self._paths[shard]) as file:
            return str(_about(file)["names"][row - self._starts[shard]])

    def _shard_of(self, row: int) -> int:
        return bisect_right(self._starts, row) - 1


def _open(path: Path) -> Any:
    """A safetensors file, mapped into memory while it is open."""
    try:
        return safe_open(path, framework="pt")
    except FileNotFoundError as error:
        raise ValueError(
            f"{printable(path)} is missing: remove the folder and run again; processes on several "
            "machines need a --cache DIR that all of them see"
        ) from error
    except SafetensorError as error:
        raise ValueError(f"{printable(path)} is damaged ({error}): remove it, and run again") from (
            error
        )


def _about(file: Any) -> dict[str, Any]:
    """What a file says of itself; nothing where it is not ours."""
    about: dict[str, Any] = json.loads((file.metadata() or {}).get(_ABOUT, "{}"))
    return about


def _replace(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all; processes may do so at once."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_bytes(content)
    os.replace(partial, path)
