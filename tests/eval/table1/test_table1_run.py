"""`radio eval table1` in a small toy world and on folders."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("open_clip", reason="needs the extra 'clip'")
pytest.importorskip("segment_anything", reason="needs the extra 'sam'")
pytest.importorskip("pycocotools", reason="needs the extra 'eval'")
pytest.importorskip("jinja2", reason="needs the extra 'eval'")

from radio_eval.cli.table1 import main
from radio_eval.contract import run_evaluator
from radio_eval.models import load_eval_model
from radio_eval.progress import silent
from radio_eval.table1 import tasks
from radio_eval.toyworld import ToySizes, prepare_toy_data

MODELS = ["toy-clip", "toy-sam", "random:tiny"]
TASKS = "zero-shot,knn,toy-seg,coco"


def run(out: Path, options: Sequence[str]) -> tuple[int, dict[str, Any]]:
    code = main(["--out", str(out), *options])
    return code, json.loads((out / "table1.json").read_text())


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Collects (model, task) of everything that is evaluated."""
    done: list[tuple[str, str]] = []
    original = tasks.EvaluatorTask.run

    def counted(self: Any, subject: Any, work: Path, progress: Any) -> dict[str, Any]:
        done.append((subject.source, self.identity(subject)["task"]))
        return original(self, subject, work, progress)

    monkeypatch.setattr(tasks.EvaluatorTask, "run", counted)
    return done


def test_cells_equal_the_quickstarts_and_are_not_done_twice(
    tmp_path: Path, small: list[str], toy_world: Path, ran: list[tuple[str, str]]
) -> None:
    flags = ["--models", ",".join(MODELS), "--tasks", TASKS, *small]
    code, content = run(tmp_path / "out", flags)
    assert code == 0
    sizes = ToySizes(
        classification_train=24,
        classification_val=12,
        dense_train=6,
        dense_val=4,
        sam_val=2,
        head_iterations=4,
    )
    data = prepare_toy_data(toy_world, sizes, silent)
    names = {"zero_shot": "zero-shot", "knn": "knn", "linear_seg": "toy-seg", "sam_miou": "coco"}
    expected = {name: dict.fromkeys(TASKS.split(",")) for name in MODELS}
    for name in MODELS:
        model = load_eval_model(name)
        for evaluator in data.evaluators():
            if getattr(model, evaluator.capability) is not None:
                result = run_evaluator(evaluator, model)
                expected[name][names[evaluator.task]] = pytest.approx(result.value, abs=1e-3)
    assert {name: row["scores"] for name, row in content["rows"].items()} == expected
    assert content["rows"]["random:tiny"]["scores"]["coco"] is None
    assert content["rows"]["toy-clip"]["parameters"] < 697_889  # without the text tower
    assert all(row["throughput"] > 0 for row in content["rows"].values())
    found = content["evaluations"]["toy-clip"]["knn"]["result"]
    assert found["parameters"]["k"] == 20
    assert len(ran) == 8

    assert run(tmp_path / "out", flags)[1]["rows"] == content["rows"]
    assert len(ran) == 8
    run(tmp_path / "out", [*flags, "--sizes.head-iterations", "5"])
    assert sorted(ran[8:]) == [(name, "linear_seg") for name in sorted(MODELS)]
    mask = next((toy_world / "dense" / "segmentation" / "annotations" / "validation").iterdir())
    os.utime(mask, (0, 0))
    run(tmp_path / "out", flags)
    assert sorted(ran[11:]) == [(name, "linear_seg") for name in sorted(MODELS)]


