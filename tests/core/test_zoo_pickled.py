"""Weight files from elsewhere are read lazily, and refused before anything in them can act."""

import argparse
import json
import os
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from radio_core.models.weight_files import read_safetensors
from radio_core.zoo import pickled
from radio_core.zoo.pickled import read_pickled

VALUES = torch.arange(6, dtype=torch.float32)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "model.pth.tar"


def save(path: Path, state: Mapping[str, object], **more: object) -> Path:
    torch.save({"state_dict": state, "args": argparse.Namespace(), **more}, path)
    return path


# ---- what is read


def test_every_released_format_is_read(shared: Path) -> None:
    cases = sorted((shared / "reference" / "golden").glob("*/checkpoint.pth.tar"))
    assert cases
    for path in cases:
        state, args = read_pickled(path)
        expected = json.loads((path.parent / "case.json").read_text())["args"]
        with torch.serialization.safe_globals([argparse.Namespace]):
            stored = torch.load(path, weights_only=True)
        if "state_dict_ema" in stored:
            expected |= {"spectral_reparam": False, "spectral_heads": False, "damp": None}
        assert json.loads(json.dumps(args, default=str)) == expected, path
        raw = stored.get("state_dict_ema", stored["state_dict"])
        assert list(state) == list(raw), path
        assert all(torch.equal(state[k], raw[k]) for k in raw), path


def test_module_states_and_nested_arguments_are_read(file: Path) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4)).bfloat16()
    module.register_buffer("empty", torch.zeros(0, 3))
    state = module.state_dict()  # an OrderedDict with an attribute of its own
    state |= {"turned": torch.randn(4, 6).t(), "part": torch.randn(9, 4)[2:5]}
    mean = (0.5, 0.4, 0.3)
    args = argparse.Namespace(
        a=argparse.Namespace(dtype=torch.float16, mean=mean),
        b=[{"mean": mean, 3: True}, OrderedDict(x=None)],
        c=-(10**30),
    )
    torch.save({"state_dict": state, "args": args}, file)
    found = read_pickled(file)
    for key, value in state.items():
        assert found.state[key].dtype == value.dtype
        assert torch.equal(found.state[key], value)
    assert found.args == {
        "a": {"dtype": torch.float16, "mean": mean},
        "b": [{"mean": mean, 3: True}, {"x": None}],
        "c": -(10**30),
    }


def test_averaged_weights_win_and_are_plain(file: Path) -> None:
    args = argparse.Namespace(spectral_reparam=True, damp=0.1, lr=0.5)
    save(file, {"w": VALUES}, state_dict_ema={"w": VALUES + 1}, args=args)
    state, found = read_pickled(file)
    assert torch.equal(state["w"], VALUES + 1)
    assert found == {"spectral_reparam": False, "spectral_heads": False, "damp": None, "lr": 0.5}


def test_weights_kept_as_parameters_are_read_as_tensors(file: Path) -> None:
    fixed = torch.nn.Parameter(VALUES.long(), requires_grad=False)
    averaged = {"w": torch.nn.Parameter(VALUES.bfloat16()), "fixed": fixed, "buffer": VALUES}
    state = read_pickled(save(file, {}, state_dict_ema=averaged)).state
    assert {type(value) for value in state.values()} == {torch.Tensor}
    assert not any(value.requires_grad for value in state.values())
    for key, value in averaged.items():
        assert state[key].dtype == value.dtype
        assert torch.equal(state[key], value)


@pytest.mark.parametrize("kind", [dict, OrderedDict])
def test_arguments_may_be_a_dict(file: Path, kind: Callable[..., object]) -> None:
    args = kind(lr=0.5, teachers=[argparse.Namespace(name="clip")])
    found = read_pickled(save(file, {"w": VALUES}, args=args)).args
    assert found == {"lr": 0.5, "teachers": [{"name": "clip"}]}


def test_wrapper_prefixes_are_removed_from_the_start_only(file: Path) -> None:
    names = ("module.a", "_orig_mod.module._orig_mod.b", "c.module.d", "modules.e")
    state = read_pickled(save(file, dict.fromkeys(names, VALUES))).state
    assert list(state) == ["a", "b", "c.module.d", "modules.e"]


def test_names_that_differ_only_by_a_wrapper_are_refused(file: Path) -> None:
    with pytest.raises(ValueError, match="a twice in state_dict"):
        read_pickled(save(file, {"a": VALUES, "module.a": VALUES}))


