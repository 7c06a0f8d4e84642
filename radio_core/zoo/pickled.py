"""Weight files from elsewhere, read without executing anything in them.

The official `.pth.tar` files are pickles. One that passes the dry run holds nothing but tensors and
plain values; only then `torch.load(weights_only=True)` builds it, with the tensors mapped from the
file, so that their bytes are first read where they are used.
"""

import argparse
import contextlib
import itertools
import re
import struct
import threading
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple

import torch
from torch import Tensor

from radio_core.models.weight_files import GET_AGAIN, first_bytes
from radio_core.zoo import allowed
from radio_core.zoo.dry_run import DryRun

MAX_ENTRIES = 100_000
MAX_PICKLE_BYTES = 16 << 20
MAX_ARGS_VALUES = 100_000
MAX_ARGS_DEPTH = 32

EMA_OVERRIDES: dict[str, Any] = {"spectral_reparam": False, "spectral_heads": False, "damp": None}
"""What holds for averaged weights, whatever `args` says of the trained ones."""

_WRAPPERS = re.compile(r"^(?:module\.|_orig_mod\.)+")
_LOADING = threading.Lock()  # torch's list of allowed classes is shared by all threads


class OfficialFile(NamedTuple):
    """What an official checkpoint holds.

    Attributes:
        state: official name, without wrapper prefixes -> tensor on the CPU, mapped from the file
            and in its dtype; the averaged weights where there are any.
        args: the training arguments as plain values: a Namespace is a dict here, a device or path
            text, a size a tuple, a numpy scalar a number. With `EMA_OVERRIDES` where they apply.
    """

    state: dict[str, Tensor]
    args: dict[str, Any]


class _NumpyType:
    """In place of a numpy type, so that only a number can be made with it."""

    def __init__(self, code: str, *_: bool) -> None:
        self.format = allowed.NUMPY_FORMATS[code]

    def __setstate__(self, _: object) -> None:
        """The state is the same for all types that pass the dry run."""


def _number(kind: _NumpyType, raw: bytes) -> bool | int | float:
    """In place of a numpy scalar."""
    number: bool | int | float = struct.unpack(kind.format, raw)[0]
    return number


def _dict(*_: object) -> dict[object, object]:
    """In place of a dict with a factory."""
    return {}


_Allowance = Callable[..., Any] | tuple[Callable[..., Any], str]

_BUILT: dict[str, Callable[..., Any]] = {
    allowed.NAMESPACE: argparse.Namespace,
    allowed.DEFAULT_DICT: _dict,
    # Pure paths of both kinds can be made on any system.
    **dict.fromkeys(allowed.POSIX_PATHS, PurePosixPath),
    **dict.fromkeys(allowed.WINDOWS_PATHS, PureWindowsPath),
    allowed.NUMPY_TYPE: _NumpyType,
    **dict.fromkeys(allowed.NUMPY_SCALARS, _number),
    "builtins.frozenset": frozenset,
    **{f"builtins.{kind.__name__}": kind for kind in (list, dict, int, float)},
}
"""Name, as torch reads it -> what is built, where torch itself would not know the name."""


def read_pickled(path: Path) -> OfficialFile:
    """Read an official checkpoint (`.pth.tar`).

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is no official checkpoint, is damaged, or asks for more than tensors and
            plain values; nothing in it was executed.
    """
    head = first_bytes(path)
    try:
        pickle, records = _unpack(path, head)
        DryRun(records).run(pickle)
        return _official(_load(path))
    except ValueError as error:
        raise ValueError(f"{path} {error}. Nothing in it was executed; {GET_AGAIN}") from None


def _unpack(path: Path, head: bytes) -> tuple[bytes, dict[str, int]]:
    """The pickle in a file written by `torch.save`, and name -> bytes of all its records."""
    if not head.startswith(b"PK\x03\x04"):
        old = " (perhaps PyTorch's format before 1.6, which is not read)"
        raise ValueError(f"is not a zip file written by torch.save{old if head[0] == 0x80 else ''}")
    with _zip_errors():
        archive = zipfile.ZipFile(path)
    with archive:
        records = _records(archive.infolist(), path.stat().st_size)
        if records.get("data.pkl", 0) > MAX_PICKLE_BYTES:
            raise ValueError(f"has a data.pkl of over {MAX_PICKLE_BYTES} bytes")
        with _zip_errors():
            folder = archive.namelist()[0].partition("/")[0]
            pickle = archive.read(f"{folder}/data.pkl")
            torch_reads = torch._C.PyTorchFileReader(str(path)).get_record("data.pkl")
    if torch_reads != pickle:  # zip readers differ on odd files: one pickle could hide another
        raise ValueError("has an ambiguous data.pkl, so torch.save did not write it")
    return pickle, records


@contextlib.contextmanager
def _zip_errors() -> Iterator[None]:
    """Whatever zipfile raises for a bad file, as one error."""
    try:
        yield
    except (
        zipfile.BadZipFile,
        struct.error,
        LookupError,
        RuntimeError,
        OSError,
        ValueError,
        EOFError,
    ):
        raise ValueError("is damaged, cut short, or was not written by torch.save") from None


