"""What reports show: confusion of classes, small pictures, scores; and that texts stay texts."""

import io
import shutil
import tarfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from PIL import Image

from radio_eval.data.classification import read_splits
from radio_eval.report.page import picture_uri
from radio_eval.report.pictures import choose_rows, read_thumbnails, thumbnail
from radio_eval.tasks.knn import confused_pairs
from radio_eval.tasks.zero_shot import zero_shot_sections

pytest.importorskip("matplotlib", reason="needs the extra 'eval'")


def test_photos_are_jpeg_and_drawings_are_png() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (128, 128, 3)).astype(np.uint8)
    assert picture_uri(noise).startswith("data:image/jpeg;base64,")
    assert picture_uri(noise // 128 * 128).startswith("data:image/png;base64,")
    assert thumbnail(Image.fromarray(noise), 16).shape == (16, 16, 3)
    assert thumbnail(noise[:2], 200).shape == (2, 128, 3)


def test_rows_are_half_right_and_half_wrong_as_far_as_there_are_such() -> None:
    hits = torch.arange(100) % 2 == 0
    rows = choose_rows(hits, 8)
    assert hits[rows].tolist() == [True] * 4 + [False] * 4
    assert rows == choose_rows(hits, 8)
    hits = torch.arange(100) == 50
    assert hits[choose_rows(hits, 8)].tolist() == [True] + [False] * 7
    assert hits[choose_rows(~hits, 8)].tolist() == [False] * 7 + [True]
    assert sorted(choose_rows(hits[48:52], 8)) == [0, 1, 2, 3]
    assert choose_rows(hits[:0], 8) == []


def jpeg(colour: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (20, 10), (colour, 0, 0)).save(buffer, "JPEG")
    return buffer.getvalue()


def write_shard(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def test_pictures_come_from_tar_shards_too(tmp_path: Path) -> None:
    (tmp_path / "classnames.json").write_text('["a", "b"]')
    first, second = tmp_path / "val-0.tar", tmp_path / "val-1.tar"
    write_shard(first, {"x.jpg": jpeg(200), "x.cls": b"0", "y.jpg": b"broken", "y.cls": b"0"})
    write_shard(second, {"x.jpg": jpeg(90), "x.cls": b"1", "z.jpg": jpeg(10), "z.cls": b"1"})
    val = read_splits(tmp_path, ("val",))["val"]
    names = [f"{first}/x", f"{first}/y", f"{second}/x", f"{second}/nowhere"]
    found = read_thumbnails(val, names)
    assert set(found) == {names[0], names[2]}
    assert [int(found[name][0, 0, 0]) // 10 for name in (names[0], names[2])] == [20, 9]
    second.write_bytes(second.read_bytes()[:600])
    assert set(read_thumbnails(val, names)) == {names[0]}
    first.unlink()
    assert read_thumbnails(val, names) == {}


def test_images_that_are_gone_leave_a_gap(
    toy: Path, tmp_path: Path, check: Any, page: Any, hostile: str
) -> None:
    data = tmp_path / hostile.replace("/", "")
    shutil.copytree(toy / "classification", data)
    val = read_splits(data, ("val",))["val"]
    items = [item for block in val.blocks(5) for item in block.items()]
    Path(items[0].name).unlink()
    labels = torch.tensor([item.label for item in items])
    val_rows = SimpleNamespace(labels=labels, name=lambda row: items[row].name)
    predicted = (labels + 1) % len(val.class_names)
    [_, pairs] = zero_shot_sections(val, val_rows, predicted[:, None])  # type: ignore[arg-type]
    gone = {card.lead.name for card in pairs.cards if card.lead and card.lead.pixels is None}
    assert gone == {items[0].name}
    assert "no picture" in check(page(pairs).html()).text


def test_the_worst_pairs_come_first(toy: Path) -> None:
    labels, predicted = torch.tensor([0, 0, 0, 0, 1, 2]), torch.tensor([0, 2, 2, 1, 1, 1])
    data = read_splits(toy / "classification", ("val",))["val"]
    rows: Any = SimpleNamespace(labels=labels, name=str)
    pairs = confused_pairs(data, ["a", "b", "c", "d"], rows, predicted)
    found = [(c.title, *(line.text or line.note for line in c.lines)) for c in pairs.cards]
    assert found == [
        ("a", "→ c", "2 of 4 images"),
        ("c", "→ b", "1 of 1 images"),
        ("a", "→ b", "1 of 4 images"),
    ]
    assert [card.lead and card.lead.name for card in pairs.cards] == ["1", "5", "3"]


def test_many_classes_have_their_extremes() -> None:
    labels = torch.arange(600) % 150
    predicted = torch.where(torch.arange(600) < 60, (labels + 1) % 150, labels)
    data: Any = SimpleNamespace(class_names=[f"class {label}" for label in range(200)])
    rows: Any = SimpleNamespace(labels=labels, name=str)
    with patch("radio_eval.tasks.zero_shot.confused_pairs"):
        section, _ = zero_shot_sections(data, rows, predicted[:, None])
    (axes,) = section.figures[0].axes
    assert [bar.get_width() for bar in axes.patches] == [75.0] * 10 + [100.0] * 10  # type: ignore[attr-defined]
    assert "20 of 150 classes" in section.text
