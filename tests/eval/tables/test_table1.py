"""`radio eval table1` in a small toy world and on folders; what it refuses before any work."""

import dataclasses
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

from radio_core.cli import UsageError, parse
from radio_core.open import open_model
from radio_core.progress import silent
from radio_eval.cli import tables
from radio_eval.runner import run_task
from radio_eval.tables import filling
from radio_eval.tables.filling import Cell
from radio_eval.tables.llavas import Llavas
from radio_eval.tables.table1 import Table1Options, vqa_note
from radio_eval.toyworld import ToySizes, toy_tasks

MODELS = ["toy-clip", "toy-sam", "random:tiny"]
TASKS = {"zero-shot": "zero_shot", "knn": "knn", "toy-seg": "linear_seg", "coco": "sam_miou"}


def main(options: Sequence[str]) -> int:
    return tables.table1(parse(Table1Options, options, prog="radio eval table1"))


def run(out: Path, options: Sequence[str]) -> tuple[int, dict[str, Any]]:
    code = main(["--out", str(out), *options])
    return code, json.loads((out / "table1.json").read_text())


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Collects (model, task) of everything that is evaluated."""
    done: list[tuple[str, str]] = []

    def counted(task: Any, model: Any, context: Any) -> Any:
        done.append((model.spec.name, task.name))
        return run_task(task, model, context)

    monkeypatch.setattr(filling, "run_task", counted)
    return done


def test_cells_are_what_the_tasks_give_and_are_not_done_twice(
    tmp_path: Path, small: list[str], toy_world: Path, ran: list[tuple[str, str]]
) -> None:
    flags = ["--models", ",".join(MODELS), "--tasks", ",".join(TASKS), *small]
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
    alone = toy_tasks(toy_world, sizes, silent)
    expected = {name: dict.fromkeys(TASKS) for name in MODELS}
    for name in MODELS:
        model = open_model(name)
        for column, task in TASKS.items():
            if not alone[task].lacks(model):
                value = run_task(alone[task], model).value
                expected[name][column] = pytest.approx(value, abs=1e-3)
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
    counted = filling.run_task

    def stop_at_knn(task: Any, model: Any, context: Any) -> Any:
        if task.name == "knn":
            raise KeyboardInterrupt
        return counted(task, model, context)

    with monkeypatch.context() as patch:
        patch.setattr(filling, "run_task", stop_at_knn)
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
    def broken(*_: Any) -> Any:
        raise ZeroDivisionError("by nothing")

    flags = ["--models", "toy-clip", "--tasks", "knn", *small]
    with monkeypatch.context() as patch:
        patch.setattr(filling, "run_task", broken)
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


@pytest.mark.parametrize(
    ("pope", "value", "metrics", "note"),
    [
        (True, 80.0, {"popular.yes_ratio": 40.0}, ""),
        (True, 0.0, {"popular.yes_ratio": 0.0}, "every answer to the popular questions is no"),
        (True, None, {"accuracy": 84.0}, "the questions of POPE have no popular split"),
        (False, 50.0, {}, ""),
        (False, None, {}, "no labels; the answers are in a.jsonl"),
    ],
)
def test_a_vqa_cell_says_what_its_number_lacks(
    pope: bool, value: float | None, metrics: dict[str, float], note: str
) -> None:
    cell = Cell(value=value, note="no labels", result={"metrics": metrics})
    assert vqa_note(cell, pope, Path("a.jsonl")) == note


def test_a_folder_without_a_model_is_no_llava(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no directory with a trained LLaVA"):
        Llavas(folders={"toy": tmp_path}, device="cpu").identity("toy")


def test_models_of_every_form_are_taken(tmp_path: Path) -> None:
    names = ["toy", "toy-clip", "radio_h", "random:tiny", "timm:vit", "hf:a/b", "nvidia/RADIO"]
    names += ["open_clip:ViT-L-14/openai", "dinov2:facebook/x", "sam:vit_h:f.pth", str(tmp_path)]
    assert Table1Options(models=" , ".join(names)).sources == tuple(names)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--models", ""], "names no model"),
        (["--models", "toy,toyy"], "unknown model 'toyy'; known: toy, toy-clip"),
        (["--models", "toy,timm:"], "unknown model 'timm:'"),
        (["--models", "tests/none"], "unknown model"),
        (["--models", "toy,toy-clip,toy"], "toy twice"),
        (["--models", "radio_h,radio_v2.5-h"], "twice: as 'radio_h' and as 'radio_v2.5-h'"),
        (["--tasks", "knn,ocr"], "known: zero-shot, knn, ade20k"),
        (["--tasks", "ade20k"], "toy-seg in place of ade20k"),
        (["--tasks", "toy-seg", "--voc", "v"], "toy-seg is a task of the toy world"),
        (["--data", "d", "--voc", "v"], "--data is the toy world's"),
        (["--llava", "toy=d"], "--llava needs the questions"),
        (["--vqa", "v", "--llava", "toy"], "must be MODEL=DIR"),
        (["--vqa", "v", "--llava", "toy-none=d"], "--models has toy"),
        (["--vqa", "v", "--llava", "toy=d", "toy=e"], "twice"),
        (["--iterations", "0"], "at least 1"),
    ],
)
def test_wrong_options_are_refused_before_any_work(
    options: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "tests").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises((UsageError, SystemExit)) as caught:
        main(["--out", "out", *options])
    told = f"{caught.value} {capsys.readouterr().err}"  # the option parser prints what it refuses
    assert message in " ".join(told.replace("│", " ").split())
    assert not (tmp_path / "out").exists()


def test_several_processes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="one process"):
        main(["--models", "toy"])


def test_columns_keep_the_papers_order() -> None:
    chosen = Table1Options(tasks="coco, knn,gqa", coco=Path("c")).columns
    assert [column.name for column in chosen] == ["knn", "gqa", "coco"]
    of_toys = [column.name for column in Table1Options().columns]
    assert of_toys == ["zero-shot", "knn", "toy-seg", "gqa", "pope", "textvqa", "vqav2", "coco"]
    folders = dataclasses.replace(Table1Options(voc=Path("v")), imagenet=Path("i")).columns
    assert [column.name for column in folders] == ["zero-shot", "knn", "voc"]