def _records(entries: list[zipfile.ZipInfo], size: int) -> dict[str, int]:
    """Record name, without the folder that all are in -> bytes, for a file of `size` bytes."""
    if len(entries) > MAX_ENTRIES:
        raise ValueError(f"has {len(entries)} entries, more than {MAX_ENTRIES}")
    # After other data, torch would look at that: perhaps at another archive, of any size.
    if not entries or min(entry.header_offset for entry in entries):
        raise ValueError("does not begin with its first entry, so torch.save did not write it")
    if any(
        e.compress_type != zipfile.ZIP_STORED or e.compress_size != e.file_size for e in entries
    ):
        raise ValueError("has compressed entries, which torch.save never writes")
    if sum(entry.file_size for entry in entries) > size:
        raise ValueError(f"declares more data than its {size} bytes")
    # torch looks names up without regard to case.
    if len({entry.filename.lower() for entry in entries}) != len(entries):
        raise ValueError("has two entries of the same name")
    if len({entry.filename.partition("/")[0] for entry in entries}) != 1:
        raise ValueError("has entries in several folders, so torch.save did not write it")
    return {entry.filename.partition("/")[2]: entry.file_size for entry in entries}


def _load(path: Path) -> object:
    """What torch builds from a file that passed the dry run."""
    ours: list[_Allowance] = [(built, name) for name, built in _BUILT.items()]
    with _LOADING:
        # What the user allows under the same names is put aside: torch would take either.
        theirs = [g for g in torch.serialization.get_safe_globals() if _allowed_name(g) in _BUILT]
        _replace_allowed(theirs, ours)
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except Exception as error:  # of many kinds, and their texts advise unsafe loading
            raise ValueError(f"cannot be read by torch ({type(error).__name__})") from None
        finally:
            _replace_allowed(ours, theirs)


def _allowed_name(allowance: _Allowance) -> str:
    if isinstance(allowance, tuple):
        return allowance[1]
    return f"{allowance.__module__}.{allowance.__qualname__}"


def _replace_allowed(old: Iterable[_Allowance], new: Iterable[_Allowance]) -> None:
    kept = set(torch.serialization.get_safe_globals()) - set(old)
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals([*kept, *new])


def _official(file: object) -> OfficialFile:
    """The parts that matter, checked and made plain."""
    if not isinstance(file, dict):
        raise ValueError(f"is no RADIO checkpoint: it holds a {type(file).__name__}, not a dict")
    averaged = file.get("state_dict_ema") is not None
    weights = "state_dict_ema" if averaged else "state_dict"
    for key, kind in ((weights, dict), ("args", (argparse.Namespace, dict))):
        if key not in file:
            found = ", ".join(_short(name) for name in itertools.islice(file, 8)) or "nothing"
            raise ValueError(f"is no RADIO checkpoint: it has no {key!r}, only {found}")
        if not isinstance(file[key], kind):
            found = type(file[key]).__name__
            raise ValueError(f"is no RADIO checkpoint: its {key!r} is a {found}")
    args: dict[str, Any] = _plain(file["args"], "args", 0, itertools.count())
    if unnamed := [key for key in args if not isinstance(key, str)]:
        raise ValueError(f"has, in args, the number {_short(unnamed[0])} instead of a name")
    return OfficialFile(_state(file[weights], weights), args | (EMA_OVERRIDES if averaged else {}))


def _state(stored: dict[object, object], where: str) -> dict[str, Tensor]:
    """The tensors of a state dict, under names without wrapper prefixes."""
    state: dict[str, Tensor] = {}
    for key, value in stored.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            found = f"a {type(value).__name__} under the {type(key).__name__} {_short(key)}"
            raise ValueError(f"has, in {where}, {found} instead of a tensor under a name")
        name = _WRAPPERS.sub("", key)
        if name in state:
            raise ValueError(f"has {_short(name)} twice in {where}: with and without a wrapper")
        state[name] = value.detach()
    return state


def _plain(value: Any, where: str, depth: int, visited: Iterator[int]) -> Any:
    """`value` made plain, as in `OfficialFile.args`.

    Args:
        value: a value from the file.
        where: what errors call it.
        depth: number of containers around it.
        visited: counts the values, since what is shared many times over, or contains itself, is
            small in the file and endless here.

    Raises:
        ValueError: it is too deep or large, or has something in it that is no plain value.
    """
    if depth > MAX_ARGS_DEPTH or next(visited) >= MAX_ARGS_VALUES:
        raise ValueError(f"has too many or too deeply nested values at {where[:100]}")
    if isinstance(value, argparse.Namespace):
        value = vars(value)
    kind = type(value)
    if value is None or kind in (bool, int, float, str, torch.dtype):
        return value
    if kind in (torch.device, PurePosixPath, PureWindowsPath):
        return str(value)
    if kind is torch.Size:
        return tuple(value)
    if kind in (list, tuple, set, frozenset):
        return kind(_plain(v, f"{where}[{i}]", depth + 1, visited) for i, v in enumerate(value))
    if kind in (dict, OrderedDict):
        return {k: _plain(v, f"{where}.{_short(k)}", depth + 1, visited) for k, v in value.items()}
    raise ValueError(f"has a {kind.__name__} at {where[:100]}, where only plain values are read")


def _short(key: object) -> str:
    return str(key)[:60]
