"""SAM with ground-truth boxes on the COCO layout."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("pycocotools", reason="needs the extra 'eval'")
pytest.importorskip("segment_anything", reason="needs the extra 'sam'")

from segment_anything import SamPredictor
from segment_anything.modeling import Sam

from radio_core.data.toyworld.export import export
from radio_core.models.fingerprint import weights_fingerprint
from radio_core.teachers.load import toy_teacher_folder
from radio_core.zoo.registry import BUNDLED
from radio_eval.coco.ap import Detection
from radio_eval.coco.instances import CocoInstances
from radio_eval.contract import TaskResult, run_evaluator
from radio_eval.eval_model import EvalModel
from radio_eval.models import load_sam_model
from radio_eval.sam.miou import SamEvaluator, SamParameters
from radio_eval.sam.results import AnnotationResult, ResultFolder
from radio_eval.sam.scores import box_mask, mask_iou
from radio_eval.scores.baselines import filled_box_miou


def evaluate(evaluator: SamEvaluator, sam: Sam) -> TaskResult:
    model = EvalModel(name="sam", image_size=128, resize_step=8, sam=lambda: sam)
    return run_evaluator(evaluator, model)


def results_of(
    sam: Sam, coco: CocoInstances, folder: Path, parameters: SamParameters | None = None
) -> list[AnnotationResult]:
    """The results of all annotations, in order."""
    given = parameters or SamParameters()
    evaluate(SamEvaluator(coco=coco, parameters=given, results=ResultFolder(folder, {})), sam)
    images = ResultFolder(folder, {}).done.values()
    return [annotation for image in images for annotation in image.annotations]


@pytest.mark.parametrize("batches", [(1, 1), (3, 2), (8, 32)])
def test_batched_scores_equal_the_predictor_one_by_one(
    tiny_sam: Sam, toy_coco: Path, tmp_path: Path, batches: tuple[int, int]
) -> None:
    coco = CocoInstances(toy_coco)
    parameters = SamParameters(images_per_batch=batches[0], prompts_per_batch=batches[1])
    results = results_of(tiny_sam, coco, tmp_path, parameters)
    predictor = SamPredictor(tiny_sam)
    expected = []
    for image_id in coco.image_ids:
        predictor.set_image(coco.image(image_id))
        for instance in coco.instances(image_id):
            masks, ious, _ = predictor.predict(box=np.array(instance.box), multimask_output=True)
            expected.append((mask_iou(masks[ious.argmax()], instance.mask), ious.max()))
    assert [r.iou for r in results] == pytest.approx([iou for iou, _ in expected], abs=1e-3)
    assert [r.predicted_iou for r in results] == pytest.approx([p for _, p in expected], abs=1e-4)


def test_evaluator_and_filled_boxes(tiny_sam: Sam, toy_coco: Path) -> None:
    coco = CocoInstances(toy_coco, limit=3)
    result = evaluate(SamEvaluator(coco=coco), tiny_sam)
    assert result.metrics["count"] == sum(len(coco.instances(i)) for i in coco.image_ids)
    assert 0 <= result.value <= 100
    assert 30 < filled_box_miou(coco) < 100
    blind = EvalModel(name="clip", image_size=128, resize_step=8)
    with pytest.raises(ValueError, match="no Segment Anything decoder"):
        run_evaluator(SamEvaluator(coco=coco), blind)


def test_every_image_is_encoded_once(
    tiny_sam: Sam, toy_coco: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    coco = CocoInstances(toy_coco)
    encoded: list[int] = []
    forward = tiny_sam.image_encoder.forward

    def count(images: torch.Tensor) -> torch.Tensor:
        encoded.append(len(images))
        return torch.as_tensor(forward(images))

    monkeypatch.setattr(tiny_sam.image_encoder, "forward", count)
    boxes = [
        Detection(place=0, image_id=coco.image_ids[0], category_id=1, score=1.0, box=(0, 0, 9, 9))
    ]
    parameters = SamParameters(images_per_batch=3, prompts_per_batch=1)
    evaluate(SamEvaluator(coco=coco, parameters=parameters, detections=boxes), tiny_sam)
    assert encoded == [3, 1]


def test_box_mask_stays_inside_the_image() -> None:
    assert box_mask((1.4, 0.6, 3.0, 9.0), 4, 5).sum() == 2 * 3
    assert box_mask((-3.0, -3.0, 2.0, 2.0), 4, 5).sum() == 4
    assert box_mask((9.0, 9.0, 12.0, 12.0), 4, 5).sum() == 0


def test_crowds_count_and_bad_images_are_skipped(
    tiny_sam: Sam, coco_files: Any, tmp_path: Path
) -> None:
    crowd = {"counts": [0, 300, 900], "size": [30, 40]}
    annotations = [
        coco_files.annotation(1, 1),
        coco_files.annotation(2, 1, iscrowd=1, segmentation=crowd),
        coco_files.annotation(3, 2),
        coco_files.annotation(4, 3),
        coco_files.annotation(5, 4),
    ]
    root = coco_files.write(annotations)
    (root / "val2017/2.png").write_bytes(b"broken")
    Image.new("RGB", (30, 40)).save(root / "val2017/3.png")  # turned by somebody
    (root / "val2017/4.png").unlink()
    coco = CocoInstances(root)
    evaluator = SamEvaluator(coco=coco)
    assert evaluate(evaluator, tiny_sam).metrics["count"] == 2
    assert coco.instances(1)[1].mask.sum() == 300
    images = evaluator.skipped()["images"]
    assert images["reasons"] == {"not an image": 1, "broken": 1, "missing": 1}
    assert list(images["each"]) == ["2", "3", "4"]
    results = results_of(tiny_sam, coco, tmp_path / "results")
    assert [result.annotation_id for result in results] == [1, 2]


def test_odd_boxes_and_empty_masks_are_scored(
    tiny_sam: Sam, coco_files: Any, tmp_path: Path
) -> None:
    nothing = {"counts": [1200], "size": [30, 40]}
    root = coco_files.write(
        [
            coco_files.annotation(1, 1, bbox=[-20, -10, 500, 400]),
            coco_files.annotation(2, 1, bbox=[70, 70, 5, 5]),
            coco_files.annotation(3, 1, bbox=[5, 5, 0, 0], area=0),
            coco_files.annotation(4, 1, segmentation=nothing, area=0),
        ],
    )
    results = results_of(tiny_sam, CocoInstances(root), tmp_path / "results")
    assert [result.annotation_id for result in results] == [1, 2, 3, 4]
    assert results[3].iou == 0


def test_an_image_of_which_nothing_is_left_is_skipped(tiny_sam: Sam, coco_files: Any) -> None:
    line = {"counts": [0, 500], "size": [1, 500]}
    annotations = [coco_files.annotation(1, 1), coco_files.annotation(2, 9, segmentation=line)]
    root = coco_files.write(annotations, sizes={1: (40, 30), 9: (500, 1)})
    evaluator = SamEvaluator(coco=CocoInstances(root))
    assert evaluate(evaluator, tiny_sam).metrics["count"] == 1
    assert "too narrow" in evaluator.skipped()["images"]["each"]["9"]


def test_nothing_readable_is_an_error(tiny_sam: Sam, coco_files: Any) -> None:
    root = coco_files.write([coco_files.annotation(1, 1)])
    (root / "val2017/1.png").write_bytes(b"broken")
    with pytest.raises(ValueError, match="none of the 1 images could be used: not an image"):
        evaluate(SamEvaluator(coco=CocoInstances(root)), tiny_sam)


def test_detections_that_are_the_truth_find_everything(toy_coco: Path) -> None:
    coco = CocoInstances(toy_coco)
    detections = [
        Detection(
            place=i.annotation_id,
            image_id=i.image_id,
            category_id=i.category_id or 0,
            score=0.5,
            box=i.box,
        )
        for i in coco.by_id().values()
    ]
    model = load_sam_model("toy-sam")
    metrics = run_evaluator(SamEvaluator(coco=coco, detections=detections), model).metrics
    alone = run_evaluator(SamEvaluator(coco=coco), model).metrics
    assert metrics["all"] == alone["all"]
    assert 80 < metrics["AP50"] <= 100
    assert 0 < metrics["AP"] <= metrics["AP50"]
    fewer = run_evaluator(SamEvaluator(coco=coco, detections=detections[:1]), model).metrics
    assert fewer["AP"] < metrics["AP"]


def test_names_of_sams() -> None:
    own, toy = load_sam_model("sam"), load_sam_model("toy-sam")
    assert (own.name, toy.name) == ("sam", "toy-sam")
    assert own.sam is not None
    assert toy.sam is not None
    folder = load_sam_model("sam", str(toy_teacher_folder("toy-sam")))
    assert folder.sam is not None
    expected = weights_fingerprint(toy.sam())
    assert [weights_fingerprint(sam) for sam in (own.sam(), folder.sam())] == [expected] * 2
    assert load_sam_model("random:tiny").sam is None
    with pytest.raises(ValueError, match="unknown SAM 'nix'"):
        load_sam_model("sam", "nix")
    with pytest.raises(ValueError, match="takes no window_size"):
        load_sam_model("sam", image_size=64)


@pytest.mark.slow
def test_the_bundled_student_comes_near_to_its_teacher(tmp_path: Path) -> None:
    if not BUNDLED["toy"].is_dir():
        pytest.skip("the bundled student's weights are not part of this installation")
    export(tmp_path, 1, 60, parts=("coco",))
    coco = CocoInstances(tmp_path / "coco")
    student, teacher = (
        run_evaluator(SamEvaluator(coco=coco), load_sam_model(name)).value
        for name in ("toy", "sam")
    )
    assert filled_box_miou(coco) < 70 < teacher
    assert student >= 0.85 * teacher


@pytest.mark.slow
@pytest.mark.parametrize("split", ["train2017", "val2017"])
@pytest.mark.parametrize("name", ["sam", "toy"])
def test_real_coco_runs_with_crowds(shared: Path, split: str, name: str) -> None:
    coco = CocoInstances(shared / "data/coco", split)
    evaluator = SamEvaluator(coco=coco)
    metrics = run_evaluator(evaluator, load_sam_model(name)).metrics
    assert metrics["count"] == {"train2017": 492, "val2017": 546}[split]
    assert any(instance.is_crowd for instance in coco.by_id().values())
    assert all(not account["count"] for account in evaluator.skipped().values())
    assert metrics["small"] + metrics["large"] > 5
