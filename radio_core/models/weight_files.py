"""The files that models come in, read without trusting them and written whole."""

import argparse
import builtins
import contextlib
import json
import os
import re
import struct
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

MAX_JSON_BYTES = 1 << 20
GET_AGAIN = "get the file again from its original source"

_LOADING = threading.Lock()  # torch's list of allowed classes is shared by all threads


def first_bytes(path: Path) -> bytes:
    """The first bytes of a weight file; what is plainly none is refused.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a directory, an empty file, a git-lfs pointer or a web page.
    """
    if path.is_dir():
        raise ValueError(f"{path} is a directory; give the checkpoint file in it")
    if not path.exists():
        raise FileNotFoundError(f"no {path.name} in {path.parent}: no such file")
    if not path.is_file():
        raise ValueError(f"{path} is not a regular file; give a checkpoint file")
    with path.open("rb") as file:
        head = file.read(256)
    if not head:
        raise ValueError(f"{path} is empty; {GET_AGAIN}")
    if head.startswith(b"version https://git-lfs"):
        raise ValueError(
            f"{path} is a git-lfs pointer instead of the weights; run `git lfs pull` in its "
            f"repository, or {GET_AGAIN}"
        )
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise ValueError(f"{path} is a web page instead of the weights; {GET_AGAIN}")
    return head


class _NumpyType:
    """In place of a numpy type, so that only a plain number can be made with it."""

    def __init__(self, code: str, *_: object) -> None:
        kinds = {"b1": "?", "f2": "e", "f4": "f", "f8": "d"}
        kinds |= {"i1": "b", "i2": "h", "i4": "i", "i8": "q"}
        kinds |= {"u1": "B", "u2": "H", "u4": "I", "u8": "Q"}
        self.format = f"<{kinds[code]}"

    def __setstate__(self, state: tuple[object, ...]) -> None:
        """Accept the state of a little-endian type."""
        if state not in [(3, order, None, None, None, -1, -1, 0) for order in "<|"]:
            raise ValueError("a number in another byte order")


def _number(kind: _NumpyType, raw: bytes) -> bool | int | float:
    """In place of a numpy scalar."""
    number: bool | int | float = struct.unpack(kind.format, raw)[0]
    return number


