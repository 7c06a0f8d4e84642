"""Score the answers to a task's questions, to all of them or to the first ones."""

import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from radio_eval.vqa.answers import (
    Json,
    ScoreInputError,
    counted,
    identifier,
    listed,
    read_document,
    read_lines,
)
from radio_eval.vqa.gqa import read_gqa_questions, score_gqa
from radio_eval.vqa.pope import read_pope_labels, score_pope
from radio_eval.vqa.questions import VqaQuestion
from radio_eval.vqa.scienceqa import read_problems, score_scienceqa
from radio_eval.vqa.tasks import VqaData
from radio_eval.vqa.textvqa import read_textvqa_annotations, score_textvqa, textvqa_question
from radio_eval.vqa.vqav2 import read_annotations, read_question_ids, score_vqav2, vqav2_submission

_POPE_MEANS = ("accuracy", "precision", "recall", "f1", "yes_ratio")
_READERS: dict[str, Callable[[Path], object]] = {
    "gqa": read_gqa_questions,
    "textvqa": read_textvqa_annotations,
    "pope": read_pope_labels,
    "vqav2": read_annotations,
}


def check_labels(data: VqaData, asked: Sequence[VqaQuestion]) -> None:
    """Read the right answers, so that a long run does not end in files that cannot be scored.

    Raises:
        ScoreInputError: one is missing or has another format.
    """
    for path in data.annotations:
        _READERS[data.task](path)
    if data.problems is not None and data.splits is not None:
        read_problems(data.problems, data.splits, data.split)
    if data.task == "pope" and data.annotations:
        _pope_files(data, asked)
    if data.task == "vqav2" and data.annotations:
        read_question_ids(data.questions)


def score_vqa(data: VqaData, answers: Path, asked: Sequence[VqaQuestion]) -> dict[str, Any]:
    """Score answers by the protocol of their task.

    Args:
        data: with the right answers.
        answers: LLaVA's answer lines.
        asked: all of the questions that `data` has.

    Returns:
        As `radio score TASK`; of POPE the means over the splits, and those by themselves under
        "splits".

    Raises:
        ScoreInputError: what the protocol does not allow, such as questions without an answer.
    """
    if data.task == "pope":
        return _score_pope(data, answers, asked)
    if data.task == "scienceqa":
        assert data.problems is not None
        assert data.splits is not None
        return score_scienceqa(data.problems, data.splits, answers, data.split)
    annotations = data.annotations[0]
    if data.task == "vqav2":
        return score_vqav2(vqav2_submission(data.questions, answers), annotations)
    return (score_gqa if data.task == "gqa" else score_textvqa)(annotations, answers)


def score_some(data: VqaData, answers: Path, asked: Sequence[VqaQuestion]) -> dict[str, Any]:
    """Score the answers to some of the questions as if there were no others.

    Args:
        data: with the right answers.
        answers: LLaVA's answer lines, perhaps to other questions, too.
        asked: the first ones of all that `data` has.

    Returns:
        As `score_vqa`.

    Raises:
        ScoreInputError: as `score_vqa`.
    """
    with TemporaryDirectory() as name:
        folder = Path(name)
        wanted = Counter(question.key for question in asked)
        picked = []
        for _, line in read_lines(answers):
            key = str(line["question_id"]), line["prompt"]
            if wanted[key]:
                wanted[key] -= 1
                picked.append(line)
        _write_lines(folder / answers.name, picked)
        return score_vqa(_restricted(data, asked, folder), folder / answers.name, asked)


def _score_pope(data: VqaData, answers: Path, asked: Sequence[VqaQuestion]) -> dict[str, Any]:
    files = _pope_files(data, asked)
    questions = data.questions if len(files) > 1 else None
    scores = {split: score_pope(path, answers, questions) for split, path in files.items()}
    means: dict[str, Any] = {}
    for name in _POPE_MEANS:
        values = [part[name] for part in scores.values() if part[name] is not None]
        means[name] = sum(values) / len(values) if values else None
    count = sum(part["count"] for part in scores.values())
    return {**means, "count": count, "splits": scores}


def _pope_files(data: VqaData, asked: Sequence[VqaQuestion]) -> dict[str, Path]:
    """The label file of each category that was asked; the end of its name tells."""
    categories = sorted({question.category for question in asked})
    if len(categories) == len(data.annotations) == 1:
        return {categories[0]: data.annotations[0]}
    files = {path.stem.rpartition("_")[2]: path for path in data.annotations}
    missing = [name for name in categories if name not in files]
    if missing:
        raise ScoreInputError(
            data.questions,
            f"no label file for {counted(missing, 'category')}; there are those of {listed(files)}",
        )
    return {name: files[name] for name in categories}


def _restricted(data: VqaData, asked: Sequence[VqaQuestion], folder: Path) -> VqaData:
    """The task with the right answers to some questions alone, written into `folder`."""
    if data.task == "scienceqa":
        splits = folder / "pid_splits.json"
        splits.write_text(json.dumps({data.split: [q.question_id for q in asked]}))
        return dataclasses.replace(data, splits=splits)
    questions = folder / "questions.jsonl"
    _write_lines(questions, [{"question_id": q.question_id, "category": q.category} for q in asked])
    if data.task == "pope":
        files = []
        for category, path in _pope_files(data, asked).items():
            count = sum(question.category == category for question in asked)
            files.append(folder / f"labels-{path.name}")
            _write_lines(files[-1], [line for _, line in read_lines(path)][:count])
        return dataclasses.replace(data, questions=questions, annotations=tuple(files))
    labels = folder / "labels.json"
    everything = read_document(data.annotations[0])
    labels.write_text(json.dumps(_RESTRICTED[data.task](everything, asked)), encoding="utf-8")
    return dataclasses.replace(data, questions=questions, annotations=(labels,))


def _restricted_gqa(everything: Json, asked: Sequence[VqaQuestion]) -> Json:
    ids = {str(question.question_id) for question in asked}
    return {key: question for key, question in everything.items() if key in ids}


def _restricted_textvqa(everything: Json, asked: Sequence[VqaQuestion]) -> Json:
    wanted = Counter((str(q.question_id), textvqa_question(q.prompt)) for q in asked)
    found = []
    for entry in everything["data"]:
        key = str(identifier(entry["image_id"])), entry["question"].lower()
        if wanted[key]:
            wanted[key] -= 1
            found.append(entry)
    return {"data": found}


def _all_of_vqav2(everything: Json, asked: Sequence[VqaQuestion]) -> Json:
    return everything  # its scorer goes by the questions


_RESTRICTED: dict[str, Callable[[Json, Sequence[VqaQuestion]], Json]] = {
    "gqa": _restricted_gqa,
    "textvqa": _restricted_textvqa,
    "vqav2": _all_of_vqav2,
}


def _write_lines(path: Path, lines: Sequence[Json]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
