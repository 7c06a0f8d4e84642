"""VQAv2: the official evaluator on what LLaVA would upload, and the file for the upload itself.

The official evaluator normalises only where the ten people do not all say the same; "Yes" against
ten times "yes" scores 0. So LLaVA normalises its answers before it uploads them.
"""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from radio_eval.vqa.answers import (
    Json,
    ScoreInputError,
    counted,
    entries,
    identifier,
    percentage,
    pick,
    read_answers,
    read_document,
    read_lines,
    strings,
)
from radio_eval.vqa.normalise import m4c_normalise, one_line, soft_accuracy, vqa_normalise


@dataclass(frozen=True, kw_only=True)
class VqaAnnotation:
    """What people answered to one question.

    Attributes:
        answers: theirs, ten of them in VQAv2.
        answer_type: "yes/no", "number" or "other".
    """

    answers: list[str]
    answer_type: str


@dataclass(frozen=True, kw_only=True)
class VqaSubmission:
    """A file for the evaluation server.

    Attributes:
        entries: {"question_id", "answer"} of every question, in the order of the question file.
        missing: ids of the questions without an answer; they stand with "".
        other_answers: number of answers to other questions, left out.
    """

    entries: list[Json]
    missing: list[str]
    other_answers: int

    def write(self, path: Path) -> None:
        """Write the entries as the JSON list that the server takes."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.entries), encoding="utf-8")


def vqa_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """The official accuracy of one prediction, in [0, 1].

    Prediction and answers are normalised only where the answers are not all the same.
    """
    said, people = one_line(prediction), [one_line(answer) for answer in answers]
    if len(set(people)) > 1:
        said, people = vqa_normalise(said), [vqa_normalise(answer) for answer in people]
    return soft_accuracy(said, people)


def vqav2_submission(questions: Path, answers: Path, *, normalise: bool = True) -> VqaSubmission:
    """What goes to the evaluation server.

    Args:
        questions: VQAv2's question file, or LLaVA's question lines for it.
        answers: LLaVA's answer lines.
        normalise: bring the answers to TextVQA's form first, as LLaVA does.

    Raises:
        ScoreInputError: files of another format, a question with two answers, or no answer to any
            of the questions.
    """
    ids = read_question_ids(questions)
    given = read_answers(answers)
    found, missing = pick(given, list(ids), answers)
    texts = {key: m4c_normalise(a.text) if normalise else a.text for key, a in found.items()}
    return VqaSubmission(
        entries=[{"question_id": ids[key], "answer": texts.get(key, "")} for key in ids],
        missing=missing,
        other_answers=len(given) - len(found),
    )


def score_vqav2(submission: VqaSubmission, annotations: Path) -> dict[str, Any]:
    """Score a submission as the official evaluator does.

    Args:
        submission: its questions are the ones that count.
        annotations: VQAv2's annotation file; annotations of other questions are left out.

    Returns:
        "accuracy" and "per_answer_type" (type -> accuracy) in percent; "count" of questions, of
        those "missing" an answer (the submission has "" there), and of "other_answers" left out.

    Raises:
        ScoreInputError: another format, or questions without an annotation.
    """
    people = read_annotations(annotations)
    keys = [str(entry["question_id"]) for entry in submission.entries]
    unknown = [key for key in keys if key not in people]
    if unknown:
        raise ScoreInputError(annotations, f"no annotation of {counted(unknown, 'question')}")
    by_type: dict[str, list[float]] = defaultdict(list)
    for key, entry in zip(keys, submission.entries, strict=True):
        accuracy = vqa_accuracy(entry["answer"], people[key].answers)
        by_type[people[key].answer_type].append(accuracy)
    return {
        "accuracy": percentage(sum(map(sum, by_type.values())), len(keys)),
        "per_answer_type": {
            name: percentage(sum(values), len(values)) for name, values in sorted(by_type.items())
        },
        "count": len(keys),
        "missing": len(submission.missing),
        "other_answers": submission.other_answers,
    }


def read_question_ids(path: Path) -> dict[str, int | str]:
    """The question ids in the order of the file: as text -> as the file has them.

    Args:
        path: VQAv2's question file ({"questions": [...]}) or LLaVA's question lines.

    Raises:
        ScoreInputError: neither of both, entries without an id, or an id that occurs twice.
    """
    ids: dict[str, int | str] = {}
    wrong, repeated = [], []
    for place, entry in _question_entries(path):
        key = identifier(entry.get("question_id"))
        if key is None:
            wrong.append(f"number {place}")
        elif key in ids:
            repeated.append(key)
        else:
            ids[key] = entry["question_id"]
    if wrong:
        raise ScoreInputError(
            path, f'expected "question_id"; not so in {counted(wrong, "question")}'
        )
    if repeated:
        raise ScoreInputError(path, f"asked more than once: {counted(repeated, 'question')}")
    return ids


def _question_entries(path: Path) -> list[tuple[int, Json]]:
    if path.suffix == ".jsonl":
        return read_lines(path)
    return list(enumerate(entries(read_document(path), "questions", path)))


def read_annotations(path: Path) -> dict[str, VqaAnnotation]:
    """The annotations by question id.

    Raises:
        ScoreInputError: another format, or two annotations of one question.
    """
    found: dict[str, VqaAnnotation] = {}
    wrong, repeated = [], []
    for place, entry in enumerate(entries(read_document(path), "annotations", path)):
        key, kind = identifier(entry.get("question_id")), entry.get("answer_type")
        people = entry.get("answers")
        listed = people if isinstance(people, list) else []
        answers = strings([a.get("answer") if isinstance(a, dict) else None for a in listed])
        if key is None or not isinstance(kind, str) or answers is None:
            wrong.append(f"number {place}")
        elif key in found:
            repeated.append(key)
        else:
            found[key] = VqaAnnotation(answers=answers, answer_type=kind)
    if wrong:
        expected = '"question_id", "answer_type" and "answers" (each with "answer")'
        raise ScoreInputError(
            path, f"expected {expected}; not so in {counted(wrong, 'annotation')}"
        )
    if repeated:
        raise ScoreInputError(path, f"annotated more than once: {counted(repeated, 'question')}")
    return found
