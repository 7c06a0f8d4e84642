"""What a report shows: confusion of classes, small pictures, scores; and that texts stay texts."""

import io
import re
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from radio_eval.classification.layouts import read_split
from radio_eval.report.classification import choose_rows
from radio_eval.report.confusion import Classified, confusion_sections
from radio_eval.report.html import Gallery, PictureRow, compact_uri
from radio_eval.report.run_report import render_run_report, vqa_report, write_run_report
from radio_eval.report.sections import (
    Answered,
    Asked,
    AskedScene,
    Bar,
    Bars,
    ConfusedPairs,
    Heatmap,
    Questions,
)
from radio_eval.report.segmentation import shown_images
from radio_eval.report.thumbnails import read_thumbnails, thumbnail


def test_every_text_is_escaped(check: Any, report: Any, hostile: str) -> None:
    picture = np.zeros((4, 4, 3), np.uint8)
    asked = Asked(text=hostile, truth=hostile, answers=(Answered(text=hostile, right=False),))
    two = Asked(text=hostile, truth=hostile, answers=(*asked.answers, *asked.answers))
    page = render_run_report(
        report(
            Bars(title=hostile, text=hostile, bars=(Bar(name=hostile, value=None, note=hostile),)),
            Gallery(
                title="t",
                text="",
                rows=(PictureRow(label=hostile, pictures=(picture,)),),
                headings=(hostile,),
                legend=((hostile, "#000000"),),
            ),
            Questions(
                title="t",
                text="",
                names=(hostile,),
                scenes=(AskedScene(picture=None, questions=(asked,)),),
            ),
            Questions(
                title="t",
                text="",
                names=(hostile, "b"),
                scenes=(AskedScene(picture=picture, questions=(two,)),),
            ),
            note=hostile,
        )
    )
    found = check(page)
    assert "12.3" in found.text
    assert found.text.count(hostile) > 12
    assert "no picture" in found.text


def test_a_name_that_is_no_text_does_not_break_the_file(tmp_path: Path, report: Any) -> None:
    path = tmp_path / "a" / "b.html"
    write_run_report(path, report(model="caf\udce9"))
    assert "caf\\udce9" in path.read_text(encoding="utf-8")
    assert [file.name for file in path.parent.iterdir()] == ["b.html"]


