"""Whatever a checkpoint's pickle asks for beyond tensors and plain values is refused, not done.

The pickles are written by hand, as the instructions that an attacker would use.
"""

import argparse
import contextlib
import io
import os
import pickle
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from radio_core.zoo import dry_run, pickled
from radio_core.zoo.pickled import read_pickled

VALUES = torch.arange(6, dtype=torch.float32)


def text(value: str) -> bytes:
    return b"X" + len(value.encode()).to_bytes(4, "little") + value.encode()


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def data(value: object) -> bytes:
    """The instructions that build a value, without the pickle's beginning and end."""
    return pickle.dumps(value, 2)[2:-1]


ORDERED = name("collections", "OrderedDict") + b")R"
NAMESPACE = name("argparse", "Namespace") + b")\x81"


def namespace(**fields: bytes) -> bytes:
    return NAMESPACE + b"}(" + b"".join(text(k) + v for k, v in fields.items()) + b"ub"


def tensor(
    size: object = (2, 3),
    stride: object = (3, 1),
    *,
    offset: object = 0,
    storage: bytes = name("torch", "FloatStorage"),
    key: str = "0",
    count: object = 6,
    hooks: bytes = ORDERED,
) -> bytes:
    reference = b"(" + text("storage") + storage + text(key) + text("cpu") + data(count) + b"tQ"
    arguments = reference + data(offset) + data(size) + data(stride) + b"\x89" + hooks
    return name("torch._utils", "_rebuild_tensor_v2") + b"(" + arguments + b"tR"


def parameter(data: bytes, requires_grad: object = True, hooks: bytes = ORDERED) -> bytes:
    arguments = data + pickle.dumps(requires_grad, 2)[2:-1] + hooks
    return name("torch._utils", "_rebuild_parameter") + b"(" + arguments + b"tR"


def number(order: str = "<", *more: object, module: str = "numpy._core.multiarray") -> bytes:
    """The numpy scalar 1.5."""
    kind = name("numpy", "dtype") + data(("f8", False, True)) + b"R"
    state = data((3, order, None, None, None, -1, -1, 0, *more)) + b"b"
    raw = name("_codecs", "encode") + data(("\0\0\0\0\0\0\u00f8?", "latin1")) + b"R"
    return name(module, "scalar") + kind + state + raw + b"\x86R"


DEVICE = name("torch", "device") + data(("cpu",)) + b"R"
PATH = name("pathlib", "PosixPath") + data(("a", "b")) + b"R"
SET = name("__builtin__", "set")


def program(
    args: bytes = NAMESPACE, weights: bytes = b"}" + text("w") + tensor() + b"s", extra: bytes = b""
) -> bytes:
    """A checkpoint's pickle from the instructions that build its parts."""
    parts = text("args") + args + text("state_dict") + weights + extra
    return b"\x80\x02}(" + parts + b"u."


