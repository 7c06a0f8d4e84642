"""The command `radio score`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest

pytest.importorskip("pycocotools", reason="needs the extra 'eval'")

from radio_core.cli import main as radio
from radio_core.cli import parse
from radio_eval.cli import score as commands
from radio_sam.objects import encode_mask


def cases(shared: Path, name: str) -> list[dict[str, Any]]:
    path = shared / "reference" / "eval_cases" / f"{name}.json"
    return list(json.loads(path.read_text())["cases"])


def score(folder: Path, task: str, truth: object, predictions: object, *options: str) -> Any:
    """What the command writes."""
    files = {"annotations": truth, "predictions": predictions}
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    arguments = [a for name in files for a in (f"--{name}", str(folder / f"{name}.json"))]
    out = folder / "new" / "scores.json"
    command = getattr(commands, task.replace("-", "_"))
    kind = get_type_hints(command)["options"]
    assert command(parse(kind, [*arguments, "--json", str(out), *options], prog=task)) == 0
    return json.loads(out.read_text())


def truth_of(masks: Sequence[np.ndarray], areas: Sequence[float]) -> dict[str, Any]:
    """An annotation file; one image a mask."""
    shapes = [(len(mask), len(mask[0])) for mask in masks]
    return {
        "images": [
            {"id": n, "file_name": f"{n}.jpg", "height": height, "width": width}
            for n, (height, width) in enumerate(shapes)
        ],
        "annotations": [
            {
                "id": 10 * n,
                "image_id": n,
                "category_id": 1,
                "bbox": [0, 0, 1, 1],
                "area": area,
                "iscrowd": n % 2,
                "segmentation": encode_mask(np.array(mask, dtype=bool)),
            }
            for n, (mask, area) in enumerate(zip(masks, areas, strict=True))
        ],
        "categories": [],
    }


def predicted(*masks: Any) -> list[dict[str, Any]]:
    return [
        {"annotation_id": 10 * n, "segmentation": encode_mask(np.array(mask, dtype=bool))}
        for n, mask in enumerate(masks)
    ]


def test_mean_iou_of_the_reference_cases(shared: Path, tmp_path: Path) -> None:
    seen = 0
    for case in cases(shared, "sam_miou"):
        given, expected = case["input"], case["expected"]
        if "gt" in given:
            truth, masks = truth_of([given["gt"]], [5.0]), predicted(given["pred"])
            result = score(tmp_path, "sam-miou", truth, masks)
            assert result["all"] == pytest.approx(expected["paper_version"], abs=1e-9)
            assert (result["small"], result["count"]) == (result["all"], 1)
        elif "results" in given:
            rows = given["results"]
            areas = [row["area"] for row in rows]
            full = np.ones((10, 100), dtype=bool)
            parts = [np.arange(1000).reshape(10, 100) < 10 * row["iou"] for row in rows]
            result = score(
                tmp_path, "sam-miou", truth_of([full] * len(rows), areas), predicted(*parts)
            )
            if isinstance(expected, dict):
                wanted = expected["paper_version"]
                assert {name: result[name] for name in wanted} == pytest.approx(wanted)
            assert result["count"] == len(rows)
        else:
            continue
        assert list(result) == ["all", "small", "medium", "large", "count"]
        seen += 1
    assert seen >= 6


def test_average_precision_of_the_reference_cases(shared: Path, tmp_path: Path) -> None:
    for case in cases(shared, "coco_mask_ap"):
        given = case["input"]
        result = score(tmp_path, "coco-segm", given["gt"], given["detections"])
        assert result == pytest.approx(case["expected"], abs=1e-6), case["name"]
        misleading = [{**d, "bbox": [0, 0, 1, 1]} for d in given["detections"]]
        assert score(tmp_path, "coco-segm", given["gt"], misleading) == result


def test_empty_groups_are_null_and_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mask = np.eye(6, dtype=bool)
    result = score(tmp_path, "sam-miou", truth_of([mask], [2000.0]), predicted(mask))
    assert result == {"all": 100.0, "small": None, "medium": 100.0, "large": None, "count": 1}
    assert "small: -\nmedium: 100.0000\nlarge: -\ncount: 1\n" in capsys.readouterr().out


def test_both_kinds_of_run_lengths_and_polygons(tmp_path: Path) -> None:
    mask = np.zeros((4, 5), dtype=bool)
    mask[:, :2] = True
    truth = truth_of([mask] * 3, [8.0] * 3)
    rows = predicted(mask, mask, mask)
    rows[1]["segmentation"] = {"size": [4, 5], "counts": [0, 8, 12]}
    rows[2]["segmentation"] = [[0, 0, 2, 0, 2, 4, 0, 4]]
    assert score(tmp_path, "sam-miou", truth, rows)["all"] == 100


def test_missing_predictions(tmp_path: Path) -> None:
    mask = np.eye(6, dtype=bool)
    truth, rows = truth_of([mask] * 4, [4.0] * 4), predicted(mask)
    with pytest.raises(ValueError, match=r"3 of 4 annotations have no prediction \(.* 10\)"):
        score(tmp_path, "sam-miou", truth, rows)
    assert score(tmp_path, "sam-miou", truth, rows, "--missing", "skip")["count"] == 1
    zero = score(tmp_path, "sam-miou", truth, rows, "--missing", "zero")
    assert (zero["all"], zero["count"]) == (25, 4)


def test_broken_annotations_do_not_count(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mask = np.eye(6, dtype=bool)
    truth = truth_of([mask] * 3, [4.0] * 3)
    truth["annotations"][1]["segmentation"] = [[1, 2]]
    assert score(tmp_path, "sam-miou", truth, predicted(mask, mask, mask))["count"] == 2
    assert "skipped 1 broken annotations: 1 polygon of fewer" in capsys.readouterr().err


def bad_predictions() -> list[tuple[object, str]]:
    mask = np.eye(6, dtype=bool)
    [good] = predicted(mask)
    turned = {"size": [5, 6], "counts": [30]}
    return [
        ({}, "must hold a list"),
        ([7], "prediction 0 is no object with annotation_id"),
        ([good, good], "prediction 1: a second mask for annotation 0"),
        ([good, {**good, "annotation_id": 5}], "prediction 1: no annotation 5"),
        ([{**good, "segmentation": turned}], r"size \[5, 6\], not \[6, 6\]"),
        ([{**good, "segmentation": {"size": [6, 6], "counts": "zz"}}], "end early"),
        ([{"annotation_id": 0}], "no segmentation"),
    ]


@pytest.mark.parametrize(("rows", "message"), bad_predictions())
def test_bad_predictions_are_refused(tmp_path: Path, rows: object, message: str) -> None:
    truth = truth_of([np.eye(6, dtype=bool)], [4.0])
    with pytest.raises(ValueError, match=message):
        score(tmp_path, "sam-miou", truth, rows)


def test_bad_results_are_refused(shared: Path, tmp_path: Path) -> None:
    given = cases(shared, "coco_mask_ap")[0]["input"]
    good = given["detections"][0]
    without_mask = {name: value for name, value in good.items() if name != "segmentation"}
    for row, message in (
        ({**good, "image_id": 99}, "prediction 1: unknown image: 99"),
        ({**good, "category_id": 0}, "prediction 1: unknown category: 0"),
        ({**good, "score": float("nan")}, "prediction 1: no finite score"),
        (without_mask, "prediction 1: no segmentation"),
    ):
        with pytest.raises(ValueError, match=message):
            score(tmp_path, "coco-segm", given["gt"], [good, row])
    assert score(tmp_path, "coco-segm", given["gt"], [])["AP"] == 0


def test_a_file_that_is_no_json_is_one_line_and_exit_code_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("annotations", "predictions"):
        (tmp_path / f"{name}.json").write_text("{")
    files = [f"--{n}={tmp_path / n}.json" for n in ("annotations", "predictions")]
    assert radio(["score", "sam-miou", *files]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "annotations.json is not valid JSON" in error