_ALLOWED: list[Any] = [
    argparse.Namespace,  # the arguments of a training script
    (lambda *_: {}, "collections.defaultdict"),  # grouped options; a factory is never called
    *((getattr(builtins, kind), f"builtins.{kind}") for kind in ("dict", "float", "int", "list")),
    (frozenset, "builtins.frozenset"),
    (_NumpyType, "numpy.dtype"),  # numbers that came from numpy, version 1 or 2
    *((_number, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    *(  # folders of data and results; pure paths of both kinds can be made on any system
        (kind, f"{module}.{prefix}{name}")
        for module in ("pathlib", "pathlib._local")
        for prefix in ("", "Pure")
        for name, kind in (("PosixPath", PurePosixPath), ("WindowsPath", PureWindowsPath))
    ),
]
"""What a checkpoint may mention besides what torch allows: tensors and plain values."""


@contextlib.contextmanager
def _only_allowed() -> Iterator[None]:
    """Within this context torch allows `_ALLOWED`, whatever the rest of the program allows."""
    with _LOADING:
        theirs = torch.serialization.get_safe_globals()
        torch.serialization.clear_safe_globals()
        try:
            with torch.serialization.safe_globals(_ALLOWED):
                yield
        finally:
            torch.serialization.clear_safe_globals()
            torch.serialization.add_safe_globals(theirs)


def read_checkpoint(path: Path) -> Any:
    """What `torch.save` wrote to a file, or a `.safetensors` file holds; nothing is executed.

    Tensors are on the CPU and mapped from the file, so that their bytes are first read where they
    are used. Besides them the file may hold what the arguments of a training script are made of;
    paths come back as pure paths, numbers of numpy as plain ones.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is damaged, or asks for more than that; the message names it.
    """
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    zipped = first_bytes(path).startswith(b"PK\x03\x04")
    try:
        if zipped:
            _check_archive(path)
        with _only_allowed():
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except Exception as error:  # of many kinds, and torch's texts advise unsafe loading
        said = str(error)
        if refused := re.search(r"GLOBAL (\S+)", said):
            reason = f"asks for {refused[1][:100]}, which no checkpoint needs"
        elif isinstance(error, _NotWhole):
            reason = said
        else:
            kind = type(error).__name__
            reason = f"is damaged, or asks for more than tensors and plain values ({kind})"
    raise ValueError(f"{path} {reason}. Nothing in it was executed; {GET_AGAIN}")


class _NotWhole(ValueError):
    """A zip file that torch.save did not write; the message says why."""


def _check_archive(path: Path) -> None:
    """Refuse zip files that would grow when they are read."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise _NotWhole("has compressed entries, which torch.save never writes")
    if sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise _NotWhole(f"declares more data than its {path.stat().st_size} bytes")


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a `.safetensors` file on the CPU, mapped from it and in its dtypes.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is damaged, or no safetensors file.
    """
    first_bytes(path)
    try:
        return load_file(path)
    except (SafetensorError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"{path} is damaged or no safetensors file ({error}); {GET_AGAIN}"
        ) from None


def read_json(path: Path, max_bytes: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is too large, or no JSON object.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no {path.name} in {path.parent}: not a saved model")
    if path.stat().st_size > max_bytes:
        raise ValueError(f"{path} has over {max_bytes} bytes: not what its name says")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(data, dict):
        raise ValueError(f"{path} must hold a JSON object")
    return data


def stored(state: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Tensors as they go into a file: copies on the CPU, floating ones in `dtype`.

    Raises:
        ValueError: a weight is NaN, infinite, or too large for `dtype`.
    """
    copies = {}
    for name, tensor in state.items():
        copy = tensor.detach().to("cpu", dtype if tensor.is_floating_point() else None)
        copies[name] = copy.clone(memory_format=torch.contiguous_format)
    check_finite(copies, f"cannot save as {dtype}")
    return copies


def write_safetensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write tensors, through a temporary file, so that `path` is never half of a file."""
    _write_whole(path, lambda file: save_file(tensors, file, {"format": "pt"}))


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write a JSON object, through a temporary file, so that `path` is never half of a file."""
    text = json.dumps(values, indent=2) + "\n"
    _write_whole(path, lambda file: file.write_text(text, encoding="utf-8"))


def _write_whole(path: Path, write: Callable[[Path], object]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    write(temporary)
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(path)


def load_strictly(module: nn.Module, state: dict[str, Tensor], where: str) -> None:
    """Give `module` exactly the tensors of `state`, taking them over without a copy.

    Raises:
        ValueError: missing or unexpected names, wrong shapes, NaN or infinite values; they are
            listed and nothing is loaded.
    """
    wanted = module.state_dict()
    problems = [f"missing {name}" for name in wanted if name not in state]
    problems += [f"unexpected {name}" for name in state if name not in wanted]
    for name in wanted.keys() & state.keys():
        have, want = tuple(state[name].shape), tuple(wanted[name].shape)
        if have != want:
            problems.append(f"{name} has shape {have} instead of {want}")
    if problems:
        raise ValueError(f"{where} does not fit its configuration: " + "; ".join(problems))
    check_finite(state, where)
    module.load_state_dict(state, strict=True, assign=True)


def check_finite(state: Mapping[str, Tensor], where: str) -> None:
    """Raise ValueError, naming the tensors, unless all floating values are finite."""
    bad = [
        name
        for name, tensor in state.items()
        # A finite sum has finite terms, and costs a third of looking at each of them.
        if tensor.is_floating_point() and not (tensor.sum().isfinite() or tensor.isfinite().all())
    ]
    if bad:
        raise ValueError(f"{where}: NaN or infinite values in {', '.join(bad)}")
