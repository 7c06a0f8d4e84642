"""COCO's files as users have them: every kind of mask, and every kind of damage."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("pycocotools", reason="needs the extra 'eval'")

from radio_core.data.folder import FolderError
from radio_eval.data.coco import CocoAnnotations, CocoInstances, read_detections
from radio_eval.data.coco_masks import BrokenMask, decode_mask, read_mask
from radio_sam.objects import encode_mask


@pytest.mark.parametrize("density", [0.0, 0.001, 0.1, 0.5, 1.0])
def test_masks_survive_both_kinds_of_run_lengths(density: float) -> None:
    generator = np.random.default_rng(0)
    for _ in range(20):
        height, width = (int(side) for side in generator.integers(1, 200, 2))
        mask = generator.random((height, width)) < density
        rle = read_mask(encode_mask(mask), height, width)
        assert np.array_equal(decode_mask(rle), mask)
        column = mask.flatten(order="F").astype(int)
        changes = np.flatnonzero(np.diff(column, prepend=0))
        lengths = np.diff([0, *changes, column.size]).tolist()
        plain = {"size": [height, width], "counts": lengths}
        assert read_mask(plain, height, width) == rle


def test_polygons_are_united() -> None:
    square, other = [1, 1, 4, 1, 4, 4, 1, 4], [5, 5, 7, 5, 7, 7, 5, 7]
    both = decode_mask(read_mask([square, other, [1, 2, 3, 4]], 8, 9))
    assert both.shape == (8, 9)
    assert both.sum() == 9 + 4
    assert both[1:4, 1:4].all()


BROKEN: dict[str, tuple[object, str]] = {
    "missing": (None, "no segmentation"),
    "no polygons": ([], "no segmentation"),
    "two points": ([[1, 1, 3, 3]], "fewer than three points"),
    "odd": ([[1, 1, 3, 3, 1, 3, 2]], "odd number"),
    "text": ([["1", 1, 3, 3, 1, 3]], "no list of finite numbers"),
    "flat": ([1, 1, 3, 3, 1, 3], "no list of finite numbers"),
    "NaN": ([[1, 1, 3, 3, 1, float("nan")]], "no list of finite numbers"),
    "infinite": ([[1, 1, 3, 3, 1, float("inf")]], "no list of finite numbers"),
    "endless": ([[1, 1, 1e12, 3, 1, 3]], "no list of finite numbers near"),
    "no size": ({"counts": [16]}, "size None"),
    "turned": ({"size": [2, 8], "counts": [16]}, "size"),
    "no counts": ({"size": [4, 4]}, "without run lengths"),
    "too long": ({"size": [4, 4], "counts": [8, 90]}, "98 pixels, but the image has 16"),
    "too short": ({"size": [4, 4], "counts": [8]}, "8 pixels"),
    "negative": ({"size": [4, 4], "counts": [-1, 17]}, "no whole numbers"),
    "fractions": ({"size": [4, 4], "counts": [0.5, 15.5]}, "no whole numbers"),
    "empty text": ({"size": [4, 4], "counts": ""}, "end early"),
    "cut off": ({"size": [4, 4], "counts": "ooo"}, "end early"),
    "foreign letters": ({"size": [4, 4], "counts": "é"}, "without run lengths"),
    "other characters": ({"size": [4, 4], "counts": "0 0"}, "end early"),
    "huge": ({"size": [4, 4], "counts": "oooooooo0"}, "too large"),
    "negative text": ({"size": [4, 4], "counts": "@O1"}, "negative|pixels"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_masks_say_why(name: str) -> None:
    segmentation, message = BROKEN[name]
    with pytest.raises(BrokenMask, match=message):
        read_mask(segmentation, 4, 4)


def test_broken_annotations_are_counted_and_left_out(coco_files: Any) -> None:
    made = coco_files.annotation
    without_mask = made(2, 1)
    del without_mask["segmentation"]
    root = coco_files.write(
        [
            made(1, 1),
            without_mask,
            made(3, 1, segmentation=[[1, 1, 2, 2]]),
            made(4, 1, bbox=[0, 0, -5, 3]),
            made(5, 1, bbox=[0, 0, float("nan"), 3]),
            made(6, 1, bbox=None),
            made(7, 1, area=None),
            made(8, 99),
            made(1, 2),
            "no annotation",
            made(9, 2, bbox=[0, 0, 0, 0], area=0),
        ]
    )
    coco = CocoInstances(root)
    assert list(coco.by_id()) == [1, 9]
    assert coco.image_ids == [1, 2]
    account = coco.skipped.to_json()
    assert account["count"] == 9
    assert account["reasons"]["no box of four finite numbers"] == 2
    assert account["reasons"]["unknown image"] == 1
    assert account["each"]["7"] == "no area"
    assert account["each"]["at 9"] == "no id"


def test_a_box_that_is_not_there_is_that_of_the_mask(coco_files: Any) -> None:
    whole, bare = coco_files.annotation(1, 1), coco_files.annotation(2, 1)
    del bare["bbox"]
    instances = CocoInstances(coco_files.write([whole, bare])).by_id()
    mask = np.argwhere(instances[2].mask)
    (top, left), (bottom, right) = mask.min(axis=0), mask.max(axis=0) + 1
    assert instances[2].box == (left, top, right, bottom)


def test_broken_records_are_counted_and_left_out(coco_files: Any) -> None:
    root = coco_files.write([coco_files.annotation(n, n) for n in (1, 2, 3, 4)])
    path = root / "annotations/instances_val2017.json"
    content = json.loads(path.read_text())
    del content["images"][1]["file_name"]
    content["images"][2]["width"] = 0
    content["images"][3] = "no record"
    path.write_text(json.dumps(content))
    annotations = CocoAnnotations(path)
    assert list(annotations.records) == [1]
    assert annotations.skipped_records.to_json()["each"] == {
        "2": "no file_name",
        "3": "size of 30 x 0 pixels",
        "at 3": "no id",
    }
    assert annotations.skipped.to_json()["reasons"] == {"unknown image": 3}


def test_pixels_are_taken_as_stored_whatever_the_camera_says(coco_files: Any) -> None:
    root = coco_files.write([coco_files.annotation(1, 1)])
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    Image.new("RGB", (40, 30), (9, 99, 0)).save(root / "val2017/1.png", exif=exif)
    assert CocoInstances(root).image(1).shape == (30, 40, 3)


def test_bad_annotation_files_are_refused(tmp_path: Path, coco_files: Any) -> None:
    with pytest.raises(FolderError, match=r"instances_val2017\.json is missing"):
        CocoInstances(tmp_path)
    root = coco_files.write([])
    with pytest.raises(FolderError, match="no annotations"):
        CocoInstances(root)
    coco_files.write([coco_files.annotation(1, 1, area="big")])
    with pytest.raises(FolderError, match=r"no annotations .*\(1 are broken\)"):
        CocoInstances(root)
    path = root / "annotations/instances_val2017.json"
    path.write_text("[]")
    with pytest.raises(FolderError, match="not a COCO annotation file"):
        CocoInstances(root)
    path.write_text("{")
    with pytest.raises(FolderError, match="not valid JSON"):
        CocoInstances(root)
    with pytest.raises(ValueError, match="limit must be at least 1"):
        CocoInstances(root, limit=0)


def detection(**changes: object) -> dict[str, object]:
    return {"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5, **changes}


def test_unusable_detections_are_counted(coco_files: Any, tmp_path: Path) -> None:
    coco = CocoInstances(coco_files.write([coco_files.annotation(1, 1)]))
    rows = [
        detection(),
        detection(image_id=77),
        detection(category_id=5),
        detection(bbox=[1, 2, float("nan"), 4]),
        detection(bbox=[1, 2, -3, 4]),
        detection(score=None),
        7,
        detection(image_id=3, bbox=[9, 9, 0, 0]),
    ]
    path = tmp_path / "detections.json"
    path.write_text(json.dumps(rows))
    detections, skipped = read_detections(path, coco)
    assert [(d.image_id, d.box) for d in detections] == [
        (1, (1, 2, 4, 6)),
        (3, (9, 9, 9, 9)),
    ]
    assert list(skipped.reasons) == ["1", "2", "3", "4", "5", "6"]
    assert skipped.reasons["1"] == "unknown image: 77"
    assert coco.first_images(also=[d.image_id for d in detections]) == [1, 3]


def test_detections_of_other_images_are_refused(coco_files: Any, tmp_path: Path) -> None:
    coco = CocoInstances(coco_files.write([coco_files.annotation(1, 1)]))
    path = tmp_path / "detections.json"
    path.write_text(json.dumps([detection(image_id=77), detection(image_id=78)]))
    with pytest.raises(FolderError, match=r"2 unknown image\); is it of another split\?"):
        read_detections(path, coco)
    for content, message in (("[]", "it is empty"), ("{}", "must hold a list"), ("[", "not valid")):
        path.write_text(content)
        with pytest.raises(FolderError, match=message):
            read_detections(path, coco)
