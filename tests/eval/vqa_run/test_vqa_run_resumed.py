import dataclasses
from pathlib import Path
from typing import Any

import pytest

from radio_eval.vqa.answers import ScoreInputError
from radio_eval.vqa.questions import read_vqa_questions
from radio_eval.vqa.run import evaluate_vqa
from radio_eval.vqa.tasks import VqaData, find_vqa_data


def test_an_interrupted_run_goes_on(gqa: VqaData, tmp_path: Path, oracle_of: Any, ids: Any) -> None:
    answers = tmp_path / "answers.jsonl"
    total = len(read_vqa_questions(gqa.questions, "gqa"))
    oracle = oracle_of(gqa)
    oracle.stop_after = 2
    with pytest.raises(KeyboardInterrupt):
        evaluate_vqa(oracle, gqa, answers, batch_size=5)
    assert len(ids(answers)) == 10
    with answers.open("a") as file:
        file.write('{"question_id": "000')  # killed while it wrote
    again = oracle_of(gqa)
    heard: list[tuple[str, int, int]] = []
    result = evaluate_vqa(
        again, gqa, answers, batch_size=4, progress=lambda *event: heard.append(event)
    )
    assert again.asked == total - 10
    assert heard[-1] == ("questions", total - 10, total - 10)
    assert result["accuracy"] == 100
    assert ids(answers) == [str(q.question_id) for q in read_vqa_questions(gqa.questions, "gqa")]
    done = oracle_of(gqa)
    assert evaluate_vqa(done, gqa, answers)["accuracy"] == 100
    assert done.asked == 0


def test_a_file_of_another_run_is_refused(
    gqa: VqaData, toy_vqa: Path, tmp_path: Path, oracle_of: Any
) -> None:
    answers = tmp_path / "answers.jsonl"
    oracle = oracle_of(gqa)
    evaluate_vqa(oracle, gqa, answers, limit=5)
    before = answers.read_bytes()
    vqav2 = find_vqa_data("vqav2", toy_vqa)
    with pytest.raises(ScoreInputError, match=r"another run.*task: gqa, now vqav2.*--overwrite"):
        evaluate_vqa(oracle_of(vqav2), vqav2, answers)
    with pytest.raises(ScoreInputError, match="max_new_tokens: 128, now 9"):
        evaluate_vqa(oracle, gqa, answers, max_new_tokens=9)
    with pytest.raises(ScoreInputError, match="images: "):
        evaluate_vqa(oracle, dataclasses.replace(gqa, images=tmp_path), answers)
    oracle.settings = {"weights": "1"}
    with pytest.raises(ScoreInputError, match="weights: 0, now 1"):
        evaluate_vqa(oracle, gqa, answers)
    assert answers.read_bytes() == before
    assert evaluate_vqa(oracle, gqa, answers, overwrite=True)["accuracy"] == 100


def test_answers_that_nobody_accounts_for_are_refused(
    gqa: VqaData, tmp_path: Path, oracle_of: Any
) -> None:
    answers = tmp_path / "answers.jsonl"
    evaluate_vqa(oracle_of(gqa), gqa, answers)
    settings = tmp_path / "answers.jsonl.settings.json"
    content = settings.read_text()
    settings.unlink()
    with pytest.raises(ScoreInputError, match=r"no readable answers\.jsonl\.settings\.json"):
        evaluate_vqa(oracle_of(gqa), gqa, answers)
    settings.write_text(content)
    lines = answers.read_text().splitlines(keepends=True)
    answers.write_text(lines[0] + "{}\n" + lines[1])
    with pytest.raises(ScoreInputError, match="line 2 is damaged"):
        evaluate_vqa(oracle_of(gqa), gqa, answers)
    answers.write_text(lines[0] + lines[1].replace('"prompt": "', '"prompt": "Not '))
    with pytest.raises(ScoreInputError, match="line 2 answers none of the questions"):
        evaluate_vqa(oracle_of(gqa), gqa, answers)


def test_what_another_process_left_behind_is_taken_over(
    gqa: VqaData, tmp_path: Path, oracle_of: Any
) -> None:
    answers = tmp_path / "answers.jsonl"
    evaluate_vqa(oracle_of(gqa), gqa, answers)
    lines = answers.read_text().splitlines(keepends=True)
    answers.write_text("".join(lines[:2]))
    (tmp_path / "answers.jsonl.part-3").write_text("".join(lines[1:6]) + lines[6][:20])
    oracle = oracle_of(gqa)
    assert evaluate_vqa(oracle, gqa, answers)["accuracy"] == 100
    assert oracle.asked == len(lines) - 6
    assert not (tmp_path / "answers.jsonl.part-3").exists()