def test_the_tensors_stay_in_the_file(file: Path, tmp_path: Path) -> None:
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("the list of mapped files is Linux's")
    other = tmp_path / "model.safetensors"
    save_file({"w": VALUES}, other)
    kept = (
        read_pickled(save(file, {"w": VALUES.clone().requires_grad_()})).state,
        read_safetensors(other),
    )
    assert str(file) in maps.read_text()
    assert str(other) in maps.read_text()
    assert not any(state["w"].requires_grad for state in kept)


def test_torch_s_own_list_of_allowed_classes_is_left_as_it_was(file: Path) -> None:
    save(file, {"w": VALUES})
    before = set(torch.serialization.get_safe_globals())
    read_pickled(file)
    assert set(torch.serialization.get_safe_globals()) == before
    with torch.serialization.safe_globals([argparse.Namespace]):
        read_pickled(file)
        assert argparse.Namespace in torch.serialization.get_safe_globals()


# ---- what is no checkpoint


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ({"state_dict": {}}, "no 'args', only state_dict"),
        ({"args": argparse.Namespace()}, "no 'state_dict', only args"),
        ({"w": VALUES}, "no 'state_dict', only w"),
        ({"state_dict": [VALUES], "args": argparse.Namespace()}, "'state_dict' is a list"),
        ({"state_dict": {}, "args": []}, "'args' is a list"),
        ({"state_dict": {}, "args": {1: 2}}, "in args, the number 1 instead of a name"),
        ({"state_dict": {"w": {1}}, "args": {}}, "a set under the str w"),
        ({"state_dict": {"w": torch.Size([1])}, "args": {}}, "a Size under the str w"),
        ({"state_dict": {}, "args": {"a": torch.nn.Parameter(VALUES)}}, "a Parameter at args.a"),
        ({"state_dict": {"w": 1}, "args": argparse.Namespace()}, "a int under the str w"),
        ({"state_dict": {1: VALUES}, "args": argparse.Namespace()}, "under the int 1"),
        ({"state_dict": {}, "args": argparse.Namespace(a=[VALUES])}, r"a Tensor at args.a\[0\]"),
        ([VALUES], "holds a list"),
    ],
)
def test_the_missing_or_wrong_part_is_named(file: Path, content: object, complaint: str) -> None:
    torch.save(content, file)
    with pytest.raises(ValueError, match=complaint) as caught:
        read_pickled(file)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize("read", [read_pickled, read_safetensors])
@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git-lfs pointer"),
        (b"\xef\xbb\xbf \n<!DOCTYPE html><html></html>", "web page"),
        (b"<HTML>not found</HTML>", "web page"),
        (b"not found", "no safetensors file|not a zip file"),
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


@pytest.mark.parametrize("read", [read_pickled, read_safetensors])
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


def test_the_format_before_1_6_is_named(file: Path) -> None:
    torch.save({"w": VALUES}, file, _use_new_zipfile_serialization=False)
    with pytest.raises(ValueError, match="perhaps PyTorch's format before"):
        read_pickled(file)


