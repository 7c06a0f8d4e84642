"""The command `radio sam`."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("segment_anything", reason="needs the extra 'sam'")
pytest.importorskip("pycocotools", reason="needs the extra 'eval'")

from pycocotools import mask as coco_masks

from radio_core import cli
from radio_core.data.toyworld import Scene, render_scene
from radio_sam.objects import FoundMask, ObjectPrompt, encode_mask, place_prompts, read_prompts
from radio_sam.overlay import draw_overlay, object_colour

Mask = np.ndarray


@pytest.fixture(scope="module")
def scene() -> Scene:
    """A large star, a triangle and a circle that do not touch, and others."""
    return render_scene(7, 1003)


@pytest.fixture
def image(scene: Scene, tmp_path: Path) -> Path:
    path = tmp_path / "scene.png"
    Image.fromarray(scene.image).save(path)
    return path


def box_text(scene: Scene, number: int) -> str:
    x, y, width, height = scene.objects[number].bbox
    return f"{x},{y},{x + width},{y + height}"


def run(*arguments: str | Path) -> int:
    return cli.main(["sam", *map(str, arguments)])


def records(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((folder / "masks.json").read_text())
    return found


def png(path: Path) -> Mask:
    pixels = np.asarray(Image.open(path))
    assert set(np.unique(pixels)) <= {0, 255}
    return pixels == 255


def iou(one: Mask, other: Mask) -> float:
    return float((one & other).sum() / (one | other).sum())


def test_each_box_and_the_points_give_an_object(scene: Scene, image: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    boxes = ["--box", box_text(scene, 0), "--box", box_text(scene, 3)]
    assert run("segment", image, *boxes, "--point", "90,93", "--point", "5,5,0", "--out", out) == 0
    assert {path.name for path in out.iterdir()} == {
        *("mask_000.png", "mask_001.png", "mask_002.png", "masks.json", "overlay.png")
    }
    found = records(out)
    for number, record in enumerate(found):
        mask = png(out / record["file"])
        assert mask.shape == (128, 128)
        assert np.array_equal(coco_masks.decode(record["segmentation"]), mask)
        rows, columns = np.nonzero(mask)
        x, y = int(columns.min()), int(rows.min())
        size = [int(columns.max()) - x + 1, int(rows.max()) - y + 1]
        assert record["bbox"] == [x, y, *size]
        assert record["area"] == mask.sum()
        assert record["object"] == number
        assert 0.3 < record["predicted_iou"] < 1.2
    assert found[1]["prompt"] == {"box": [float(part) for part in box_text(scene, 3).split(",")]}
    assert found[2]["prompt"] == {"points": [[90.0, 93.0], [5.0, 5.0]], "labels": [1, 0]}
    for file, thing in (("mask_000.png", 0), ("mask_001.png", 3), ("mask_002.png", 3)):
        assert iou(png(out / file), scene.objects[thing].mask) > 0.7, file


def test_points_and_one_box_are_one_object(scene: Scene, image: Path, tmp_path: Path) -> None:
    box, point = box_text(scene, 0), ["--point", "40,70"]
    assert run("segment", image, "--box", box, *point, "--out", tmp_path / "both") == 0
    (record,) = records(tmp_path / "both")
    assert set(record["prompt"]) == {"box", "points", "labels"}
    assert run("segment", image, "--box", box, "--out", tmp_path / "box") == 0
    (alone,) = records(tmp_path / "box")
    assert record["predicted_iou"] != alone["predicted_iou"]
    assert iou(png(tmp_path / "both" / "mask_000.png"), scene.objects[0].mask) > 0.85


def test_all_proposals_come_best_first(scene: Scene, image: Path, tmp_path: Path) -> None:
    arguments = ["segment", image, "--box", box_text(scene, 0), "--box", box_text(scene, 1)]
    assert run(*arguments, "--out", tmp_path / "best") == 0
    assert run(*arguments, "--multimask", "--out", tmp_path / "all") == 0
    every, best = records(tmp_path / "all"), records(tmp_path / "best")
    names = [f"mask_00{number}_{proposal}.png" for number in (0, 1) for proposal in (0, 1, 2)]
    assert [record["file"] for record in every] == names
    for number in (0, 1):
        ious = [record["predicted_iou"] for record in every if record["object"] == number]
        assert ious == sorted(ious, reverse=True)
        assert every[3 * number]["segmentation"] == best[number]["segmentation"]
        assert ious[0] == pytest.approx(best[number]["predicted_iou"])
    one, three = (Image.open(tmp_path / name / "overlay.png").size for name in ("best", "all"))
    assert three[1] == one[1]
    assert three[0] > 3 * one[0]


def test_a_second_run_leaves_no_masks_of_the_first(
    scene: Scene, image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    boxes = ["--box", box_text(scene, 0), "--box", box_text(scene, 1)]
    assert run("segment", image, *boxes, "--out", out) == 0
    (out / "mask_007.png").write_text("the user's")
    assert run("segment", image, "--point", "40,70", "--out", out) == 0
    assert "1 mask, masks.json and overlay.png in" in capsys.readouterr().out
    assert sorted(path.name for path in out.glob("mask_*")) == ["mask_000.png", "mask_007.png"]


def test_images_that_are_not_square_and_model_options(scene: Scene, tmp_path: Path) -> None:
    path = tmp_path / "wide.png"
    Image.fromarray(scene.image[20:115, :]).resize((256, 190)).save(path)
    truth = np.asarray(Image.fromarray(scene.objects[0].mask[20:115, :]).resize((256, 190)))
    rows, columns = np.nonzero(truth)
    box = f"{columns.min()},{rows.min()},{columns.max() + 1},{rows.max() + 1}"
    for number, flags in enumerate(
        ([], ["--skip-padding"], ["--image-size", "256"], ["--window-size", "4"], ["--model=sam"])
    ):
        out = tmp_path / str(number)
        assert run("segment", path, "--box", box, *flags, "--out", out) == 0
        mask = png(out / "mask_000.png")
        assert mask.shape == (190, 256)
        assert iou(mask, truth) > 0.75, flags


@pytest.mark.parametrize("model", ["toy", "sam"])
def test_everything_finds_the_main_object(
    model: str, scene: Scene, image: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    arguments = ["everything", image, "--model", model, "--points-per-side", "6"]
    assert run(*arguments, "--out", out) == 0
    found = records(out)
    assert len(found) > 1
    masks = [png(out / record["file"]) for record in found]
    assert max(iou(mask, scene.objects[0].mask) for mask in masks) > 0.85
    areas = [record["area"] for record in found]
    assert areas == sorted(areas, reverse=True)
    for record, mask in zip(found, masks, strict=True):
        assert np.array_equal(coco_masks.decode(record["segmentation"]), mask)
        assert record["predicted_iou"] > 0.6
        assert record["stability_score"] >= 0.75
        assert record["prompt"]["labels"] == [1]
    before = (out / "masks.json").read_bytes(), (out / "overlay.png").read_bytes()
    assert run(*arguments, "--out", out) == 0
    assert before == ((out / "masks.json").read_bytes(), (out / "overlay.png").read_bytes())


def test_everything_says_when_nothing_passes(
    image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    strict = ["--stability-score-thresh", "1", "--points-per-side", "2"]
    assert run("everything", image, *strict, "--out", out) == 0
    assert "lower --pred-iou-thresh" in capsys.readouterr().err
    assert records(out) == []
    assert (out / "overlay.png").is_file()


def test_small_regions_need_opencv(
    image: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    assert run("everything", image, "--min-mask-region-area", "9") == 1
    assert "pip install opencv-python-headless" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--box x0,y0,x1,y1 or --point x,y"),
        (["--box", "1,2,3"], "four numbers"),
        (["--box", "1,2,3,four"], "four numbers"),
        (["--box", "9,2,9,40"], "has no area"),
        (["--box", "9,40,20,2"], "has no area"),
        (["--box", "128,0,140,9"], "128,0,140,9 is outside of the image; the image has 128 x 128"),
        (["--point", "5"], "must be x,y"),
        (["--point", "5,nan"], "must be x,y"),
        (["--point", "5,5,2"], "must be x,y"),
        (["--point", "5,128"], "5,128 is outside of the image"),
        (["--point=-1,5"], "-1,5 is outside of the image"),
        (["--point", "5,5,0"], "add a --point x,y on it"),
        (["--point", "5,5", "--image-size", "0x64"], "--image-size '0x64'"),
        (["--point", "5,5", "--pointt", "5,5"], "did you mean --point?"),
    ],
)
def test_bad_prompts_are_bad_usage(
    flags: list[str], message: str, image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("segment", image, "--out", tmp_path / "out", *flags) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert len(captured.err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "flags", [["--points-per-side", "0"], ["--pred-iou-thresh", "1.5"], ["--crop-layers", "-1"]]
)
def test_bad_settings_are_bad_usage(
    flags: list[str], image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("everything", image, *flags) == 2
    assert flags[0] in capsys.readouterr().err


def test_a_box_that_sticks_out_is_clipped(
    image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("segment", image, "--box", "-9,20,85,500", "--out", tmp_path) == 0
    assert "-9,20,85,500 is clipped to 0,20,85,128" in capsys.readouterr().err
    assert records(tmp_path)[0]["prompt"] == {"box": [0.0, 20.0, 85.0, 128.0]}


def test_images_that_cannot_be_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken, narrow = tmp_path / "broken.png", tmp_path / "narrow.png"
    broken.write_text("no picture")
    Image.new("RGB", (3000, 1)).save(narrow)
    for path, message in (
        (broken, "not an image"),
        (tmp_path / "nothing.png", "missing"),
        (narrow, "3000 x 1 pixels are too narrow"),
    ):
        for arguments in (["segment", path, "--point", "0,0"], ["everything", path]):
            assert run(*arguments) == 1
            (line,) = capsys.readouterr().err.strip().splitlines()
            assert path.name in line
            assert message in line


def test_prompts_become_objects() -> None:
    assert read_prompts(["1,2,3,4"], []) == [ObjectPrompt(box=(1, 2, 3, 4))]
    points = ObjectPrompt(points=((5, 6), (7, 8.5)), labels=(1, 0))
    assert read_prompts([], ["5,6", "7,8.5,0"]) == [points]
    assert read_prompts(["1,2,3,4"], ["5,6,0"]) == [
        ObjectPrompt(box=(1, 2, 3, 4), points=((5, 6),), labels=(0,))
    ]
    assert read_prompts(["1,2,3,4", "2,2,3,4"], ["5,6", "7,8.5,0"])[2] == points
    warnings: list[str] = []
    inside = [ObjectPrompt(box=(0, 0, 9, 5)), points]
    assert place_prompts(inside, 9, 9, warnings.append) == inside
    assert warnings == []


def test_overlay_changes_only_masks_and_prompts() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)
    mask = np.zeros((60, 90), bool)
    mask[20:40, 30:60] = True
    prompt = ObjectPrompt(box=(28, 18, 62, 42), points=((80, 10),), labels=(0,))
    found = FoundMask(number=0, rle=encode_mask(mask), predicted_iou=1.0, prompt=prompt)
    picture = np.asarray(draw_overlay(pixels, [found]))
    scale = picture.shape[0] // 60
    assert picture.shape == (60 * scale, 90 * scale, 3)
    assert max(picture.shape) >= 640
    magnified = pixels.repeat(scale, axis=0).repeat(scale, axis=1)
    changed = (picture != magnified).any(axis=2)
    box, disc = np.zeros((2, 60, 90), bool)
    box[17:43, 27:63] = True
    disc[8:13, 78:83] = True
    allowed = (box | disc).repeat(scale, axis=0).repeat(scale, axis=1)
    assert not (changed & ~allowed).any()
    inside = mask.repeat(scale, axis=0).repeat(scale, axis=1)
    assert changed[inside].mean() > 0.95
    assert (picture[20 * scale, 30 * scale : 60 * scale] == object_colour(0)).all()
    assert changed[(disc.repeat(scale, axis=0).repeat(scale, axis=1))].any()
