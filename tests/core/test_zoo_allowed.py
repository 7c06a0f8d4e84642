"""Harmless objects in a checkpoint's arguments become plain values; abused, they are refused."""

import argparse
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from pathlib import (
    Path,
    PosixPath,
    PurePath,
    PurePosixPath,
    PureWindowsPath,
    WindowsPath,
)
from typing import Any

import numpy as np
import pytest
import torch

from radio_core.zoo.pickled import read_pickled

SCALAR: Any = np.float64(0).__reduce__()[0]


class Call:
    """Pickled as the call of a function."""

    def __init__(self, function: Callable[..., Any], *arguments: object) -> None:
        self._call = (function, arguments)

    def __reduce__(self) -> Any:
        return self._call


def save(folder: Path, value: object) -> Path:
    """A checkpoint with the value in its arguments and beside them."""
    args = argparse.Namespace(a=value, b=[{"c": (value, value)}], d=argparse.Namespace(e=value))
    file = folder / "model.pth.tar"
    torch.save({"state_dict": {"w": torch.ones(1)}, "args": args, "epoch": value}, file)
    return file


READ: list[tuple[object, object]] = [
    # a value, as what it is read
    (torch.device("cpu"), "cpu"),
    (torch.device("cuda", 3), "cuda:3"),
    (torch.Size([2, 3]), (2, 3)),
    (torch.Size([]), ()),
    (Path("data/train"), str(Path("data/train"))),
    (PurePosixPath("/data/train"), "/data/train"),
    (PureWindowsPath("C:/data/train"), "C:\\data\\train"),
    (Call(PosixPath, "/", "data"), "/data"),
    (Call(WindowsPath, "C:\\", "data"), "C:\\data"),
    ({"a", 1, 2.5, None}, {"a", 1, 2.5, None}),
    (frozenset({"a"}), frozenset({"a"})),
    (set(), set()),
    (defaultdict(list, a=[1]), {"a": [1]}),
    (defaultdict(None, {1: 2}), {1: 2}),
    (np.float64(1.5), 1.5),
    (np.float32(0.5), 0.5),
    (np.float16(0.5), 0.5),
    (np.int64(-3), -3),
    (np.uint8(200), 200),
    (np.bool_(True), True),
]


@pytest.mark.parametrize(("value", "expected"), READ, ids=lambda value: type(value).__name__)
def test_harmless_objects_become_plain_values(
    tmp_path: Path, value: object, expected: object
) -> None:
    found = read_pickled(save(tmp_path, value)).args
    assert found == {"a": expected, "b": [{"c": (expected, expected)}], "d": {"e": expected}}
    assert type(found["a"]) is type(expected)


REFUSED: list[tuple[object, str]] = [
    # a value, complaint
    (Call(torch.nn.Parameter, 1, True), "calls torch.nn.parameter.Parameter"),
    (Call(torch.nn.Parameter, torch.ones(1)), "calls torch.nn.parameter.Parameter"),
    (Call(torch.device), "calls torch.device"),
    (Call(torch.device, [0] * 100_000), "calls torch.device"),
    (Call(torch.device, "a" * 100_000), "calls torch.device"),
    (Call(torch.device, "cuda", 1 << 62), "calls torch.device"),
    (Call(torch.device, "cuda", -1), "calls torch.device"),
    (Call(torch.device, "cuda", True), "calls torch.device"),
    (Call(torch.device, "cuda", 0, 0), "calls torch.device"),
    (Call(torch.device, torch.device("cpu")), "calls torch.device"),
    (Call(torch.Size, (1 << 64,)), "calls torch.Size"),
    (Call(torch.Size, (-1,)), "calls torch.Size"),
    (Call(torch.Size, (True,)), "calls torch.Size"),
    (Call(torch.Size, (1,) * 33), "calls torch.Size"),
    (Call(torch.Size, ((1, 2),)), "calls torch.Size"),
    (Call(torch.Size, [1, 2]), "calls torch.Size"),
    (Call(torch.Size, torch.ones(1)), "calls torch.Size"),
    (Call(PosixPath, 1), "calls pathlib.*PosixPath"),
    (Call(PosixPath, ["a"]), "calls pathlib.*PosixPath"),
    (Call(PosixPath, ("a",)), "calls pathlib.*PosixPath"),
    (Call(PosixPath, Path("a")), "calls pathlib.*PosixPath"),
    (Call(PosixPath, *["a"] * 257), "calls pathlib.*PosixPath"),
    (Call(PureWindowsPath, "a" * 5000), "calls pathlib.*PureWindowsPath"),
    (Call(PurePath, "a"), "mentions pathlib.*PurePath,"),
    (Call(set, "abc"), "calls __builtin__.set"),
    (Call(frozenset, [], []), "calls __builtin__.frozenset"),
    ({(1, 2)}, "calls __builtin__.set"),
    ({frozenset({1})}, "calls __builtin__.set"),
    ({2**61 - 1}, "calls __builtin__.set"),
    (defaultdict(OrderedDict), "calls collections.defaultdict"),
    (defaultdict(Path), "mentions pathlib.*Path"),
    (Call(defaultdict, None, [(1, 2)]), "calls collections.defaultdict"),
    (Call(list, "abc"), "calls __builtin__.list"),
    (Call(SCALAR, np.dtype("O"), b"\1" * 8), "calls numpy.dtype"),
    (Call(SCALAR, np.dtype([("a", "f8")]), b"\1" * 8), "calls numpy.dtype"),
    (Call(SCALAR, np.dtype(("f8", (1 << 20,))), b"\1" * 8), "calls numpy.dtype|mentions numpy"),
    (Call(SCALAR, np.dtype("f8"), b"\1"), "calls numpy.*scalar"),
    (Call(SCALAR, np.dtype("f8"), b"\1" * 9), "calls _codecs.encode"),
    (Call(SCALAR, np.dtype("f8"), "a"), "calls numpy.*scalar"),
    (Call(SCALAR, np.dtype(">f8"), b"\1" * 8), "malformed"),
    (np.dtype("f8", metadata={"a": 1}), "malformed"),
    (np.dtype("f8"), "where only plain values are read"),
    (b"bytes", "a bytes at args.a"),
    (b"more bytes", "calls _codecs.encode"),
    (np.str_("a"), "calls numpy.dtype"),
    (1j, "mentions __builtin__.complex"),
    (torch.float8_e4m3fn, "mentions torch.float8_e4m3fn"),
]


@pytest.mark.parametrize("case", range(len(REFUSED)))
def test_abused_objects_are_refused(tmp_path: Path, case: int) -> None:
    value, complaint = REFUSED[case]
    with pytest.raises(ValueError, match=complaint) as caught:
        read_pickled(save(tmp_path, value))
    assert "Nothing in it was executed" in str(caught.value)
    assert len(str(caught.value)) < 500


def test_what_the_program_allows_under_the_same_names_does_not_matter(tmp_path: Path) -> None:
    file = save(tmp_path, [np.float64(1.5), PurePosixPath("x")])
    theirs = [np.dtype, type(np.dtype("f8")), PurePosixPath, (str, "numpy.dtype")]
    with torch.serialization.safe_globals(theirs):  # type: ignore[arg-type]
        before = set(torch.serialization.get_safe_globals())
        assert read_pickled(file).args["a"] == [1.5, "x"]
        assert set(torch.serialization.get_safe_globals()) == before