@pytest.mark.parametrize("read", [read_pickled, read_safetensors])
def test_a_file_cut_short_anywhere_is_refused(file: Path, read: Callable[[Path], object]) -> None:
    if read is read_safetensors:
        save_file({"w": VALUES}, file)
    else:
        save(file, {"w": VALUES})
    whole = file.read_bytes()
    for length in {*range(0, len(whole), max(1, len(whole) // 50)), len(whole) - 1}:
        file.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="original source"):
            read(file)


@pytest.mark.parametrize(
    "value",
    [
        torch.eye(3).to_sparse(),
        torch.empty(3, device="meta"),
        torch.complex(VALUES, VALUES),
        torch.complex(VALUES, VALUES).conj(),
        torch.nn.UninitializedParameter(),
        VALUES.numpy(),
        np.str_("a"),
        np.datetime64("2024-01-01"),
        Fraction(1, 2),
        argparse.ArgumentTypeError(),
    ],
    ids=lambda value: f"{type(value).__name__}-{getattr(value, 'dtype', '')}",
)
def test_only_dense_tensors_and_plain_values_are_read(file: Path, value: object) -> None:
    for content in ({"w": value}, {"w": VALUES, "a": value}):
        with pytest.raises(ValueError, match=r"mentions|has a malformed|calls") as caught:
            read_pickled(save(file, content))
        assert "Nothing in it was executed" in str(caught.value)


def test_classes_allowed_elsewhere_in_the_program_are_not_allowed_here(file: Path) -> None:
    save(file, {"w": VALUES}, epoch=Fraction(1, 2))
    with (
        torch.serialization.safe_globals([Fraction]),
        pytest.raises(ValueError, match="mentions fractions"),
    ):
        read_pickled(file)


# ---- zip files that torch.save does not write


def test_a_zip_bomb_is_refused_unopened(file: Path) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"N.")
        archive.writestr("archive/data/0", bytes(1 << 24))
    with pytest.raises(ValueError, match="compressed"):
        read_pickled(file)


def test_entries_that_share_their_bytes_are_refused(file: Path) -> None:
    content = bytearray(save(file, {"w": VALUES}).read_bytes())
    entry = content.rindex(b"PK\x01\x02")
    for field in (20, 24):  # both sizes of the last entry in the directory
        content[entry + field : entry + field + 4] = len(content).to_bytes(4, "little")
    file.write_bytes(content)
    with pytest.raises(ValueError, match="declares more data"):
        read_pickled(file)


@pytest.mark.parametrize("name", ["model.pth/data.pkl", "model.pth/DATA.pkl"])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_second_pickle_beside_the_one_checked_is_refused(file: Path, name: str) -> None:
    save(file, {"w": VALUES})
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr(name, b"N.")
    with pytest.raises(ValueError, match="two entries of the same name"):
        read_pickled(file)


def test_a_second_folder_of_records_is_refused(file: Path) -> None:
    save(file, {"w": VALUES})
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("other/data.pkl", b"N.")
    with pytest.raises(ValueError, match="several folders"):
        read_pickled(file)


def test_a_second_archive_before_the_one_checked_is_refused(file: Path) -> None:
    hidden = save(file, {"hidden": VALUES}).read_bytes()
    file.write_bytes(hidden + save(file, {"w": VALUES}).read_bytes())
    with pytest.raises(ValueError, match="does not begin with its first entry"):
        read_pickled(file)


def test_a_pickle_that_torch_takes_for_a_directory_is_refused(file: Path) -> None:
    content = bytearray(save(file, {"w": VALUES}).read_bytes())
    content[content.index(b"PK\x01\x02") + 38] |= 0x10  # torch would read uninitialised memory
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"ambiguous data\.pkl|was not written by torch\.save"):
        read_pickled(file)


def test_other_zip_files_are_refused(file: Path) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("document/text", b"")
    with pytest.raises(ValueError, match=r"was not written by torch\.save"):
        read_pickled(file)
    with zipfile.ZipFile(file, "w"):
        pass
    with pytest.raises(ValueError, match=r"not a zip file written by torch\.save"):
        read_pickled(file)


@pytest.mark.parametrize(
    ("limit", "complaint"),
    [
        ("MAX_PICKLE_BYTES", "data.pkl of over 5 bytes"),
        ("MAX_ENTRIES", "more than 5"),
        ("MAX_ARGS_VALUES", "too many"),
        ("MAX_ARGS_DEPTH", "too deeply"),
    ],
)
def test_sizes_are_limited(
    file: Path, monkeypatch: pytest.MonkeyPatch, limit: str, complaint: str
) -> None:
    save(file, {"w": VALUES}, args=argparse.Namespace(a=[[[[[[0]]]]]]))
    read_pickled(file)
    monkeypatch.setattr(pickled, limit, 5)
    with pytest.raises(ValueError, match=complaint):
        read_pickled(file)


# ---- safetensors


def test_safetensors_are_read_in_their_dtypes(file: Path) -> None:
    stored = {"a": VALUES.bfloat16(), "b": VALUES.long(), "c": torch.zeros(0, 2), "d": VALUES[0]}
    save_file({k: v.clone() for k, v in stored.items()}, file)
    found = read_safetensors(file)
    assert found.keys() == stored.keys()
    for key, value in stored.items():
        assert found[key].dtype == value.dtype
        assert torch.equal(found[key], value)


@pytest.mark.parametrize(
    "header",
    [
        b"{",
        b"[" * 10_000,
        b'{"w":{"dtype":"F32","shape":[9],"data_offsets":[0,24]}}',
        b'{"w":{"dtype":"F32","shape":[6],"data_offsets":[0,240]}}',
        b'{"w":{"dtype":"F32","shape":[18446744073709551615,9],"data_offsets":[0,24]}}',
        b'{"w":{"dtype":"X32","shape":[6],"data_offsets":[0,24]}}',
    ],
)
def test_a_wrong_safetensors_header_is_refused(file: Path, header: bytes) -> None:
    file.write_bytes(len(header).to_bytes(8, "little") + header + bytes(24))
    with pytest.raises(ValueError, match="damaged or no safetensors file"):
        read_safetensors(file)
