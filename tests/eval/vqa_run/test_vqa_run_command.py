import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from radio_core.cli import UsageError
from radio_eval.cli import evaluate
from radio_eval.cli import vqa as command
from radio_eval.vqa.questions import read_vqa_questions
from radio_eval.vqa.tasks import VqaData, find_vqa_data


@pytest.fixture
def with_oracle(monkeypatch: pytest.MonkeyPatch, oracle_of: Any) -> Callable[[VqaData], None]:
    """Lets the command load an oracle, whatever model is asked for."""

    def put(data: VqaData) -> None:
        oracle = oracle_of(data)
        monkeypatch.setattr(command, "load_answerer", lambda *_, **__: oracle)

    return put


def test_the_command_writes_answers_scores_and_settings(
    toy_vqa: Path,
    tmp_path: Path,
    with_oracle: Callable[[VqaData], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    with_oracle(find_vqa_data("scienceqa", toy_vqa))
    out, scores = tmp_path / "answers.jsonl", tmp_path / "result" / "scores.json"
    argv = ["--task", "scienceqa", "--model", "m", "--data", str(toy_vqa), "--answers", str(out)]
    assert evaluate.evaluate(["vqa", *argv, "--json", str(scores), "--batch-size", "2"]) == 0
    shown = capsys.readouterr().out
    assert "accuracy: 100.00" in shown
    assert "count: 8\n" in shown
    result = json.loads(scores.read_text())
    assert result["image_accuracy"] == 100
    assert result["unanswered"] == 0
    assert result["image_tokens"] == 64
    assert result["settings"]["batch_size"] == 2
    assert result["settings"]["weights"] == "0"
    assert "torch" in result["versions"]


def test_the_command_takes_the_files_by_themselves(
    gqa: VqaData,
    tmp_path: Path,
    with_oracle: Callable[[VqaData], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    with_oracle(gqa)
    argv = ["--task", "gqa", "--model", "m", "--answers", str(tmp_path / "answers.jsonl")]
    argv += ["--questions", str(gqa.questions), "--images", str(gqa.images)]
    assert command.main(argv) == 0  # answers alone are worth having
    assert "not scored" in capsys.readouterr().err
    assert command.main([*argv, "--annotations", *map(str, gqa.annotations)]) == 0
    assert "accuracy: 100.00" in capsys.readouterr().out


def test_the_command_fails_where_answers_are_missing(
    gqa: VqaData,
    tmp_path: Path,
    with_oracle: Callable[[VqaData], None],
    capsys: pytest.CaptureFixture[str],
    copied: Any,
) -> None:
    with_oracle(gqa)
    data = copied(gqa, tmp_path / "images")
    lost = read_vqa_questions(gqa.questions, "gqa")[0]
    (data.images / lost.image).unlink()
    argv = ["--task", "gqa", "--model", "m", "--answers", str(tmp_path / "answers.jsonl")]
    argv += ["--questions", str(gqa.questions), "--images", str(data.images)]
    assert command.main([*argv, "--annotations", *map(str, gqa.annotations)]) == 1
    shown = capsys.readouterr()
    assert "accuracy: -" in shown.out
    assert "missing" in shown.err
    assert str(lost.question_id) in shown.err
    assert "not scored" in shown.err


def test_flags_that_do_not_fit_are_refused(
    toy_vqa: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--task", "gqa", "--model", "m", "--answers", "a.jsonl"]
    both = [*argv, "--data", str(toy_vqa), "--images", str(toy_vqa)]
    for wrong, message in ((argv, "name --data DIR, or"), (both, "leave out --images")):
        with pytest.raises(SystemExit) as stop:
            command.main(wrong)
        assert stop.value.code == 2
        assert message in capsys.readouterr().err
    with pytest.raises(UsageError, match=r"known: knn.*vqa"):
        evaluate.evaluate(["vqb"])