def test_photos_are_jpeg_and_drawings_are_png() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8)
    assert compact_uri(noise).startswith("data:image/jpeg;base64,")
    assert compact_uri(noise // 128 * 128).startswith("data:image/png;base64,")
    assert thumbnail(Image.fromarray(noise), 16).shape == (16, 16, 3)
    assert thumbnail(Image.fromarray(noise[:2])).shape == (2, 64, 3)


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
    pytest.importorskip("webdataset", reason="needs the extra 'train'")
    (tmp_path / "classnames.json").write_text('["a", "b"]')
    first, second = tmp_path / "val-0.tar", tmp_path / "val-1.tar"
    write_shard(first, {"x.jpg": jpeg(200), "x.cls": b"0", "y.jpg": b"broken", "y.cls": b"0"})
    write_shard(second, {"x.jpg": jpeg(90), "x.cls": b"1", "z.jpg": jpeg(10), "z.cls": b"1"})
    val = read_split(tmp_path, "val")
    names = [f"{first}/x", f"{first}/y", f"{second}/x", f"{second}/nowhere"]
    found = read_thumbnails(val, names)
    assert set(found) == {names[0], names[2]}
    assert [int(found[name][0, 0, 0]) // 10 for name in (names[0], names[2])] == [20, 9]
    second.write_bytes(second.read_bytes()[:600])
    assert set(read_thumbnails(val, names)) == {names[0]}
    first.unlink()
    assert read_thumbnails(val, names) == {}


def test_images_that_are_gone_leave_a_gap(
    toy: Path, tmp_path: Path, check: Any, report: Any, hostile: str
) -> None:
    data = tmp_path / hostile.replace("/", "")
    shutil.copytree(toy / "classification", data)
    val = read_split(data, "val")
    items = [item for block in val.blocks(5) for item in block]
    Path(items[0].name).unlink()
    labels = torch.tensor([item.label for item in items])
    classified = Classified(
        data=val,
        class_names=val.class_names,
        labels=labels,
        predicted=(labels + 1) % len(val.class_names),
        name=lambda row: items[row].name,
    )
    sections = confusion_sections(classified)
    pairs = sections[1]
    assert isinstance(pairs, ConfusedPairs)
    assert {pair.name: pair.picture is None for pair in pairs.pairs}[items[0].name]
    assert sum(pair.picture is None for pair in pairs.pairs) == 1
    found = check(render_run_report(report(*sections)))
    assert "no picture" in found.text


def classified_as(labels: Tensor, predicted: Tensor, classes: int, data: Path) -> Classified:
    return Classified(
        data=read_split(data, "val"),
        class_names=[f"class {label}" for label in range(classes)],
        labels=labels,
        predicted=predicted,
        name=str,
    )


def test_the_confusion_of_few_classes_is_a_heatmap(toy: Path, check: Any, report: Any) -> None:
    labels, predicted = torch.tensor([0, 0, 0, 0, 1, 2]), torch.tensor([0, 2, 2, 1, 1, 1])
    found = classified_as(labels, predicted, 4, toy / "classification")
    [heatmap, pairs] = confusion_sections(found)
    assert isinstance(heatmap, Heatmap)
    cells = {(cell.truth, cell.predicted): (cell.count, cell.share) for cell in heatmap.cells}
    assert cells == {
        (0, 0): (1, 0.25),
        (0, 1): (1, 0.25),
        (0, 2): (2, 0.5),
        (1, 1): (1, 1.0),
        (2, 1): (1, 1.0),
    }
    assert heatmap.totals == (4, 1, 1, 0)
    assert isinstance(pairs, ConfusedPairs)
    worst = [(pair.truth, pair.predicted, pair.count, pair.name) for pair in pairs.pairs]
    assert worst[0] == ("class 0", "class 2", 2, "1")
    assert worst[1] == ("class 2", "class 1", 1, "5")
    page = render_run_report(report(heatmap))
    assert len(re.findall(r'<rect class="(?:hit|miss)"', page)) == 5
    assert "class 0 → class 2: 2 of 4" in check(page).text


def test_many_classes_have_their_extremes_and_no_heatmap(toy: Path) -> None:
    labels = torch.arange(600) % 150
    predicted = torch.where(torch.arange(600) < 60, (labels + 1) % 150, labels)
    found = classified_as(labels, predicted, 200, toy / "classification")
    [extremes, _] = confusion_sections(found)
    assert isinstance(extremes, Bars)
    assert [bar.value for bar in extremes.bars] == [75.0] * 10 + [100.0] * 10
    assert "20 of 150 classes" in extremes.text


def test_shown_images_are_spread() -> None:
    assert shown_images(60) == {0, 10, 20, 30, 40, 50}
    assert shown_images(2) == {0, 1}
    assert shown_images(0) == frozenset()


def test_the_report_of_a_vqa_task_has_its_parts(check: Any) -> None:
    result = {
        "task": "pope",
        "model": "m",
        "accuracy": 75.0,
        "f1": None,
        "count": 8,
        "splits": {"random": {"accuracy": 50.0, "count": 4, "TP": 1}},
        "unanswered": 1,
        "skipped": {"count": 1, "reasons": {"missing": 1}, "questions": ["1 (x): missing"]},
        "image_tokens": 64.5,
        "settings": {"batch_size": 8},
    }
    made = vqa_report(result, [])
    assert made.scores == {"accuracy": 75.0, "f1": None}
    assert made.counts == {"count": 8, "unanswered": 1, "image_tokens": 64.5}
    [bars] = made.sections
    assert isinstance(bars, Bars)
    assert [(bar.name, bar.value) for bar in bars.bars] == [("random accuracy", 50.0)]
    assert "1 (x): missing" in check(render_run_report(made)).text
    nothing = {**result, "accuracy": None, "unscored": "no labels"}
    assert "Not scored: no labels" in check(render_run_report(vqa_report(nothing, []))).text
