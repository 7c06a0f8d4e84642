"""Folders of photos: what is found, in which order, and what is told of the rest."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from radio_core.data.folder import (
    FolderError,
    ImageFiles,
    LabelledFolder,
    SkippedFiles,
    read_class_names,
)


def put(path: Path, shade: int = 128) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), (shade, shade, shade)).save(path)
    return path


def names(files: ImageFiles) -> list[str]:
    return [files.relative_path(index) for index in range(len(files))]


def test_recursive_in_the_order_of_the_names(tmp_path: Path) -> None:
    expected = ["a.png", "b/1.jpg", "b/2.PNG", "b/c/0.bmp", "b-0.gif", "z.tiff"]
    for name in reversed(expected):
        put(tmp_path / name)
    files = ImageFiles(tmp_path)
    assert names(files) == sorted(expected, key=lambda name: name.split("/"))
    assert files.skipped.count == 0
    assert files[0].size == (4, 4)
    assert files.path(0) == tmp_path / "a.png"


def test_damaged_files_are_counted_and_listed(tmp_path: Path) -> None:
    put(tmp_path / "good.png")
    whole = put(tmp_path / "cut.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[:-40])
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("hello")
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere")
    files = ImageFiles(tmp_path)
    assert len(files) == 5
    for _ in range(2):  # a second epoch records nothing twice
        read = [files.load(index) for index in range(len(files))]
    assert sum(image is not None for image in read) == 1
    skipped = {Path(path).name: reason for path, reason in files.skipped}
    assert set(skipped) == {"cut.jpg", "empty.jpg", "text.jpg", "notes.txt", "gone.jpg"}
    assert files.skipped.count == 5
    assert "5 files" in files.skipped.summary()
    assert "1 empty file" in files.skipped.summary()
    assert "2 not an image" in files.skipped.summary()
    files.skipped.write(tmp_path / "skipped.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "skipped.jsonl").read_text().splitlines()]
    assert [(row["path"], row["reason"]) for row in rows] == list(files.skipped)


def test_no_skipped_files_in_words() -> None:
    assert SkippedFiles().summary() == "no files skipped"


def test_link_loops_end(tmp_path: Path) -> None:
    put(tmp_path / "root/a/1.png")
    put(tmp_path / "elsewhere/2.png")
    (tmp_path / "root/a/up").symlink_to(tmp_path / "root")
    (tmp_path / "root/self").symlink_to(tmp_path / "root/self")
    (tmp_path / "root/linked").symlink_to(tmp_path / "elsewhere")
    files = ImageFiles(tmp_path / "root")
    assert names(files) == ["a/1.png", "linked/2.png"]


def test_extensions(tmp_path: Path) -> None:
    put(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "photo")
    put(tmp_path / "b.jpg")
    assert names(ImageFiles(tmp_path, extensions=[".JPG"])) == ["b.jpg"]
    assert names(ImageFiles(tmp_path, extensions=None)) == ["b.jpg", "photo"]


def message(root: Path) -> str:
    with pytest.raises(FolderError) as caught:
        ImageFiles(root)
    assert isinstance(caught.value, ValueError)
    text = str(caught.value)
    assert "\n" not in text
    assert str(root) in text
    return text


def test_unusable_folders_give_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "words").mkdir()
    (tmp_path / "words/a.txt").write_text("hello")
    (tmp_path / "damaged").mkdir()
    for number in range(3):
        (tmp_path / f"damaged/{number}.jpg").write_text("hello")
    assert "no images" in message(tmp_path / "empty")
    assert "no images" in message(tmp_path / "words")
    assert "none of the 3 image files" in message(tmp_path / "damaged")
    assert "no such file" in message(tmp_path / "missing")
    assert "not a directory" in message(tmp_path / "words/a.txt")


def test_closed_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "root/a.png")
    put(tmp_path / "root/closed/b.png")
    scan = os.scandir

    def refuse(path: str) -> object:  # chmod would not stop root
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    files = ImageFiles(tmp_path / "root")
    assert names(files) == ["a.png"]
    assert list(files.skipped) == [(str(tmp_path / "root/closed"), "permission denied")]
    assert "permission denied" in message(tmp_path / "root/closed")


def test_class_folders(tmp_path: Path) -> None:
    for name in ("train/n2/a.png", "train/n1/b.png", "train/n1/sub/c.png", "val/n2/d.png"):
        put(tmp_path / name)
    train = LabelledFolder(tmp_path, "train")
    assert train.classes == train.class_names == ["n1", "n2"]
    assert train.labels == [0, 0, 1]
    assert LabelledFolder(tmp_path, "val", classes=train.classes).labels == [1]
    (tmp_path / "classnames.json").write_text('{"n2": "cat", "n1": "dog"}')
    val = LabelledFolder(tmp_path, "val")
    assert val.classes == ["n1", "n2"]
    assert val.class_names == ["dog", "cat"]
    image, label = val[0]
    assert image is not None
    assert label == 1


def test_unknown_class_folder(tmp_path: Path) -> None:
    put(tmp_path / "train/n3/a.png")
    (tmp_path / "classnames.json").write_text('{"n1": "dog"}')
    with pytest.raises(FolderError, match="n3 is not among the 1 classes"):
        LabelledFolder(tmp_path, "train")


@pytest.mark.parametrize("content", [None, "{", "[]", '{"a": 1}'])
def test_bad_class_names(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "classnames.json").write_text(content)
    with pytest.raises(FolderError, match=r"classnames\.json"):
        read_class_names(tmp_path)


def test_real_class_folders(shared: Path) -> None:
    root = shared / "data/tiny_imagenet_50"
    if not root.is_dir():
        pytest.skip("the folder of small photos is not there")
    folder = LabelledFolder(root, "val")
    assert (len(folder), len(folder.classes)) == (600, 50)
    assert folder.class_names[0] == read_class_names(root)[folder.classes[0]] == "goldfish"
    assert np.bincount(folder.labels).tolist() == [12] * 50
    assert all(folder[index][0].size == (64, 64) for index in range(0, 600, 20))


def test_real_photos_with_foreign_files(shared: Path) -> None:
    root = shared / "data/coco"
    if not root.is_dir():
        pytest.skip("the folder of COCO photos is not there")
    files = ImageFiles(root)
    assert len(files) == 96
    assert all(files.load(index) is not None for index in range(0, 96, 8))
    assert {Path(path).suffix for path, _ in files.skipped} == {".json"}
    assert files.skipped.count == 4
