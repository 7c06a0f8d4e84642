"""The VQA scorers against numbers that the field's own evaluators computed."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from radio_eval.cli import score
from radio_eval.data.answers import read_answers
from radio_eval.scores.vqa import (
    LETTERS,
    gqa_prediction,
    m4c_normalise,
    parse_letter,
    textvqa_accuracy,
    textvqa_question,
    vqa_accuracy,
    vqa_normalise,
)
from radio_eval.scores.vqa_benchmarks import Vqav2

Json = dict[str, Any]


def cases(shared: Path, name: str) -> list[Json]:
    path = shared / "reference" / "eval_cases" / f"{name}.json"
    found = json.loads(path.read_text())["cases"]
    assert found
    return list(found)


def write(path: Path, document: object) -> Path:
    path.write_text(json.dumps(document))
    return path


def write_lines(path: Path, lines: list[Json]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_normalised_answers(shared: Path) -> None:
    for case in cases(shared, "vqa_normalise"):
        assert vqa_normalise(case["input"]) == case["official_vqa"], case
        assert m4c_normalise(case["input"]) == case["llava_m4c"], case


def test_soft_accuracy(shared: Path, tmp_path: Path) -> None:
    for case in cases(shared, "vqa_soft_accuracy"):
        people, said = case["input"]["answers"], case["input"]["prediction"]
        official, m4c = case["expected"]["official_vqa"], case["expected"]["textvqa_m4c"]
        assert 100 * vqa_accuracy(said, people) == pytest.approx(official, abs=0.006), case["name"]
        assert 100 * textvqa_accuracy(said, people) == pytest.approx(m4c, abs=0.006), case["name"]

        question = {"question_id": 1, "image_id": 2, "question": "Q?"}
        questions = write(tmp_path / "questions.json", {"questions": [question]})
        answer = {"question_id": 1, "text": said, "prompt": "Q?\nAnswer shortly."}
        answers = write_lines(tmp_path / "answers.jsonl", [answer])
        annotation = {
            "question_id": 1,
            "answer_type": "other",
            "answers": [{"answer": text, "answer_id": n} for n, text in enumerate(people)],
        }
        annotations = write(tmp_path / "annotations.json", {"annotations": [annotation]})
        options = score.Vqav2Options(
            questions=questions, annotations=annotations, answers=answers, normalise=False
        )
        scores = options.scores()
        assert scores["accuracy"] == pytest.approx(official, abs=0.006), case["name"]

        entry = {"image_id": 1, "question": "q?", "answers": people}
        textvqa = write(tmp_path / "textvqa.json", {"data": [entry]})
        scores = score.TextVqaOptions(annotations=textvqa, answers=answers).scores()
        assert scores["accuracy"] == pytest.approx(m4c, abs=0.006), case["name"]


def test_textvqa_prompts(shared: Path) -> None:
    for case in cases(shared, "textvqa_prompt"):
        if case["expected"] == "AssertionError":
            with pytest.raises(ValueError, match="no TextVQA prompt"):
                textvqa_question(case["input"])
        else:
            assert textvqa_question(case["input"]) == case["expected"]


def test_gqa(shared: Path, tmp_path: Path) -> None:
    for case in cases(shared, "gqa"):
        given, expected = case["input"], case["expected"]
        if isinstance(given, list):
            assert [gqa_prediction(text) for text in given] == expected, case["name"]
            continue
        for prediction in expected["predictions"]:
            said = given["answers"][prediction["questionId"]]
            assert gqa_prediction(said) == prediction["prediction"], case["name"]
        questions = write(tmp_path / "questions.json", given["questions"])
        lines = [{"question_id": key, "text": text} for key, text in given["answers"].items()]
        answers = write_lines(tmp_path / "answers.jsonl", lines)
        scores = score.GqaOptions(questions=questions, answers=answers).scores()
        for name in ("accuracy", "binary", "open"):
            assert scores[name] == pytest.approx(expected[name], abs=0.006), case["name"]


def test_pope(shared: Path, tmp_path: Path) -> None:
    for case in cases(shared, "pope"):
        given, expected = case["input"], case["expected"]
        labels = [
            {"question_id": n, "text": f"Is there a thing {n}?", "label": label}
            for n, label in enumerate(given["labels"])
        ]
        lines = [{"question_id": n, "text": text} for n, text in enumerate(given["predictions"])]
        scores = score.PopeOptions(
            questions=write_lines(tmp_path / "coco_pope_random.json", labels),
            answers=write_lines(tmp_path / "answers.jsonl", lines),
        ).scores()
        for name in ("accuracy", "precision", "recall", "f1", "yes_ratio"):
            assert scores[name] == pytest.approx(100 * expected[name]), case["name"]
        for name in ("TP", "FP", "TN", "FN"):
            assert scores[name] == expected[name], case["name"]


def test_scienceqa(shared: Path, tmp_path: Path) -> None:
    for case in cases(shared, "scienceqa"):
        given, expected = case["input"], case["expected"]
        said = {line["question_id"]: line["text"] for line in given["predictions"]}
        for key, letter in expected["parsed"].items():
            parsed = parse_letter(said[key]) if key in said else None
            assert (parsed or "FAILED") == letter, case["name"]
            right = parsed == LETTERS[given["problems"][key]["answer"]]
            assert right == (key in expected["correct"]), case["name"]
        scores = score.ScienceQaOptions(
            problems=write(tmp_path / "problems.json", given["problems"]),
            splits=write(tmp_path / "pid_splits.json", {"test": list(given["problems"])}),
            answers=write_lines(tmp_path / "answers.jsonl", given["predictions"]),
        ).scores()
        total, correct, accuracy, image_accuracy = re.findall(r"\d[\d.]*", expected["stdout"])
        assert scores["count"] == int(total)
        assert round(scores["accuracy"] * scores["count"] / 100) == int(correct)
        assert scores["accuracy"] == pytest.approx(float(accuracy), abs=0.006)
        assert scores["image_accuracy"] == pytest.approx(float(image_accuracy), abs=0.006)


def test_llava_answer_lines(shared: Path, tmp_path: Path) -> None:
    path = shared / "reference" / "eval_cases" / "llava_io.json"
    formats = json.loads(path.read_text())["formats"]
    answers = write_lines(tmp_path / "answers.jsonl", formats["answer_jsonl"])
    asked = [line["question_id"] for line in formats["question_jsonl"]]
    questions = write_lines(tmp_path / "questions.jsonl", formats["question_jsonl"])
    made = Vqav2(questions).submission(read_answers(answers))
    assert [entry["question_id"] for entry in made] == asked
    assert {entry["question_id"]: entry["answer"] for entry in made} == {
        **dict.fromkeys(asked, ""),
        **{line["question_id"]: line["text"].lower() for line in formats["answer_jsonl"]},
    }
