"""SAM with ground-truth boxes on the COCO layout."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("pycocotools", reason="needs the extra 'eval'")
pytest.importorskip("segment_anything", reason="needs the extra 'sam'")

from segment_anything import SamPredictor
from segment_anything.modeling import Sam

from radio_core.data.folder import FolderError
from radio_core.data.toyworld.export import export
from radio_core.teachers.sam_build import SamConfig, build_sam
from radio_eval.baselines import filled_box_miou
from radio_eval.coco import CocoInstances
from radio_eval.contract import run_evaluator
from radio_eval.eval_model import EvalModel
from radio_eval.progress import silent
from radio_eval.sam_miou import SamEvaluator, SamParameters, score_sam
from radio_eval.sam_scores import box_mask, mask_iou


@pytest.fixture(scope="module")
def sam() -> Sam:
    torch.manual_seed(0)
    config = SamConfig(
        image_size=128,
        patch_size=8,
        embed_dim=16,
        depth=1,
        num_heads=2,
        window_size=8,
        global_blocks=(0,),
        neck_dim=16,
        decoder_heads=2,
        decoder_mlp_dim=16,
    )
    return build_sam(config).eval()


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("toy")
    export(out, 1, 4, parts=("coco",))
    return out / "coco"


@pytest.mark.parametrize("batches", [(1, 1), (3, 2), (8, 32)])
def test_batched_scores_equal_the_predictor_one_by_one(
    sam: Sam, toy: Path, batches: tuple[int, int]
) -> None:
    coco = CocoInstances(toy)
    parameters = SamParameters(images_per_batch=batches[0], prompts_per_batch=batches[1])
    scores = score_sam(sam, coco, parameters, silent)
    predictor = SamPredictor(sam)
    expected = []
    for image_id in coco.image_ids:
        image = coco.image(image_id)
        assert image is not None
        predictor.set_image(image)
        for instance in coco.instances(image_id):
            masks, ious, _ = predictor.predict(box=np.array(instance.box), multimask_output=True)
            expected.append(mask_iou(masks[ious.argmax()], coco.mask(instance.annotation_id)))
    assert [s.iou for s in scores] == pytest.approx(expected, abs=1e-3)


def test_evaluator_and_filled_boxes(sam: Sam, toy: Path) -> None:
    coco = CocoInstances(toy, limit=3)
    model = EvalModel(name="sam", image_size=128, resize_step=8, sam=lambda: sam)
    result = run_evaluator(SamEvaluator(coco=coco), model)
    assert result.metrics["count"] == sum(len(coco.instances(i)) for i in coco.image_ids)
    assert 0 <= result.value <= 100
    assert 30 < filled_box_miou(coco) < 100
    blind = EvalModel(name="clip", image_size=128, resize_step=8)
    with pytest.raises(ValueError, match="no Segment Anything decoder"):
        run_evaluator(SamEvaluator(coco=coco), blind)


def test_box_mask_stays_inside_the_image() -> None:
    assert box_mask((1.4, 0.6, 3.0, 9.0), 4, 5).sum() == 2 * 3
    assert box_mask((-3.0, -3.0, 2.0, 2.0), 4, 5).sum() == 4
    assert box_mask((9.0, 9.0, 12.0, 12.0), 4, 5).sum() == 0


def write_coco(root: Path, annotations: list[dict[str, object]]) -> Path:
    (root / "annotations").mkdir(parents=True)
    (root / "val2017").mkdir()
    images = []
    for index, size in ((1, (40, 30)), (2, (40, 30)), (3, (40, 30))):
        Image.new("RGB", size, (9 * index, 99, 0)).save(root / f"val2017/{index}.png")
        images.append({"id": index, "file_name": f"{index}.png", "width": 40, "height": 30})
    content = {"images": images, "annotations": annotations, "categories": []}
    (root / "annotations/instances_val2017.json").write_text(json.dumps(content))
    return root


def annotation(number: int, image: int, **changes: object) -> dict[str, object]:
    polygon = [[5, 5, 20, 5, 20, 15, 5, 15]]
    return {
        "id": number,
        "image_id": image,
        "category_id": 1,
        "bbox": [5, 5, 15, 10],
        "area": 150,
        "iscrowd": 0,
        "segmentation": polygon,
        **changes,
    }


def test_crowds_count_and_bad_images_are_skipped(sam: Sam, tmp_path: Path) -> None:
    crowd = {"counts": [0, 300, 900], "size": [30, 40]}
    root = write_coco(
        tmp_path,
        [
            annotation(1, 1),
            annotation(2, 1, iscrowd=1, segmentation=crowd),
            annotation(3, 2),
            annotation(4, 3),
        ],
    )
    (root / "val2017/2.png").write_bytes(b"broken")
    Image.new("RGB", (30, 40)).save(root / "val2017/3.png")  # turned by somebody
    coco = CocoInstances(root)
    scores = score_sam(sam, coco, SamParameters(), silent)
    assert [score.annotation_id for score in scores] == [1, 2]
    assert coco.mask(2).sum() == 300
    assert sorted(Path(path).name for path, _ in coco.skipped) == ["2.png", "3.png"]


def test_bad_annotation_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match=r"instances_val2017\.json is missing"):
        CocoInstances(tmp_path)
    root = write_coco(tmp_path, [])
    with pytest.raises(FolderError, match="no annotations"):
        CocoInstances(root)
    (root / "annotations/instances_val2017.json").write_text("[]")
    with pytest.raises(FolderError, match="not a COCO annotation file"):
        CocoInstances(root)


def test_real_coco_runs_with_crowds(sam: Sam, shared: Path) -> None:
    coco = CocoInstances(shared / "data/coco", limit=2)
    scores = score_sam(sam, coco, SamParameters(), silent)
    assert len(scores) == sum(len(coco.instances(i)) for i in coco.image_ids)
    assert not coco.skipped
