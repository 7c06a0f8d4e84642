"""Weight files are read lazily, and nothing in a malicious one is executed."""

import argparse
import contextlib
import io
import os
import pickle
import random
import zipfile
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path, PosixPath, PurePosixPath, PureWindowsPath, WindowsPath
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from radio_core.models.weight_files import read_checkpoint, read_safetensors
from radio_core.zoo.official import read_official

VALUES = torch.arange(6, dtype=torch.float32)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "model.pth.tar"


class Call:
    """Pickled as the call of a function."""

    def __init__(self, function: Callable[..., Any], *arguments: object) -> None:
        self._call = (function, arguments)

    def __reduce__(self) -> Any:
        return self._call


# ---- pickles written by hand, as the instructions that an attacker would use


def text(value: str) -> bytes:
    return b"X" + len(value.encode()).to_bytes(4, "little") + value.encode()


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def data(value: object) -> bytes:
    """The instructions that build a value, without the pickle's beginning and end."""
    return pickle.dumps(value, 2)[2:-1]


NAMESPACE = name("argparse", "Namespace") + b")\x81"


def tensor(
    size: object = (2, 3),
    stride: object = (3, 1),
    *,
    offset: object = 0,
    key: str = "0",
    count: object = 6,
) -> bytes:
    reference = b"(" + text("storage") + name("torch", "FloatStorage") + text(key) + text("cpu")
    arguments = reference + data(count) + b"tQ" + data(offset) + data(size) + data(stride)
    arguments += b"\x89" + name("collections", "OrderedDict") + b")R"
    return name("torch._utils", "_rebuild_tensor_v2") + b"(" + arguments + b"tR"


def program(
    args: bytes = NAMESPACE, weights: bytes = b"}" + text("w") + tensor() + b"s", extra: bytes = b""
) -> bytes:
    """A checkpoint's pickle from the instructions that build its parts."""
    parts = text("args") + args + text("state_dict") + weights + extra
    return b"\x80\x02}(" + parts + b"u."


