"""A safetensors file that is written tensor by tensor, so that it may be larger than memory."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from torch import Tensor

_LENGTH_BYTES = 8
_MOST_HEADER_BYTES = 100_000_000  # what readers of the format accept
_PADDING = 1024


class FeatureFile:
    """Writes float32 tensors and text metadata; a context manager.

    The format puts a header with every shape and position first. Room for it is reserved, the
    tensors follow as they come, and leaving the context fills it in: also after an error or
    Ctrl-C, so that what was added is kept. Until then the file is called PATH.partial, and
    without any tensor there is no file.

    Args:
        path: the file; an existing one is replaced at the end. Folders are created.
        header_bytes: most bytes that the JSON of all tensors and metadata can take.

    Raises:
        ValueError: a header of that size is not allowed in the format.
    """

    def __init__(self, path: Path, header_bytes: int) -> None:
        reserved = (header_bytes + _PADDING) // 8 * 8
        if reserved > _MOST_HEADER_BYTES:
            raise ValueError(
                f"{path}: too many images for one safetensors file; run them in several parts"
            )
        self.path = path
        self.metadata: dict[str, str] = {}
        self._entries: dict[str, Mapping[str, object]] = {}
        self._reserved = reserved
        self._end = 0
        self._partial = path.with_name(path.name + ".partial")
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._partial.open("wb")
        self._file.write(bytes(_LENGTH_BYTES + reserved))

    def add(self, name: str, tensor: Tensor) -> None:
        """Write one tensor of any shape, as float32; names must differ."""
        assert name not in self._entries
        values = tensor.detach().cpu().float().contiguous().numpy().astype("<f4", copy=False)
        self._file.write(values.data)
        span = [self._end, self._end + values.nbytes]
        self._entries[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": span}
        self._end = span[1]

    def __len__(self) -> int:
        """Number of tensors so far."""
        return len(self._entries)

    def __enter__(self) -> "FeatureFile":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Fill in the header and give the file its name."""
        with self._file:
            if self._entries:
                header = {"__metadata__": self.metadata, **self._entries}
                text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
                assert len(text) <= self._reserved
                self._file.seek(0)
                self._file.write(self._reserved.to_bytes(_LENGTH_BYTES, "little"))
                self._file.write(text.ljust(self._reserved))
        if self._entries:
            os.replace(self._partial, self.path)
        else:
            self._partial.unlink()
