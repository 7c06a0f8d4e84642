"""The command `radio eval`."""

import json
from pathlib import Path

import pytest

from radio_core.cli import main as radio
from radio_core.data.toyworld.export import export
from radio_core.registry import UnknownName
from radio_eval.cli.evaluate import evaluate as main


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("toy")
    export(out, 12, 6, parts=("classification", "segmentation", "coco"))
    return out


def test_linear_seg(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--model", "random:tiny", "--data", str(toy / "segmentation")]
    assert main(["linear-seg", *options, "--image-size", "32", "--iterations", "3"]) == 0
    assert "miou: " in capsys.readouterr().out


def test_zero_shot_needs_a_text_tower(toy: Path) -> None:
    with pytest.raises(ValueError, match="'random:tiny' cannot be evaluated on zero_shot"):
        main(["zero-shot", "--model", "random:tiny", "--data", str(toy / "classification")])


@pytest.fixture
def sam_extras() -> None:
    pytest.importorskip("segment_anything", reason="needs the extra 'sam'")
    pytest.importorskip("pycocotools", reason="needs the extra 'eval'")


@pytest.mark.usefixtures("sam_extras")
def test_sam_coco(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(toy / "coco")
    assert main(["sam-coco", "--model", "sam", "--coco", folder, "--limit", "2"]) == 0
    own = capsys.readouterr().out
    assert "all: " in own
    assert main(["sam-coco", "--model", "toy-sam", "--data", folder, "--limit", "2"]) == 0
    assert capsys.readouterr().out == own
    options = ["--image-size", "96x128", "--window-size", "0", "--skip-padding"]
    assert main(["sam-coco", "--model", "toy", "--coco", folder, "--limit", "2", *options]) == 0
    assert capsys.readouterr().out != own


@pytest.mark.usefixtures("sam_extras")
def test_sam_coco_keeps_masks_that_score_the_same(toy: Path, tmp_path: Path) -> None:
    out, result, again = tmp_path / "out", tmp_path / "result.json", tmp_path / "again.json"
    annotations = toy / "coco/annotations/instances_val2017.json"
    boxes = [
        {**{n: a[n] for n in ("image_id", "category_id", "bbox")}, "score": 0.9}
        for a in json.loads(annotations.read_text())["annotations"]
    ]
    detections = tmp_path / "boxes.json"
    detections.write_text(json.dumps([*boxes, {**boxes[0], "image_id": 10**6}]))
    command = ["sam-coco", "--model", "sam", "--coco", str(toy / "coco"), "--out", str(out)]
    options = ["--save-masks", "--detections", str(detections), "--json", str(result)]
    assert main([*command, *options]) == 0
    content = json.loads(result.read_text())
    metrics = content["metrics"]
    assert content["skipped"]["detections"]["reasons"] == {"unknown image": 1}
    assert content["skipped"]["images"] == {"count": 0, "reasons": {}, "each": {}}
    assert content["parameters"]["sam_checkpoint"] == "toy-sam"
    files = ["--annotations", str(annotations), "--json", str(again), "--predictions"]
    assert radio(["score", "sam-miou", *files, str(out / "annotations.json")]) == 0
    scores = json.loads(again.read_text())
    assert {n: v for n, v in scores.items() if v is not None}.items() <= metrics.items()
    assert radio(["score", "coco-segm", *files, str(out / "detections.json")]) == 0
    scores = json.loads(again.read_text())
    assert 100 * scores["AP50"] == pytest.approx(metrics["AP50"])
    with pytest.raises(ValueError, match=r"keep_masks: True, now False.*--overwrite"):
        main(command)
    assert main([*command, "--overwrite"]) == 0
    assert not (out / "detections.json").exists()


@pytest.mark.usefixtures("sam_extras")
def test_sam_coco_refuses_what_does_not_fit(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["sam-coco", "--coco", str(toy / "coco"), "--model"]
    with pytest.raises(ValueError, match="no Segment Anything decoder"):
        main([*command, "random:tiny"])
    for options, message in (
        (["--save-masks"], "need --out DIR"),
        (["--image-size", "12y"], "'12y' must be a side"),
        (["--batch-size", "0"], "batch sizes must be at least 1"),
    ):
        with pytest.raises(SystemExit):
            main([*command, "toy", *options])
        assert message in capsys.readouterr().err
    with pytest.raises(ValueError, match="unknown SAM 'nix'"):
        main([*command, "toy", "--sam-checkpoint", "nix"])


def test_bad_usage(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert main(["--help"]) == 0
    assert "linear-seg" in capsys.readouterr().out
    with pytest.raises(UnknownName, match=r"unknown task 'knm'.*did you mean 'knn'"):
        main(["knm"])
    with pytest.raises(ValueError, match="cannot read folder"):
        main(["knn", "--model", "random:tiny", "--data", str(toy / "nowhere")])
    with pytest.raises(ValueError, match="unknown model 'nix'; known: toy"):
        main(["knn", "--model", "nix", "--data", str(toy / "classification")])
