"""The task sam-coco: its scores, its results on disk, and what a run of it imports."""

import json
import os
import subprocess
import sys
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
from radio_core.open import open_model
from radio_core.processes import Processes
from radio_core.zoo.releases import BUNDLED
from radio_eval.data.coco import CocoInstances
from radio_eval.runner import Context, TaskResult, run_task
from radio_eval.scores.masks import mask_iou
from radio_eval.tasks.sam_coco import SamCoco
from radio_sam.vision import SamVision

FILES = ("images.jsonl", "annotations.json")


def evaluate(sam: Sam, data: Path, **fields: Any) -> TaskResult:
    return run_task(SamCoco(data=data, **fields), SamVision("sam", sam))


def annotations(out: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((out / "annotations.json").read_text())
    return found


@pytest.mark.parametrize("batches", [(1, 1), (3, 2), (8, 32)])
def test_batched_scores_equal_the_predictor_one_by_one(
    tiny_sam: Sam, toy_coco: Path, tmp_path: Path, batches: tuple[int, int]
) -> None:
    size = {"batch_size": batches[0], "prompts_per_batch": batches[1]}
    evaluate(tiny_sam, toy_coco, out=tmp_path, **size)
    coco, predictor, expected = CocoInstances(toy_coco), SamPredictor(tiny_sam), []
    for image_id in coco.image_ids:
        predictor.set_image(coco.image(image_id))
        for instance in coco.instances(image_id):
            masks, ious, _ = predictor.predict(box=np.array(instance.box), multimask_output=True)
            expected.append((mask_iou(masks[ious.argmax()], instance.mask), ious.max()))
    found = annotations(tmp_path)
    assert [r["iou"] for r in found] == pytest.approx([iou for iou, _ in expected], abs=1e-3)
    predicted = [float(iou) for _, iou in expected]
    assert [r["predicted_iou"] for r in found] == pytest.approx(predicted, abs=1e-4)


def test_a_limit_and_a_model_without_masks(tiny_sam: Sam, toy_coco: Path) -> None:
    coco = CocoInstances(toy_coco, limit=3)
    result = evaluate(tiny_sam, toy_coco, limit=3)
    assert result.metrics["count"] == sum(len(coco.instances(i)) for i in coco.image_ids)
    assert result.value is not None
    assert 0 <= result.value <= 100
    with pytest.raises(ValueError, match="no Segment Anything decoder"):
        run_task(SamCoco(data=toy_coco), open_model("random:tiny"))


def boxes_file(path: Path, coco: CocoInstances, count: int | None = None) -> Path:
    """The true boxes, as a detector's."""
    rows = [
        {
            "image_id": i["image_id"],
            "category_id": i["category_id"],
            "bbox": i["bbox"],
            "score": 0.5,
        }
        for i in coco.to_json()["annotations"]
    ]
    path.write_text(json.dumps(rows[:count]))
    return path


def test_every_image_is_encoded_once(
    tiny_sam: Sam, toy_coco: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[int] = []
    forward = tiny_sam.image_encoder.forward

    def count(images: torch.Tensor) -> torch.Tensor:
        encoded.append(len(images))
        return torch.as_tensor(forward(images))

    monkeypatch.setattr(tiny_sam.image_encoder, "forward", count)
    boxes = boxes_file(tmp_path / "boxes.json", CocoInstances(toy_coco), 1)
    evaluate(tiny_sam, toy_coco, batch_size=3, prompts_per_batch=1, detections=boxes)
    assert encoded == [3, 1]


def test_crowds_count_and_bad_images_are_skipped(
    tiny_sam: Sam, coco_files: Any, tmp_path: Path
) -> None:
    crowd = {"counts": [0, 300, 900], "size": [30, 40]}
    root = coco_files.write(
        [
            coco_files.annotation(1, 1),
            coco_files.annotation(2, 1, iscrowd=1, segmentation=crowd),
            coco_files.annotation(3, 2),
            coco_files.annotation(4, 3),
            coco_files.annotation(5, 4),
        ]
    )
    (root / "val2017/2.png").write_bytes(b"broken")
    Image.new("RGB", (30, 40)).save(root / "val2017/3.png")  # turned by somebody
    (root / "val2017/4.png").unlink()
    result = evaluate(tiny_sam, root, out=tmp_path / "out")
    assert result.metrics["count"] == 2
    assert CocoInstances(root).instances(1)[1].mask.sum() == 300
    images = result.skipped["images"]
    assert images["reasons"] == {"not an image": 1, "broken": 1, "missing": 1}
    assert list(images["each"]) == ["2", "3", "4"]
    assert [row["annotation_id"] for row in annotations(tmp_path / "out")] == [1, 2]


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
    evaluate(tiny_sam, root, out=tmp_path / "out")
    found = annotations(tmp_path / "out")
    assert [row["annotation_id"] for row in found] == [1, 2, 3, 4]
    assert found[3]["iou"] == 0


def test_an_image_of_which_nothing_is_left_is_skipped(tiny_sam: Sam, coco_files: Any) -> None:
    line = {"counts": [0, 500], "size": [1, 500]}
    rows = [coco_files.annotation(1, 1), coco_files.annotation(2, 9, segmentation=line)]
    result = evaluate(tiny_sam, coco_files.write(rows, sizes={1: (40, 30), 9: (500, 1)}))
    assert result.metrics["count"] == 1
    assert "too narrow" in result.skipped["images"]["each"]["9"]


def test_nothing_readable_is_an_error(tiny_sam: Sam, coco_files: Any) -> None:
    root = coco_files.write([coco_files.annotation(1, 1)])
    (root / "val2017/1.png").write_bytes(b"broken")
    with pytest.raises(ValueError, match="none of the 1 images could be used: not an image"):
        evaluate(tiny_sam, root)


def test_detections_that_are_the_truth_find_everything(toy_coco: Path, tmp_path: Path) -> None:
    coco, model = CocoInstances(toy_coco), open_model("toy-sam")

    def metrics(count: int | None) -> dict[str, Any]:
        boxes = boxes_file(tmp_path / "boxes.json", coco, count)
        return run_task(SamCoco(data=toy_coco, detections=boxes), model).metrics

    alone, every, one = run_task(SamCoco(data=toy_coco), model).metrics, metrics(None), metrics(1)
    assert every["all"] == alone["all"]
    assert 80 < every["AP50"] <= 100
    assert 0 < every["AP"] <= every["AP50"]
    assert one["AP"] < every["AP"]


class Killed(BaseException):
    """The end of a process, at no convenient moment."""


def run(
    sam: Sam,
    data: Path,
    out: Path,
    *,
    stop_after: int | None = None,
    processes: Processes | None = None,
) -> list[int]:
    """Evaluate with two images a batch; returns how many images were encoded in each batch."""
    encoded: list[int] = []

    def note(_: torch.nn.Module, images: tuple[torch.Tensor]) -> None:
        encoded.append(len(images[0]))

    def stop(_: str, done: int, __: int | None) -> None:
        if done == stop_after:
            raise Killed

    hook = sam.image_encoder.register_forward_pre_hook(note)
    task = SamCoco(data=data, out=out, batch_size=2, save_masks=True)
    context = Context(processes=processes or Processes(), progress=stop)
    try:
        run_task(task, SamVision("sam", sam), context)
    finally:
        hook.remove()
    return encoded


def contents(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in FILES]


def test_an_interrupted_run_goes_on_where_it_stopped(
    tiny_sam: Sam, toy_coco: Path, tmp_path: Path
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert run(tiny_sam, toy_coco, whole) == [2, 2]
    with pytest.raises(Killed):
        run(tiny_sam, toy_coco, broken, stop_after=2)
    with (broken / "images.jsonl").open("ab") as file:
        file.write(b'{"image_id": 3, "annotations": [{"annot')  # killed while it wrote
    assert run(tiny_sam, toy_coco, broken) == [2]
    assert contents(broken) == contents(whole)
    assert run(tiny_sam, toy_coco, broken) == []  # nothing is left to do
    assert contents(broken) == contents(whole)


def test_parts_of_any_number_of_processes_give_the_same_files(
    tiny_sam: Sam, toy_coco: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, shared = tmp_path / "whole", tmp_path / "shared"
    run(tiny_sam, toy_coco, whole)
    with monkeypatch.context() as patch:
        patch.setattr(Processes, "gather", lambda self, value, patient=False: [value])
        for rank in (0, 1):
            processes = Processes(rank=rank, size=2)
            with pytest.raises(Killed):
                run(tiny_sam, toy_coco, shared, processes=processes, stop_after=2)
    assert {path.name for path in shared.iterdir()} == {
        *("images.jsonl", "images.jsonl.part-1", "images.jsonl.identity.json")
    }
    assert run(tiny_sam, toy_coco, shared) == []
    assert contents(shared) == contents(whole)


def test_a_repaired_image_is_not_skipped_again(
    tiny_sam: Sam, coco_files: Any, tmp_path: Path
) -> None:
    root = coco_files.write([coco_files.annotation(n, n) for n in (1, 2, 3)])
    picture = (root / "val2017/3.png").read_bytes()
    (root / "val2017/3.png").write_bytes(b"broken")
    assert run(tiny_sam, root, tmp_path / "out") == [2]
    assert run(tiny_sam, root, tmp_path / "out") == []
    assert len(annotations(tmp_path / "out")) == 2
    (root / "val2017/3.png").write_bytes(picture)
    assert run(tiny_sam, root, tmp_path / "out") == [1]
    rows = annotations(tmp_path / "out")
    assert [row["annotation_id"] for row in rows] == [1, 2, 3]
    assert set(rows[0]) == {
        *("annotation_id", "image_id", "area", "iou", "predicted_iou", "segmentation")
    }


def test_results_of_another_evaluation_are_refused_until_removed(
    tiny_sam: Sam, toy_coco: Path, tmp_path: Path
) -> None:
    evaluate(tiny_sam, toy_coco, out=tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"limit: None, now 2.*--overwrite"):
        evaluate(tiny_sam, toy_coco, out=tmp_path, limit=2)
    with (tmp_path / "images.jsonl").open("ab") as file:
        file.write(b'{"image_id": 1, "annotations": [7], "detections": []}\n')
    with pytest.raises(ValueError, match="line 5 is damaged"):
        evaluate(tiny_sam, toy_coco, out=tmp_path)
    assert evaluate(tiny_sam, toy_coco, out=tmp_path, limit=2, overwrite=True).metrics["count"]
    assert (tmp_path / "notes.txt").exists()


@pytest.mark.slow
def test_the_bundled_student_comes_near_to_its_teacher(tmp_path: Path) -> None:
    if not BUNDLED["toy"].is_dir():
        pytest.skip("the bundled student's weights are not part of this installation")
    export(tmp_path, 1, 60, parts=("coco",))
    task = SamCoco(data=tmp_path / "coco")
    student, teacher = (run_task(task, open_model(n)).value or 0 for n in ("toy", "toy-sam"))
    assert teacher > 70
    assert student >= 0.85 * teacher


@pytest.mark.slow
@pytest.mark.parametrize(("split", "count"), [("train2017", 492), ("val2017", 546)])
@pytest.mark.parametrize("name", ["toy-sam", "toy"])
def test_real_coco_runs_with_crowds(shared: Path, split: str, count: int, name: str) -> None:
    task = SamCoco(data=shared / "data/coco", split=split)
    result = run_task(task, open_model(name))
    assert result.metrics["count"] == count
    assert any(instance.is_crowd for instance in task.coco.by_id().values())
    assert all(not account["count"] for account in result.skipped.values())
    assert (result.metrics["small"] or 0) + (result.metrics["large"] or 0) > 5


@pytest.mark.slow
def test_two_processes_give_what_one_gives(toy_coco: Path, tmp_path: Path) -> None:
    options = ["eval", "sam-coco", "--model", "toy-sam", "--coco", str(toy_coco)]
    options += ["--batch-size", "1", "--device", "cpu"]
    one = [sys.executable, "-m", "radio_core.cli", *options]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    two = [sys.executable, *launcher, "-m", "radio_core.cli", *options]
    printed = []
    for name, command in (("one", one), ("two", two)):
        out = ["--out", str(tmp_path / name), "--json", str(tmp_path / f"{name}.json")]
        done = subprocess.run(
            [*command, *out],
            capture_output=True,
            text=True,
            timeout=300,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            check=False,
        )
        assert done.returncode == 0, done.stderr
        printed.append(done.stdout)
    assert printed[0] == printed[1]
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    results = [json.loads((tmp_path / f"{name}.json").read_text()) for name in ("one", "two")]
    assert results[0]["metrics"] == results[1]["metrics"]
    assert [result["processes"] for result in results] == [1, 2]


def test_a_run_imports_few_of_our_modules(toy_coco: Path) -> None:
    code = """
import sys
from radio_core.cli import main
assert main(["eval", "sam-coco", *sys.argv[1:]]) == 0
ours = sorted(name for name in sys.modules if name.partition(".")[0].startswith("radio_"))
assert len(ours) <= 100, f"{len(ours)}: {ours}"
"""
    options = ["--model", "toy", "--data", str(toy_coco), "--limit", "1", "--device", "cpu"]
    done = subprocess.run(
        [sys.executable, "-c", code, *options],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
