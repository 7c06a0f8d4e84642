"""Segmentation data in the layouts of ADE20K, VOC2012 and CamVid."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from radio_core.data.folder import FolderError
from radio_core.data.images import UnreadableImage
from radio_eval.data.segmentation import VOC_CLASSES, SegmentationImages, read_segmentation


def save(path: Path, values: list[list[int]], palette: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(np.array(values, dtype=np.uint8))
    if palette:
        picture.putpalette([5 * level % 256 for level in range(768)])
    picture.save(path)


def photo(path: Path, size: tuple[int, int] = (3, 2)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (200, 100, 50)).save(path)


def ade(root: Path, values: list[list[int]]) -> Path:
    for split in ("training", "validation"):
        photo(root / "images" / split / "a.jpg")
        save(root / "annotations" / split / "a.png", values)
    (root / "classes.json").write_text('["wall", "sky"]')
    return root


def folders(root: Path, values: list[list[int]], classes: str) -> Path:
    for split in ("train", "val"):
        photo(root / split / "images" / "a.jpg")
        save(root / split / "masks" / "a.png", values)
    (root / "classes.json").write_text(classes)
    return root


def voc(root: Path, values: list[list[int]]) -> Path:
    for split in ("train", "val"):
        photo(root / "JPEGImages" / f"{split}.jpg")
        save(root / "SegmentationClass" / f"{split}.png", values, palette=True)
        lists = root / "ImageSets" / "Segmentation"
        lists.mkdir(parents=True, exist_ok=True)
        (lists / f"{split}.txt").write_text(f"{split}\n")
    photo(root / "JPEGImages" / "detection_only.jpg")
    return root


def only_label(data: SegmentationImages) -> list[list[int]]:
    assert len(data) == 1
    image, label = data.read(0)
    assert image.mode == "RGB"
    assert label.dtype == torch.uint8
    return list(label.tolist())


def test_ade_is_shifted(tmp_path: Path) -> None:
    data = read_segmentation(ade(tmp_path, [[0, 1, 2], [255, 2, 1]]), "val")
    assert only_label(data) == [[255, 0, 1], [255, 1, 0]]
    assert data.class_names == ("wall", "sky")
    assert data.layout == "ade20k"


def test_ade_takes_its_own_table_of_classes(tmp_path: Path) -> None:
    root = ade(tmp_path, [[0, 1, 2], [0, 2, 1]])
    (root / "classes.json").unlink()
    (root / "objectInfo150.txt").write_text(
        "Idx\tRatio\tTrain\tVal\tStuff\tName\n1\t0.1\t9\t9\t1\twall\n2\t0.1\t9\t9\t1\tsky, blue\n"
    )
    assert read_segmentation(root, "train").class_names == ("wall", "sky, blue")


@pytest.mark.parametrize("parent", ["", "VOC2012", "VOCdevkit/VOC2012"])
def test_voc_counts_the_background(tmp_path: Path, parent: str) -> None:
    voc(tmp_path / parent, [[0, 1, 20], [255, 20, 0]])
    data = read_segmentation(tmp_path, "train")
    assert only_label(data) == [[0, 1, 20], [255, 20, 0]]
    assert data.class_names == VOC_CLASSES
    assert len(VOC_CLASSES) == 21


def test_folders_are_not_shifted(tmp_path: Path) -> None:
    root = folders(tmp_path, [[0, 1, 9], [255, 1, 0]], '{"classes": ["a", "b"], "ignore_index": 9}')
    assert only_label(read_segmentation(root, "val")) == [[0, 1, 255], [255, 1, 0]]


def test_other_files_of_the_same_names_are_other_data(tmp_path: Path) -> None:
    first = ade(tmp_path / "1", [[0, 1, 2], [255, 2, 1]])
    identity = read_segmentation(first, "val").identity()
    assert read_segmentation(first, "val").identity() == identity
    second = ade(tmp_path / "2", [[0, 1, 2], [255, 2, 1]])
    assert read_segmentation(second, "val").identity() != identity
    (label,) = (first / "annotations" / "validation").iterdir()
    os.utime(label, ns=(1, 1))
    assert read_segmentation(first, "val").identity() != identity


def test_camvid(shared: Path) -> None:
    train, val = (read_segmentation(shared / "data" / "camvid", s) for s in ("train", "val"))
    assert (len(train), len(val), len(train.class_names)) == (100, 50, 11)
    image, label = train.read(0)
    assert label.shape == (image.height, image.width) == (360, 480)


def test_values_outside_the_classes_name_the_file(tmp_path: Path) -> None:
    root = ade(tmp_path, [[0, 1, 3], [0, 2, 1]])
    with pytest.raises(FolderError, match=r"training/a\.png holds value 3.*values are 1 to 2"):
        read_segmentation(root, "train").read(0)


def test_another_size_than_the_image_names_both_files(tmp_path: Path) -> None:
    root = ade(tmp_path, [[0, 1]])
    with pytest.raises(FolderError, match=r"a\.png has 2 x 1 pixels, .*a\.jpg 3 x 2"):
        read_segmentation(root, "train").read(0)


def test_unreadable_files_can_be_skipped(tmp_path: Path) -> None:
    root = ade(tmp_path, [[0, 1, 2], [0, 2, 1]])
    (root / "annotations/training/a.png").write_bytes(b"broken")
    with pytest.raises(UnreadableImage, match=r"a\.png"):
        read_segmentation(root, "train").read(0)
    (root / "images/validation/b.jpg").write_bytes(b"broken")
    save(root / "annotations/validation/b.png", [[1]])
    data = read_segmentation(root, "val")
    with pytest.raises(UnreadableImage, match=r"b\.jpg: not an image"):
        data.read(1)


def test_photos_are_not_turned_for_their_label_maps_are_not(tmp_path: Path) -> None:
    root = ade(tmp_path, [[0, 1, 2], [0, 2, 1]])
    exif = Image.Exif()
    exif[274] = 6  # stored lying on its side
    Image.new("RGB", (3, 2)).save(root / "images/training/a.jpg", exif=exif)
    image, _ = read_segmentation(root, "train").read(0)
    assert image.size == (3, 2)


def test_missing_parts_are_named(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match=r"cannot read folder .*nowhere"):
        read_segmentation(tmp_path / "nowhere", "train")
    with pytest.raises(FolderError, match="none of the known layouts"):
        read_segmentation(tmp_path, "train")
    root = ade(tmp_path / "ade", [[0, 1, 2], [0, 2, 1]])
    with pytest.raises(FolderError, match="unknown layout 'png'; known: auto, ade20k"):
        read_segmentation(root, "train", "png")
    (root / "annotations/validation/a.png").unlink()
    with pytest.raises(FolderError, match=r"validation/a\.png is missing \(1 of 1 are\)"):
        read_segmentation(root, "val")
    (root / "classes.json").write_text("{}")
    with pytest.raises(FolderError, match="list of class names"):
        read_segmentation(root, "train")
    (root / "classes.json").write_text("[")
    with pytest.raises(FolderError, match="not valid JSON"):
        read_segmentation(root, "train")