def write(path: Path, program: bytes) -> Path:
    """A file as torch.save writes it, with a storage of `VALUES`."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", program)
        archive.writestr("archive/byteorder", "little")
        archive.writestr("archive/data/0", VALUES.numpy().tobytes())
        archive.writestr("archive/version", "3\n")
    return path


class Naive(pickle.Unpickler):
    """An unpickler that trusts the file."""

    def persistent_load(self, _: object) -> torch.UntypedStorage:
        return VALUES.untyped_storage()


def _touch(marker: Path) -> Call:
    return Call(os.system, f"touch {marker}")


LIVE: dict[str, Callable[[Path], bytes]] = {
    "instead of everything": lambda m: pickle.dumps(_touch(m), 2),
    "in the arguments": lambda m: program(args=data(argparse.Namespace(a=_touch(m)))),
    "deep in the arguments": lambda m: program(args=data(argparse.Namespace(a=[{"b": _touch(m)}]))),
    "in place of the arguments": lambda m: program(args=data(_touch(m))),
    "in place of a tensor": lambda m: program(weights=data({"w": _touch(m)})),
    "as a key": lambda m: program(weights=data({_touch(m): 1})),
    "beside what is read": lambda m: program(weights=b"}", extra=text("epoch") + data(_touch(m))),
    "in a call": lambda m: program(args=data(argparse.Namespace(a=Call(str, _touch(m))))),
    "in an attribute": lambda m: program(args=NAMESPACE + data(_touch(m)) + b"b"),
    "in another protocol": lambda m: pickle.dumps({"args": _touch(m)}, 4),
    "in the first protocol": lambda m: pickle.dumps({"args": _touch(m)}, 0),
    "by the old instruction": lambda m: b"\x80\x02(" + text(f"touch {m}") + b"ios\nsystem\n.",
    "eval": lambda m: program(args=data(Call(eval, f"open({str(m)!r}, 'w')"))),
    "exec": lambda m: program(args=data(Call(exec, f"open({str(m)!r}, 'w')"))),
}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("where", LIVE)
def test_nothing_in_a_malicious_file_runs(
    file: Path, tmp_path: Path, where: str, zipped: bool
) -> None:
    marker = tmp_path / "marker"
    attack = LIVE[where](marker)
    if zipped:
        write(file, attack)
    else:
        file.write_bytes(attack)
    with pytest.raises(ValueError, match="Nothing in it was executed") as caught:
        read_checkpoint(file)
    assert not marker.exists()
    assert "weights_only" not in str(caught.value)
    assert caught.value.__cause__ is None
    with contextlib.suppress(Exception):  # the attack is real: plain pickle falls for it
        Naive(io.BytesIO(attack)).load()
    assert marker.exists()


REFUSED: dict[str, tuple[bytes, str]] = {
    # name -> pickle, complaint
    "a function by its torch path": (
        program(args=name("torch.serialization", "os.system")),
        "asks for torch.serialization.os.system",
    ),
    "an importer of torch": (
        program(args=name("torch._utils", "_import_dotted_name") + text("os") + b"\x85R"),
        "_import_dotted_name",
    ),
    "getattr": (program(args=data(Call(getattr, "a", "upper"))), "getattr"),
    "a function as a value": (program(args=data(argparse.Namespace(a=os.system))), "system"),
    "a class of its own": (program(args=name("mine", "Thing") + b")\x81"), "mine.Thing"),
    "a call of text": (program(args=text("os.system") + b")R"), "damaged"),
    "items set on a tensor": (program(args=tensor() + data(10**6) + data(1) + b"s"), "damaged"),
    "an unknown instruction": (b"\x80\x02\xff.", "damaged"),
    "an empty stack": (b"\x80\x02b.", "damaged"),
    "a storage that is not there": (program(args=tensor(key="9")), "damaged"),
    "too large a shape": (program(args=tensor((3, 3))), "damaged"),
    "strides that leave the storage": (program(args=tensor((2, 2), (5, 1))), "damaged"),
    "an offset that leaves the storage": (program(args=tensor(offset=1)), "damaged"),
    "a number in the other byte order": (
        program(args=data(np.float64(1.5)).replace(b"X\x01\x00\x00\x00<", b"X\x01\x00\x00\x00>")),
        "damaged",
    ),
    "the contents of a folder": (program(args=name("os", "listdir") + data(("/",)) + b"R"), "list"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_no_checkpoint_needs_is_refused(file: Path, what: str) -> None:
    content, complaint = REFUSED[what]
    with pytest.raises(ValueError, match=complaint) as caught:
        read_checkpoint(write(file, content))
    assert len(str(caught.value)) < 500 + len(str(file))


@pytest.mark.parametrize(
    "value",
    [
        VALUES.numpy(),
        np.str_("a"),
        np.datetime64("2024-01-01"),
        Fraction(1, 2),
        argparse.ArgumentTypeError(),
        defaultdict(Path),
    ],
    ids=lambda value: f"{type(value).__name__}-{getattr(value, 'dtype', '')}",
)
def test_only_tensors_and_plain_values_are_read(file: Path, value: object) -> None:
    for content in ({"w": value}, {"w": VALUES, "a": value}):
        torch.save(content, file)
        with pytest.raises(ValueError, match="Nothing in it was executed"):
            read_checkpoint(file)


def test_any_changed_byte_of_the_pickle_is_read_or_refused(file: Path) -> None:
    rng = random.Random(0)
    original = program(args=data(argparse.Namespace(a=[1, "b"], c=(2.0, None))))
    read_official(write(file, original))
    refused = 0
    for _ in range(200):
        changed = bytearray(original)
        for _ in range(rng.randint(1, 3)):
            changed[rng.randrange(len(changed))] = rng.randrange(256)
        try:
            read_official(write(file, bytes(changed)))
        except ValueError:
            refused += 1
    assert 0 < refused < 200


# ---- what is read

SCALAR: Any = np.float64(0).__reduce__()[0]
READ: list[tuple[object, object]] = [
    # a value, as what it is read among the arguments
    (torch.device("cuda", 3), "cuda:3"),
    (torch.Size([2, 3]), (2, 3)),
    (Path("data/train"), str(Path("data/train"))),
    (PureWindowsPath("C:/data/train"), "C:\\data\\train"),
    (Call(PosixPath, "/", "data"), "/data"),
    (Call(WindowsPath, "C:\\", "data"), "C:\\data"),
    ({"a", 1, 2.5, None}, {"a", 1, 2.5, None}),
    (frozenset({"a"}), frozenset({"a"})),
    (defaultdict(list, a=[1]), {"a": [1]}),
    (defaultdict(None, {1: 2}), {1: 2}),
    (np.float64(1.5), 1.5),
    (np.float16(0.5), 0.5),
    (np.int64(-3), -3),
    (np.uint8(200), 200),
    (np.bool_(True), True),
]


@pytest.mark.parametrize(("value", "expected"), READ, ids=lambda value: type(value).__name__)
def test_harmless_objects_become_plain_values(file: Path, value: object, expected: object) -> None:
    args = argparse.Namespace(a=value, b=[{"c": (value, value)}], d=argparse.Namespace(e=value))
    torch.save({"state_dict": {"w": torch.ones(1)}, "args": args, "epoch": value}, file)
    found = read_official(file).args
    assert found == {"a": expected, "b": [{"c": (expected, expected)}], "d": {"e": expected}}
    assert type(found["a"]) is type(expected)


def test_names_of_other_versions_are_known(file: Path) -> None:
    path = name("pathlib._local", "PosixPath") + data(("a", "b")) + b"R"
    scalar = data(np.float64(1.5)).replace(b"numpy._core", b"numpy.core")
    assert b"numpy.core" in scalar
    for value, wanted in ((path, PurePosixPath("a/b")), (scalar, 1.5)):
        assert read_checkpoint(write(file, program(args=value)))["args"] == wanted


def test_tensors_of_every_kind_come_back(file: Path) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4)).bfloat16()
    module.register_buffer("empty", torch.zeros(0, 3))
    state = module.state_dict()  # an OrderedDict with an attribute of its own
    state |= {"turned": torch.randn(4, 6).t(), "part": torch.randn(9, 4)[2:5]}
    for zipped in (True, False):  # PyTorch's format since 1.6, and the one before
        torch.save(state, file, _use_new_zipfile_serialization=zipped)
        found = read_checkpoint(file)
        for key, value in state.items():
            assert found[key].dtype == value.dtype
            assert torch.equal(found[key], value)


def test_the_tensors_stay_in_the_file(file: Path, tmp_path: Path) -> None:
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("the list of mapped files is Linux's")
    other = tmp_path / "model.safetensors"
    save_file({"w": VALUES}, other)
    torch.save({"w": VALUES}, file)
    kept = read_checkpoint(file), read_checkpoint(other)
    assert str(file) in maps.read_text()
    assert str(other) in maps.read_text()
    assert all(torch.equal(found["w"], VALUES) for found in kept)


def test_the_programs_own_list_of_allowed_classes_neither_matters_nor_changes(file: Path) -> None:
    torch.save({"n": np.float64(1.5), "a": argparse.Namespace(p=PurePosixPath("x"))}, file)
    theirs: list[Any] = [np.dtype, type(np.dtype("f8")), argparse.Namespace, Fraction]
    with torch.serialization.safe_globals(theirs):
        before = set(torch.serialization.get_safe_globals())
        assert read_checkpoint(file)["n"] == 1.5
        assert set(torch.serialization.get_safe_globals()) == before
        torch.save({"w": Fraction(1, 2)}, file)
        with pytest.raises(ValueError, match=r"asks for fractions\.Fraction"):
            read_checkpoint(file)


# ---- what is no weight file

BOTH = pytest.mark.parametrize("read", [read_checkpoint, read_safetensors])


@BOTH
@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git-lfs pointer"),
        (b"\xef\xbb\xbf \n<!DOCTYPE html><html></html>", "web page"),
        (b"<HTML>not found</HTML>", "web page"),
        (b"not found", "is damaged"),
    ],
)
def test_what_came_instead_of_the_weights_is_named(
    file: Path, read: Callable[[Path], object], content: bytes, complaint: str
) -> None:
    file.write_bytes(content)
    with pytest.raises(ValueError, match=complaint) as caught:
        read(file)
    assert str(file) in str(caught.value)
    assert "original source" in str(caught.value)


@BOTH
def test_only_existing_regular_files_are_opened(
    tmp_path: Path, read: Callable[[Path], object]
) -> None:
    with pytest.raises(FileNotFoundError, match="no such file"):
        read(tmp_path / "absent")
    with pytest.raises(ValueError, match="is a directory"):
        read(tmp_path)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(ValueError, match="not a regular file"):
            read(tmp_path / "pipe")


@BOTH
def test_a_file_cut_short_anywhere_is_refused(file: Path, read: Callable[[Path], object]) -> None:
    if read is read_safetensors:
        save_file({"w": VALUES}, file)
    else:
        torch.save({"w": VALUES}, file)
    whole = file.read_bytes()
    for length in {*range(0, len(whole), max(1, len(whole) // 20)), len(whole) - 1}:
        file.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="original source"):
            read(file)


def test_zip_files_that_would_grow_are_refused(file: Path) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"N.")
        archive.writestr("archive/data/0", bytes(1 << 24))
    with pytest.raises(ValueError, match="compressed"):
        read_checkpoint(file)
    torch.save({"w": VALUES}, file)
    content = bytearray(file.read_bytes())
    entry = content.rindex(b"PK\x01\x02")
    for field in (20, 24):  # both sizes of the last entry in the directory
        content[entry + field : entry + field + 4] = len(content).to_bytes(4, "little")
    file.write_bytes(content)
    with pytest.raises(ValueError, match="declares more data"):
        read_checkpoint(file)
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("document/text", b"")
    with pytest.raises(ValueError, match="is damaged"):
        read_checkpoint(file)


@pytest.mark.parametrize(
    "header",
    [
        b"{",
        b"[" * 10_000,
        b'{"w":{"dtype":"F32","shape":[9],"data_offsets":[0,24]}}',
        b'{"w":{"dtype":"F32","shape":[18446744073709551615,9],"data_offsets":[0,24]}}',
        b'{"w":{"dtype":"X32","shape":[6],"data_offsets":[0,24]}}',
    ],
)
def test_a_wrong_safetensors_header_is_refused(file: Path, header: bytes) -> None:
    file.write_bytes(len(header).to_bytes(8, "little") + header + bytes(24))
    with pytest.raises(ValueError, match="damaged or no safetensors file"):
        read_safetensors(file)


# ---- official checkpoints: a state dict and arguments


def save(path: Path, state: object, **more: object) -> Path:
    torch.save({"state_dict": state, "args": argparse.Namespace(), **more}, path)
    return path


def test_averaged_weights_win_and_are_plain_tensors(file: Path) -> None:
    args = OrderedDict(spectral_reparam=True, damp=0.1, lr=[argparse.Namespace(a=0.5)])
    averaged = {"w": torch.nn.Parameter(VALUES.bfloat16()), "module.buffer": VALUES.long()}
    state, found = read_official(save(file, {"w": VALUES}, state_dict_ema=averaged, args=args))
    assert {type(value) for value in state.values()} == {torch.Tensor}
    assert not any(value.requires_grad for value in state.values())
    assert torch.equal(state["w"], VALUES.bfloat16())
    assert torch.equal(state["buffer"], VALUES.long())
    assert found == {"spectral_reparam": False, "spectral_heads": False, "damp": None} | {
        "lr": [{"a": 0.5}]
    }


def test_wrapper_prefixes_are_removed_from_the_start_only(file: Path) -> None:
    names = ("module.a", "_orig_mod.module._orig_mod.b", "c.module.d", "modules.e")
    state = read_official(save(file, dict.fromkeys(names, VALUES))).state
    assert list(state) == ["a", "b", "c.module.d", "modules.e"]
    with pytest.raises(ValueError, match="a twice in state_dict"):
        read_official(save(file, {"a": VALUES, "module.a": VALUES}))


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ({"state_dict": {}}, "no 'args', only state_dict"),
        ({"args": argparse.Namespace()}, "no 'state_dict', only args"),
        ({"w": VALUES}, "no 'state_dict', only w"),
        ({"state_dict": [VALUES], "args": argparse.Namespace()}, "'state_dict' is a list"),
        ({"state_dict": {}, "args": []}, "'args' is a list"),
        ({"state_dict": {}, "args": {1: 2}}, "args has a number instead of a name"),
        ({"state_dict": {"w": {1}}, "args": {}}, "a set under the str w"),
        ({"state_dict": {}, "args": {"a": torch.nn.Parameter(VALUES)}}, "a Parameter at args.a"),
        ({"state_dict": {1: VALUES}, "args": argparse.Namespace()}, "under the int 1"),
        ({"state_dict": {}, "args": argparse.Namespace(a=[VALUES])}, r"a Tensor at args.a\[0\]"),
        ({"state_dict": {"w": VALUES[:1].expand(1 << 40)}, "args": {}}, "more values than"),
        ([VALUES], "holds a list"),
    ],
)
def test_the_missing_or_wrong_part_is_named(file: Path, content: object, complaint: str) -> None:
    torch.save(content, file)
    with pytest.raises(ValueError, match=complaint) as caught:
        read_official(file)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize(
    "nested",
    [
        b"]" * 500 + b"a" * 499,
        b")" + b"\x85" * 500,
        b"]q\x01h\x01a",
        b"(]q\x01" + b"]h\x01ah\x01aq\x01" * 30 + b"t",
        b")" + b"q\x01h\x01\x86" * 30,
    ],
    ids=["lists", "tuples", "a list in itself", "two to the 30 lists", "two to the 30 tuples"],
)
def test_endless_arguments_are_refused(file: Path, nested: bytes) -> None:
    args = NAMESPACE + b"}(" + text("a") + nested + b"ub"
    with pytest.raises(ValueError, match="too many or too deeply nested values at"):
        read_official(write(file, program(args=args)))
