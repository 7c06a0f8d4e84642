"""`radio score seg-miou` on folders of label maps."""

import json
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from radio_core.cli import main as radio
from radio_core.cli import parse
from radio_eval.cli.score import SegMiouOptions, seg_miou
from radio_eval.data.segmentation import read_label_map

Maps = Mapping[str, Any]


def write(folder: Path, maps: Maps) -> Path:
    """File name -> rows of classes, a picture, or the bytes of a file."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in maps.items():
        path = folder / name
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif isinstance(content, Image.Image):
            content.save(path)
        else:
            Image.fromarray(np.array(content, dtype=np.uint8)).save(path)
    return folder


def score(root: Path, predictions: Maps, labels: Maps, classes: int, *options: str) -> Any:
    """What the command writes."""
    folders = {"predictions": predictions, "labels": labels}
    flags = [f"--{name}={write(root / name, maps)}" for name, maps in folders.items()]
    out = root / "new" / "scores.json"
    flags += [f"--num-classes={classes}", f"--json={out}", *options]
    assert seg_miou(parse(SegMiouOptions, flags, prog="radio score seg-miou")) == 0
    return json.loads(out.read_text())


def test_the_reference_cases(shared: Path, tmp_path: Path) -> None:
    path = shared / "reference" / "eval_cases" / "seg_miou.json"
    cases = json.loads(path.read_text())["cases"]
    assert cases
    for case in cases:
        given, expected = case["input"], case["expected"]
        both = [
            {f"{n:03}.png": rows for n, rows in enumerate(given[kind])}
            for kind in ("preds", "labels")
        ]
        ignored = f"--ignore-index={given['ignore_index']}"
        folder = tmp_path / case["name"]
        result = score(folder, both[0], both[1], given["num_classes"], ignored)
        assert list(result) == ["mIoU", "aAcc", "mAcc", "IoU_per_class"]
        for name in result:
            assert result[name] == pytest.approx(expected[name], abs=1e-4), case["name"]


def test_what_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    maps = {"a.png": [[0, 0, 1, 1]]}
    assert score(tmp_path, maps, maps, 3)["IoU_per_class"] == [100, 100, None]
    printed = capsys.readouterr().out
    assert printed.startswith("mIoU: 100.0000\naAcc: 100.0000\nmAcc: 100.0000\n")
    assert "IoU_per_class: 100.0000, 100.0000, -\n" in printed


def test_reduce_zero_label_shifts_the_labels_alone(tmp_path: Path) -> None:
    labels = {"a.png": [[0, 1, 2, 255, 2]]}  # -> ignored, 0, 1, ignored, 1
    predictions = {"a.png": [[7, 0, 1, 255, 0]]}  # anything where the label is ignored
    result = score(tmp_path, predictions, labels, 2, "--reduce-zero-label")
    assert result["aAcc"] == pytest.approx(66.67)
    assert result["IoU_per_class"] == [50, 50]


def test_another_ignore_index(tmp_path: Path) -> None:
    labels, predictions = {"a.png": [[9, 0, 1]]}, {"a.png": [[1, 0, 1]]}
    assert score(tmp_path, predictions, labels, 2, "--ignore-index=9")["mIoU"] == 100
    shifted = {"a.png": [[0, 9, 1, 2]]}
    options = ("--ignore-index=9", "--reduce-zero-label")
    assert score(tmp_path, {"a.png": [[1, 1, 0, 1]]}, shifted, 2, *options)["mIoU"] == 100


def test_a_class_whose_number_is_the_ignored_label_still_counts(tmp_path: Path) -> None:
    labels, predictions = {"a.png": [[0, 1, 2, 1]]}, {"a.png": [[1, 0, 1, 1]]}
    options = ("--ignore-index=0", "--reduce-zero-label")
    assert score(tmp_path, predictions, labels, 2, *options)["IoU_per_class"] == [50, 50]


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_grey_pngs_of_few_bits_are_class_numbers(bits: int, tmp_path: Path) -> None:
    classes = list(range(2**bits))
    packed = int("".join(f"{c:0{bits}b}" for c in classes).ljust(8, "0"), 2)
    row = b"\0" + packed.to_bytes(max(1, len(classes) * bits // 8), "big")
    header = struct.pack(">IIBBBBB", len(classes), 1, bits, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(row)), (b"IEND", b""))
    path = tmp_path / "a.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
            for kind, data in chunks
        )
    )
    assert read_label_map(path).tolist() == [classes]


def test_palettes_and_16_bits_are_class_numbers(tmp_path: Path) -> None:
    palette = Image.fromarray(np.array([[0, 1, 43]], dtype=np.uint8)).convert("P")
    palette.putpalette(range(255, 255 - 3 * 64, -1))
    deep = Image.fromarray(np.array([[0, 1, 299]], dtype=np.uint16))
    assert score(tmp_path / "1", {"a.png": palette}, {"a.PNG": [[0, 1, 43]]}, 44)["mIoU"] == 100
    assert score(tmp_path / "2", {"a.png": deep}, {"a.png": deep}, 300)["mIoU"] == 100


GOOD: dict[str, Any] = {"a.png": [[0, 1]], "b.png": [[1, 1]]}
COLOUR = Image.new("RGB", (2, 1))
BROKEN: list[tuple[Maps, Maps, str]] = [
    (GOOD, {"a.png": [[0, 1]]}, r"1 of 2 files have no partner in .*labels .*predictions/b\.png"),
    ({"b.png": [[0, 1]]}, GOOD, r"1 of 2 files have no partner in .*predictions .*labels/a\.png"),
    (GOOD, {**GOOD, "b.png": [[1], [1]]}, r"predictions/b\.png against .*labels/b\.png: .*size"),
    ({**GOOD, "b.png": COLOUR}, GOOD, r"predictions/b\.png is a colour picture of 3 channels"),
    (GOOD, {**GOOD, "a.png": COLOUR}, r"labels/a\.png is a colour picture"),
    ({**GOOD, "a.png": [[0, 2]]}, GOOD, r"a\.png: prediction holds class 2; valid are 0 to 1$"),
    (GOOD, {**GOOD, "a.png": [[0, 3]]}, r"a\.png: label holds class 3; .* 255 \(ignored\)"),
    ({**GOOD, "a.png": b"no picture"}, GOOD, r"predictions/a\.png cannot be read"),
    ({**GOOD, "a.png": b""}, GOOD, r"predictions/a\.png cannot be read"),
    ({**GOOD, "a.PNG": [[0, 1]]}, GOOD, r"a\.PNG and .*a\.png have the same name"),
    ({"a.jpg": [[0, 1]]}, GOOD, "predictions holds no PNG files"),
    (GOOD, {"a.png": [[255, 255]], "b.png": [[255, 255]]}, "no pixel is labelled"),
]


@pytest.mark.parametrize(("predictions", "labels", "message"), BROKEN)
def test_bad_folders_are_refused(
    tmp_path: Path, predictions: Maps, labels: Maps, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        score(tmp_path, predictions, labels, 2)


def test_a_missing_folder_and_a_bad_number_of_classes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write(tmp_path / "labels", GOOD)
    for predictions, classes, message in (
        (tmp_path / "nowhere", 2, "nowhere: No such file"),
        (folder, 0, "must be from 1 to 4096"),
        (folder, 5000, "must be from 1 to 4096"),
    ):
        flags = [f"--predictions={predictions}", f"--labels={folder}", f"--num-classes={classes}"]
        assert radio(["score", "seg-miou", *flags]) == 1
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith("radio score")
        assert message in error