def write(path: Path, program: bytes, **entries: bytes) -> Path:
    """A file as torch.save writes it, with a storage of `VALUES`."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", program)
        archive.writestr("archive/byteorder", "little")
        archive.writestr("archive/data/0", VALUES.numpy().tobytes())
        archive.writestr("archive/version", "3\n")
        for entry, content in entries.items():
            archive.writestr(f"archive/{entry}", content)
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "model.pth.tar"


# ---- what tries to act


class Call:
    """Pickled as the call of a function."""

    def __init__(self, function: Callable[..., Any], *arguments: object) -> None:
        self._call = (function, arguments)

    def __reduce__(self) -> Any:
        return self._call


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


@pytest.mark.parametrize("where", LIVE)
def test_nothing_in_a_malicious_file_runs(file: Path, tmp_path: Path, where: str) -> None:
    marker = tmp_path / "marker"
    attack = LIVE[where](marker)
    write(file, attack)
    with pytest.raises(ValueError, match="Nothing in it was executed") as caught:
        read_pickled(file)
    assert not marker.exists()
    assert "weights_only" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    with contextlib.suppress(Exception):  # the attack is real: plain pickle falls for it
        Naive(io.BytesIO(attack)).load()
    assert marker.exists()


FLOAT = name("torch", "FloatTensor")
REFUSED: dict[str, tuple[bytes, str]] = {
    # name -> pickle, complaint
    "a function by its torch path": (
        program(args=namespace(a=name("torch.serialization", "os.system"))),
        "mentions torch.serialization.os.system",
    ),
    "an importer of torch": (
        program(args=name("torch._utils", "_import_dotted_name") + text("os") + b"\x85R"),
        "_import_dotted_name",
    ),
    "getattr": (program(args=data(Call(getattr, "a", "upper"))), "getattr"),
    "a function as a value": (program(args=data(argparse.Namespace(a=os.system))), "system"),
    "a class of its own": (
        program(args=namespace(a=name("mine", "Thing") + b")\x81")),
        "mine.Thing",
    ),
    "an allowed class as a value": (
        program(args=namespace(__setstate__=name("collections", "OrderedDict"))),
        "holds collections.OrderedDict as a value",
    ),
    "a name in two words": (program(args=name("argparse Namespace", "")), "mentions"),
    "a storage class made an object": (
        program(args=name("torch", "FloatStorage") + b")\x81"),
        "creates an object of torch.FloatStorage",
    ),
    "a quantized tensor": (
        program(args=name("torch._utils", "_rebuild_qtensor") + b")R"),
        "_rebuild_qtensor",
    ),
    "a tensor of another class": (
        program(args=name("torch._tensor", "_rebuild_from_type_v2") + b")R"),
        "_rebuild_from_type_v2",
    ),
    "much memory as bytes": (program(args=data(Call(bytearray, 1 << 44))), "bytearray"),
    "much memory as a tensor": (program(args=FLOAT + data((1 << 44,)) + b"R"), "FloatTensor"),
    "a call of a dtype": (program(args=name("torch", "float32") + b")R"), "calls torch.float32"),
    "a call of text": (program(args=text("os.system") + b")R"), "no known class or function"),
    "an ordered dict of pairs": (
        program(args=name("collections", "OrderedDict") + data(([],)) + b"R"),
        "calls collections.OrderedDict in a way",
    ),
    "items set on a tensor": (program(args=tensor() + data(10**6) + data(1) + b"s"), "malformed"),
    "items set on a list": (program(args=b"]" + data(0) + data(1) + b"s"), "malformed"),
    "an item appended to a dict": (program(args=b"}" + data(1) + b"a"), "malformed"),
    "a state given to a tensor": (program(args=tensor() + b"}b"), "malformed"),
    "slots given to a namespace": (program(args=NAMESPACE + b"}}\x86b"), "malformed"),
    "a key that takes for ever to hash": (
        program(args=b"}" + b")" + b"q\x01h\x01\x86" * 60 + b"Ns"),
        "keys other than",
    ),
    "a key that crashes hashing": (
        program(args=b"}" + b")" + b"\x85" * 200_000 + b"Ns"),
        "keys other than",
    ),
    "a value that was never stored": (program(args=b"h\x63"), "malformed"),
    "an empty stack": (b"\x80\x02b.", "malformed"),
    "no end": (program()[:-1], "malformed"),
    "another protocol": (b"\x80\x04" + program()[2:], "protocol 4"),
    "an unknown instruction": (b"\x80\x02\xff.", "malformed"),
    "a storage that is not there": (program(args=tensor(key="9")), "no such record"),
    "a storage outside of its folder": (program(args=tensor(key="../version")), "no such record"),
    "a storage larger than its record": (program(args=tensor(count=7)), "has 28 bytes, but it has"),
    "a storage of negative size": (program(args=tensor(count=-6)), "-24 bytes"),
    "a storage of an unknown class": (program(args=tensor(storage=text("F"))), "malformed"),
    "too large a shape": (program(args=tensor((3, 3))), r"shape \(3, 3\)"),
    "an expanded tensor": (program(args=tensor((1 << 40,), (0,))), "stores only 24 bytes"),
    "strides that leave the storage": (program(args=tensor((2, 2), (5, 1))), "stores only"),
    "an offset that leaves the storage": (program(args=tensor(offset=1)), "offset 1"),
    "a negative offset": (program(args=tensor(offset=-1)), "malformed"),
    "negative sizes": (program(args=tensor((-2, -3))), "malformed"),
    "a size that overflows": (program(args=tensor((1 << 64, 0))), "malformed"),
    "fewer strides than sizes": (program(args=tensor((2, 3), (1,))), "malformed"),
    "sizes that are no numbers": (program(args=tensor(("2", "3"))), "malformed"),
    "hooks": (program(args=tensor(hooks=b"]")), "malformed"),
    "keys of the same hash": (program(args=data({2**61 - 1: 0})), "whole numbers below"),
    "a method of unpickling": (program(args=namespace(__setstate__=b"N")), "key __setstate__"),
    **{
        f"a parameter {what}": (program(weights=b"}" + text("w") + value + b"s"), "_parameter")
        for what, value in {
            "of text": parameter(text("w")),
            "of a parameter": parameter(parameter(tensor())),
            "of a storage class": parameter(name("torch", "FloatStorage")),
            "of a list": parameter(b"]"),
            "that may need a gradient": parameter(tensor(), requires_grad="yes"),
            "with hooks": parameter(tensor(), hooks=b"]"),
            "without hooks": parameter(tensor(), hooks=b""),
            "with a state": name("torch._utils", "_rebuild_parameter_with_state") + b")R",
        }.items()
    },
    "a parameter of too large a tensor": (program(args=parameter(tensor((3, 3)))), "stores only"),
    "a parameter's class, made new": (
        program(args=name("torch.nn.parameter", "Parameter") + b")\x81"),
        "creates an object of torch.nn.parameter.Parameter",
    ),
    "items set on a parameter": (program(args=parameter(tensor()) + data(1) * 2 + b"s"), "malf"),
    "a state given to a device": (program(args=DEVICE + b"}b"), "malformed"),
    "a state given to a path": (program(args=PATH + b"}b"), "malformed"),
    "a path made new": (
        program(args=name("pathlib", "PosixPath") + b")\x81"),
        "creates an object of pathlib.PosixPath",
    ),
    "a path of a class": (
        program(args=name("pathlib", "PosixPath") * 2 + b"\x85R"),
        "calls pathlib.PosixPath",
    ),
    "a set that takes for ever to hash": (
        program(args=SET + b"])" + b"q\x01h\x01\x86" * 60 + b"a\x85R"),
        "calls __builtin__.set",
    ),
    "many sets of one list": (
        program(args=namespace(a=b"(]q\x01K\x01a" + (SET + b"h\x01\x85R") * 2 + b"t")),
        "calls __builtin__.set",
    ),
    "an item appended to a set": (program(args=SET + b"]\x85RK\x01a"), "malformed"),
    "a factory as a value": (
        program(args=namespace(a=name("__builtin__", "dict"))),
        "holds __builtin__.dict as a value",
    ),
    "a type of numbers in the other order": (program(args=number(">")), "malformed"),
    "a type of numbers with more in it": (program(args=number("<", 64, {})), "malformed"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_no_checkpoint_needs_is_refused_before_torch_sees_it(
    file: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    content, complaint = REFUSED[what]
    monkeypatch.setattr(pickled, "_load", lambda _: pytest.fail("torch was asked"))
    with pytest.raises(ValueError, match=complaint) as caught:
        read_pickled(write(file, content))
    assert len(str(caught.value)) < 500 + len(str(file))


def test_the_handmade_file_of_these_attacks_is_readable_without_one(file: Path) -> None:
    state, args = read_pickled(write(file, program(args=namespace(a=data(1)))))
    assert torch.equal(state["w"], VALUES.view(2, 3))
    assert args == {"a": 1}


def test_names_of_other_versions_are_known(file: Path) -> None:
    local = PATH.replace(b"pathlib", b"pathlib._local")
    old, new = number(module="numpy.core.multiarray"), number()
    wrapped = name("torch.nn.parameter", "Parameter") + b"(" + tensor() + b"\x88tR"
    content = program(
        namespace(a=local, b=local.replace(b"Posix", b"Windows"), c=old, d=new),
        weights=b"}" + text("w") + wrapped + b"s",
    )
    state, args = read_pickled(write(file, content))
    assert args == {"a": "a/b", "b": "a\\b", "c": 1.5, "d": 1.5}
    assert type(state["w"]) is torch.Tensor
    assert torch.equal(state["w"], VALUES.view(2, 3))


@pytest.mark.filterwarnings("ignore:invalid escape sequence:DeprecationWarning")
def test_any_changed_byte_of_the_pickle_is_read_or_refused(file: Path) -> None:
    rng = random.Random(0)
    original = program(args=data(argparse.Namespace(a=[1, "b"], c=(2.0, None))))
    read_pickled(write(file, original))
    refused = 0
    for _ in range(400):
        changed = bytearray(original)
        for _ in range(rng.randint(1, 3)):
            changed[rng.randrange(len(changed))] = rng.randrange(256)
        try:
            read_pickled(write(file, bytes(changed)))
        except ValueError:
            refused += 1
    assert 0 < refused < 400


# ---- what tries to exhaust


NESTED: dict[str, bytes] = {
    "lists": b"]" * 50_000 + b"a" * 49_999,
    "tuples": b")" + b"\x85" * 50_000,
    "dicts": (b"}" + text("k")) * 50_000 + b"N" + b"s" * 50_000,
    "namespaces": (NAMESPACE + b"}" + text("k")) * 1_000 + b"N" + b"sb" * 1_000,
    "a list in itself": b"]q\x01h\x01a",
    "two to the 30 lists": b"(]q\x01" + b"]h\x01ah\x01aq\x01" * 30 + b"t",
    "two to the 30 tuples": b")" + b"q\x01h\x01\x86" * 30,
}


@pytest.mark.parametrize("what", NESTED)
def test_endless_arguments_are_refused_and_elsewhere_ignored(file: Path, what: str) -> None:
    write(file, program(args=namespace(a=NESTED[what])))
    with pytest.raises(ValueError, match="too many or too deeply nested values at"):
        read_pickled(file)
    write(file, program(extra=text("epoch") + NESTED[what]))
    assert torch.equal(read_pickled(file).state["w"], VALUES.view(2, 3))


@pytest.mark.parametrize(
    ("limit", "complaint"),
    [("MAX_INSTRUCTIONS", "over 3 instructions"), ("MAX_CALLS", "over 3 calls")],
)
def test_the_work_of_building_is_limited(
    file: Path, monkeypatch: pytest.MonkeyPatch, limit: str, complaint: str
) -> None:
    monkeypatch.setattr(dry_run, limit, 3)
    with pytest.raises(ValueError, match=complaint):
        read_pickled(write(file, program(args=namespace(a=ORDERED))))