def test_what_is_done_survives_an_interruption(
    tmp_path: Path, small: list[str], ran: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = ["--models", "toy-clip", "--tasks", "zero-shot,knn", *small]
    interrupted = tasks.EvaluatorTask.run

    def stop_at_knn(self: Any, subject: Any, work: Path, progress: Any) -> dict[str, Any]:
        if self.capability == "summary":
            raise KeyboardInterrupt
        return interrupted(self, subject, work, progress)

    with monkeypatch.context() as patch:
        patch.setattr(tasks.EvaluatorTask, "run", stop_at_knn)
        with pytest.raises(KeyboardInterrupt):
            main(["--out", str(tmp_path), *flags])
    scores = json.loads((tmp_path / "table1.json").read_text())["rows"]["toy-clip"]["scores"]
    assert scores["zero-shot"] is not None
    assert scores["knn"] is None
    assert run(tmp_path, flags)[0] == 0
    assert ran == [("toy-clip", "zero_shot"), ("toy-clip", "knn")]


def test_a_cell_that_fails_says_why_and_the_rest_is_run(
    tmp_path: Path, toy_coco: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--models", "timm:no_such_net,toy-sam", "--coco", str(toy_coco)]
    flags += ["--imagenet", str(tmp_path / "none"), "--tasks", "knn,voc,coco"]
    code, content = run(tmp_path / "out", [*flags, "--throughput.batch-size", "1"])
    assert code == 1
    scores = content["rows"]["toy-sam"]["scores"]
    assert scores["knn"] is None
    assert scores["voc"] is None
    assert scores["coco"] > 0
    notes = "\n".join(content["notes"])
    assert "VOC of toy-sam: no data: name its folder with --voc DIR" in notes
    assert "k-NN of toy-sam: " in notes
    assert "none" in notes
    assert "timm:no_such_net: the model cannot be loaded" in notes
    shown = capsys.readouterr().out
    assert "name its folder with --voc DIR" in shown
    assert "wrote" in shown


def test_a_defect_in_an_evaluation_does_not_end_the_table(
    tmp_path: Path, small: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> dict[str, Any]:
        raise ZeroDivisionError("by nothing")

    flags = ["--models", "toy-clip", "--tasks", "knn", *small]
    with monkeypatch.context() as patch:
        patch.setattr(tasks.EvaluatorTask, "run", broken)
        code, content = run(tmp_path, flags)
    assert code == 1
    assert content["notes"] == ["k-NN of toy-clip: ZeroDivisionError: by nothing"]
    assert run(tmp_path, flags)[0] == 0


@pytest.mark.slow
def test_llavas_are_trained_once_and_asked_all_questions(
    tmp_path: Path, small: list[str], toy_world: Path
) -> None:
    pytest.importorskip("llava", reason="needs llava-torch, see the extra 'llava'")
    pytest.importorskip("peft", reason="needs the extra 'llava'")
    vqa = "gqa,pope,textvqa,vqav2"
    flags = ["--models", "toy-dino,toy,random:tiny", "--tasks", vqa, *small]
    out = tmp_path / "out"
    code, content = run(out, flags)
    assert code == 0
    for name in ("toy-dino", "toy"):
        assert all(0 <= s <= 100 for s in content["rows"][name]["scores"].values())
    assert set(content["rows"]["random:tiny"]["scores"].values()) == {None}
    assert "RADIO models and teachers" in "\n".join(content["notes"])
    popular = content["evaluations"]["toy"]["pope"]["result"]["metrics"]["popular.f1"]
    assert content["rows"]["toy"]["scores"]["pope"] == popular
    tokens = content["evaluations"]["toy-dino"]["gqa"]["result"]["metrics"]["image_tokens"]
    assert tokens == 144
    trained = sorted(out.glob("llava/*/llava-toy/config.json"))
    assert len(trained) == 2
    times = [path.stat().st_mtime_ns for path in trained]
    assert run(out, flags)[1]["rows"] == content["rows"]
    assert [path.stat().st_mtime_ns for path in trained] == times

    given = f"toy-dino={next(p for p in trained if 'dino' in str(p)).parent}"
    questions = str(toy_world / "llava" / "vqa")
    real = ["--models", "toy-dino,toy", "--vqa", questions, "--llava", given, "--tasks", "gqa"]
    code, again = run(tmp_path / "given", [*real, "--throughput.batch-size", "1"])
    assert code == 0
    same = content["rows"]["toy-dino"]["scores"]["gqa"]
    assert again["rows"]["toy-dino"]["scores"]["gqa"] == pytest.approx(same)
    assert again["rows"]["toy"]["scores"]["gqa"] is None
    assert again["notes"] == ["GQA of toy: no LLaVA of toy was given (--llava toy=DIR)"]
