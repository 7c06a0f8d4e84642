"""Results of the SAM evaluation on disk: kept, continued, refused, shared by processes."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("pycocotools", reason="needs the extra 'eval'")
pytest.importorskip("segment_anything", reason="needs the extra 'sam'")

from segment_anything.modeling import Sam

from radio_core.models.fingerprint import weights_fingerprint
from radio_eval.coco.instances import CocoInstances
from radio_eval.contract import run_evaluator
from radio_eval.eval_model import EvalModel
from radio_eval.processes import Processes
from radio_eval.sam.miou import SamEvaluator, SamParameters
from radio_eval.sam.results import (
    AnnotationResult,
    DetectionResult,
    ImageResult,
    PartFile,
    ResultFolder,
)

FILES = ("images.jsonl", "annotations.json")


class Killed(BaseException):
    """The end of a process, at no convenient moment."""


def run(
    sam: Sam,
    coco: CocoInstances,
    folder: Path,
    *,
    stop_after: int | None = None,
    processes: Processes | None = None,
) -> list[int]:
    """Evaluate with two images a batch; returns how many images were encoded in each batch."""
    encoded: list[int] = []

    def note(_: torch.nn.Module, images: tuple[torch.Tensor]) -> None:
        encoded.append(len(images[0]))

    def stop(_: str, done: int, __: int) -> None:
        if done == stop_after:
            raise Killed

    hook = sam.image_encoder.register_forward_pre_hook(note)
    evaluator = SamEvaluator(
        coco=coco,
        parameters=SamParameters(images_per_batch=2, keep_masks=True),
        results=ResultFolder(folder, {"model": "a"}),
        processes=processes or Processes(),
    )
    model = EvalModel(name="sam", image_size=128, resize_step=8, sam=lambda: sam)
    try:
        run_evaluator(evaluator, model, stop)
    finally:
        hook.remove()
    return encoded


def contents(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in FILES]


def test_an_interrupted_run_goes_on_where_it_stopped(
    tiny_sam: Sam, toy_coco: Path, tmp_path: Path
) -> None:
    coco = CocoInstances(toy_coco)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert run(tiny_sam, coco, whole) == [2, 2]
    with pytest.raises(Killed):
        run(tiny_sam, coco, broken, stop_after=2)
    part = broken / "images.part-0.jsonl"
    assert len(part.read_bytes().splitlines()) == 1 + 2
    with part.open("ab") as file:
        file.write(b'{"image_id": 3, "annotations": [{"annot')  # killed while it wrote
    assert run(tiny_sam, coco, broken) == [2]
    assert contents(broken) == contents(whole)
    assert not part.exists()
    assert run(tiny_sam, coco, broken) == []  # nothing is left to do
    assert contents(broken) == contents(whole)


def test_a_process_that_died_before_its_first_line_was_whole(
    tiny_sam: Sam, toy_coco: Path, tmp_path: Path
) -> None:
    (tmp_path / "images.part-0.jsonl").write_bytes(b'{"format": "rad')
    assert run(tiny_sam, CocoInstances(toy_coco), tmp_path) == [2, 2]


def test_parts_of_any_number_of_processes_give_the_same_files(
    tiny_sam: Sam, toy_coco: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    coco = CocoInstances(toy_coco)
    whole, shared = tmp_path / "whole", tmp_path / "shared"
    run(tiny_sam, coco, whole)

    def dies(self: Processes, value: object) -> list[object]:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Processes, "gather", dies)
        for rank in (0, 1):
            with pytest.raises(Killed):
                run(tiny_sam, coco, shared, processes=Processes(rank=rank, count=2))
    assert {path.name for path in shared.iterdir()} == {
        "images.part-0.jsonl",
        "images.part-1.jsonl",
    }
    assert run(tiny_sam, coco, shared) == []
    assert contents(shared) == contents(whole)


def test_a_repaired_image_is_not_skipped_again(
    tiny_sam: Sam, coco_files: Any, tmp_path: Path
) -> None:
    annotations = [coco_files.annotation(n, n) for n in (1, 2, 3)]
    root = coco_files.write(annotations)
    picture = (root / "val2017/3.png").read_bytes()
    (root / "val2017/3.png").write_bytes(b"broken")
    coco = CocoInstances(root)
    assert run(tiny_sam, coco, tmp_path / "out") == [2]
    assert run(tiny_sam, coco, tmp_path / "out") == []
    assert len(json.loads((tmp_path / "out/annotations.json").read_text())) == 2
    (root / "val2017/3.png").write_bytes(picture)
    assert run(tiny_sam, coco, tmp_path / "out") == [1]
    rows = json.loads((tmp_path / "out/annotations.json").read_text())
    assert [row["annotation_id"] for row in rows] == [1, 2, 3]
    assert set(rows[0]) == {
        "annotation_id",
        "image_id",
        "area",
        "iou",
        "predicted_iou",
        "segmentation",
    }


def test_results_of_another_evaluation_are_refused_until_removed(tmp_path: Path) -> None:
    part = ResultFolder(tmp_path, {"model": "a", "weights": "1"}).open_part(0)
    part.close()
    (tmp_path / "notes.txt").write_text("mine")
    ResultFolder(tmp_path, {"model": "a", "weights": "1"})
    with pytest.raises(ValueError, match=r"weights: 1, now 2\); choose another --out"):
        ResultFolder(tmp_path, {"model": "a", "weights": "2"})
    ResultFolder.clear(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    assert ResultFolder(tmp_path, {"weights": "2"}).done == {}


@pytest.mark.parametrize("line", [b"\xff", b"[]", b"{}", b'{"image_id": 1, "annotations": [7]}'])
def test_a_damaged_line_is_an_error(tmp_path: Path, line: bytes) -> None:
    ResultFolder(tmp_path, {}).open_part(0).close()
    with (tmp_path / "images.part-0.jsonl").open("ab") as file:
        file.write(line + b"\n")
    with pytest.raises(ValueError, match="line 2 is damaged; remove the file, or pass --overwrite"):
        ResultFolder(tmp_path, {})


def test_results_survive_the_file_bit_by_bit(tmp_path: Path) -> None:
    result = ImageResult(
        image_id=7,
        annotations=(
            AnnotationResult(annotation_id=1, image_id=7, area=0.1, iou=100 / 3, predicted_iou=0.7),
        ),
        detections=(
            DetectionResult(
                image_id=7,
                category_id=2,
                score=1 / 3,
                predicted_iou=0.5,
                segmentation={"size": [2, 3], "counts": "6"},
            ),
        ),
    )
    part = PartFile(tmp_path / "images.part-0.jsonl", {"format": "radio eval sam-coco, 1"})
    part.write([result, ImageResult(image_id=8, skipped="missing")])
    part.close()
    assert ResultFolder(tmp_path, {}).done == {7: result}


def test_the_fingerprint_sees_every_weight(tiny_sam: Sam) -> None:
    copied = copy.deepcopy(tiny_sam)
    assert weights_fingerprint(copied) == weights_fingerprint(tiny_sam)
    with torch.no_grad():
        list(copied.parameters())[-1].view(-1)[-1] += 1
    assert weights_fingerprint(copied) != weights_fingerprint(tiny_sam)


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
