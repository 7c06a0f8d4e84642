"""What a VQA cell makes of its task's scores."""

from pathlib import Path
from typing import Any

import pytest

from radio_core.progress import silent
from radio_eval.runner import TaskResult
from radio_eval.table1 import tasks
from radio_eval.table1.llavas import GivenLlavas
from radio_eval.table1.models import Subject

SUBJECT = Subject(
    source="toy", weights="w", parameters=1, resolution=8, resizing={}, capabilities=frozenset()
)


class Mute(GivenLlavas):
    """LLaVAs that are never loaded."""

    def answerer(self, subject: Subject) -> Any:
        return None


def cell(
    task: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    metrics: dict[str, float | None],
    unscored: str = "",
) -> dict[str, Any]:
    result = TaskResult(
        task="vqa",
        model="mute",
        value=metrics.get("accuracy"),
        metrics=metrics,
        parameters={},
        seconds=1.0,
        unscored=unscored,
    )
    monkeypatch.setattr(tasks, "run_task", lambda *_, **__: result)
    made = tasks.VqaTask(
        task=task,
        folder=folder,
        llavas=Mute(folders={"toy": folder}, device="cpu"),
        batch_size=1,
        max_new_tokens=1,
    )
    return made.run(SUBJECT, folder / "work", silent)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """GQA with its right answers, and VQAv2 without, as LLaVA's folders have them."""
    (tmp_path / "gqa").mkdir()
    (tmp_path / "gqa" / "llava_gqa_val.jsonl").write_text("")
    (tmp_path / "gqa" / "val_balanced_questions.json").write_text("{}")
    (tmp_path / "vqav2").mkdir()
    (tmp_path / "vqav2" / "llava_vqav2_mscoco_test-dev2015.jsonl").write_text("")
    (tmp_path / "pope").mkdir()
    (tmp_path / "pope" / "llava_pope_test.jsonl").write_text("")
    (tmp_path / "pope" / "coco_pope_popular.json").write_text("")
    return tmp_path


def test_of_pope_the_popular_questions_f1_counts(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics: dict[str, float | None] = {"accuracy": 84.0, "f1": 85.0, "random.f1": 90.0}
    popular = metrics | {"popular.f1": 80.0, "popular.yes_ratio": 40.0}
    found = cell("pope", folder, monkeypatch, popular)
    assert (found["value"], found["note"]) == (80.0, "")
    constant = popular | {"popular.f1": 0.0, "popular.yes_ratio": 0.0}
    found = cell("pope", folder, monkeypatch, constant)
    assert (found["value"], found["note"]) == (0.0, "every answer to the popular questions is no")
    without = cell("pope", folder, monkeypatch, metrics)
    assert without["value"] is None
    assert "no popular split" in without["note"]


def test_answers_without_public_labels_leave_the_cell_empty_and_are_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = cell("vqav2", folder, monkeypatch, {"accuracy": None})
    assert found["value"] is None
    assert str(folder / "work" / "answers.jsonl") in found["note"]


def test_answers_that_cannot_be_scored_are_a_failure(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="2 questions without an answer"):
        cell("gqa", folder, monkeypatch, {"accuracy": None}, "2 questions without an answer")


def test_a_folder_without_a_model_is_no_llava(folder: Path) -> None:
    with pytest.raises(ValueError, match="no directory with a trained LLaVA"):
        GivenLlavas(folders={"toy": folder}, device="cpu").identity(SUBJECT)
