"""Sections of the report on a VQA task: questions with their pictures, and what was answered."""

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from radio_core.data.images import UnreadableImage, load_rgb
from radio_eval.report.classification import SEED, choose_rows
from radio_eval.report.pictures import thumbnail
from radio_eval.report.sections import Card, Line, Picture, Section
from radio_eval.vqa.answers import ScoreInputError, read_answers
from radio_eval.vqa.gqa import gqa_prediction, read_gqa_questions
from radio_eval.vqa.normalise import m4c_normalise
from radio_eval.vqa.pope import read_pope_labels, says_yes
from radio_eval.vqa.questions import VqaQuestion, read_vqa_questions
from radio_eval.vqa.scienceqa import LETTERS, parse_letter, read_problems
from radio_eval.vqa.tasks import VqaData
from radio_eval.vqa.textvqa import read_textvqa_annotations, textvqa_accuracy, textvqa_question
from radio_eval.vqa.vqav2 import read_annotations, vqa_accuracy
from radio_llava.images import IMAGE

QUESTIONS = 12
"""Questions that are shown."""
_SIDE = 240
_LONGEST = 400
"""Characters of a question or an answer."""


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A question with its right answer, and how far the model's answer agrees, in [0, 1]."""

    question: VqaQuestion
    said: str
    truth: str
    score: float


def vqa_sections(data: VqaData, answers: Path, limit: int | None) -> list[Section]:
    """Some questions with their pictures; nothing without right answers.

    Args:
        data: the task's files.
        answers: the model's.
        limit: only the first questions; None for all.
    """
    try:
        judged = judge(data, answers, limit) if data.is_labelled else []
    except ScoreInputError:  # it could not be scored either, and the result says why
        return []
    return [_questions(judged, data.images)] if judged else []


def judge(data: VqaData, answers: Path, limit: int | None = None) -> list[Judged]:
    """The questions that have a right answer and one of the model, in their order.

    Args:
        data: the task's files, the right answers among them.
        answers: LLaVA's answer lines.
        limit: only the first questions; None for all.

    Raises:
        ScoreInputError: a file of another format.
    """
    said: dict[tuple[str, str], list[str]] = {}
    for answer in read_answers(answers):
        said.setdefault((answer.question_id, answer.prompt), []).append(answer.text)
    questions = read_vqa_questions(data.questions, data.task)[:limit]
    judged = []
    verdict_of = _JUDGES[data.task](data, questions)
    for place, question in enumerate(questions):
        texts = said.get(question.key)
        if not texts:
            continue
        text = texts.pop(0)
        verdict = verdict_of(place, text)
        if verdict is not None:
            truth, score = verdict
            judged.append(Judged(question=question, said=text, truth=truth, score=score))
    return judged


Verdict = Callable[[int, str], tuple[str, float] | None]
"""Place of a question, the model's words -> the right answer and the agreement; None for a question
that does not count."""


def _gqa(data: VqaData, questions: Sequence[VqaQuestion]) -> Verdict:
    balanced, _ = read_gqa_questions(data.annotations[0])

    def verdict(place: int, text: str) -> tuple[str, float] | None:
        right = balanced.get(str(questions[place].question_id))
        if right is None:
            return None
        return right.answer, float(gqa_prediction(text) == right.answer)

    return verdict


def _textvqa(data: VqaData, questions: Sequence[VqaQuestion]) -> Verdict:
    people, _ = read_textvqa_annotations(data.annotations[0])

    def verdict(place: int, text: str) -> tuple[str, float] | None:
        question = questions[place]
        answers = people.get((str(question.question_id), textvqa_question(question.prompt)))
        return None if answers is None else (_most_said(answers), textvqa_accuracy(text, answers))

    return verdict


def _pope(data: VqaData, questions: Sequence[VqaQuestion]) -> Verdict:
    """Labels belong to the questions of their category by the order of both."""
    of_category = {
        path.stem.rpartition("_")[2]: iter(read_pope_labels(path)) for path in data.annotations
    }
    only = next(iter(of_category.values())) if len(of_category) == 1 else None
    labels = [next(of_category.get(q.category, only or iter(())), None) for q in questions]

    def verdict(place: int, text: str) -> tuple[str, float] | None:
        label = labels[place]
        if label is None:
            return None
        return "yes" if label.yes else "no", float(says_yes(text) == label.yes)

    return verdict


def _vqav2(data: VqaData, questions: Sequence[VqaQuestion]) -> Verdict:
    people = read_annotations(data.annotations[0])

    def verdict(place: int, text: str) -> tuple[str, float] | None:
        annotation = people.get(str(questions[place].question_id))
        if annotation is None:
            return None
        answers = annotation.answers
        return _most_said(answers), vqa_accuracy(m4c_normalise(text), answers)

    return verdict


def _scienceqa(data: VqaData, questions: Sequence[VqaQuestion]) -> Verdict:
    assert data.problems is not None
    assert data.splits is not None
    problems = read_problems(data.problems, data.splits, data.split)

    def verdict(place: int, text: str) -> tuple[str, float] | None:
        right = problems.get(str(questions[place].question_id))
        if right is None:
            return None
        return LETTERS[right], float(parse_letter(text) == LETTERS[right])

    return verdict


_JUDGES: dict[str, Callable[[VqaData, Sequence[VqaQuestion]], Verdict]] = {
    "gqa": _gqa,
    "textvqa": _textvqa,
    "pope": _pope,
    "vqav2": _vqav2,
    "scienceqa": _scienceqa,
}


def _most_said(answers: Sequence[str]) -> str:
    return Counter(answers).most_common(1)[0][0]


def _questions(judged: Sequence[Judged], images: Path) -> Section:
    """Some questions, those on one picture together."""
    right = torch.tensor([each.score >= 0.5 for each in judged])
    by_image: dict[str, list[Line]] = {}
    for row in sorted(choose_rows(right, QUESTIONS)):
        each, agrees = judged[row], judged[row].score >= 0.5
        lines = by_image.setdefault(each.question.image, [])
        lines += [
            Line(_shown(each.question.prompt)),
            Line(_cut(each.said), agrees, "" if agrees else f"right: {_cut(each.truth)}"),
        ]
    cards = []
    for name, lines in by_image.items():
        picture = None
        if name:
            with suppress(UnreadableImage):
                picture = thumbnail(load_rgb(images / name, upright=False), _SIDE)
        cards.append(Card(lead=Picture(picture, name=name), lines=lines))
    return Section(
        title="Questions and answers",
        text=f"{min(len(judged), QUESTIONS)} of {len(judged)} questions, drawn with seed {SEED}, "
        "half of them answered right and half wrong as far as there are such. Where several "
        "answers count, the most frequent one is shown, and ✓ stands for half of the score or "
        "more.",
        cards=cards,
    )


def _shown(prompt: str) -> str:
    """A prompt without the place of the image and the request for a short answer."""
    lines = prompt.replace(IMAGE, "").strip().split("\n")
    if len(lines) > 1 and lines[-1].startswith("Answer "):
        lines.pop()
    return _cut("\n".join(lines))


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else text[:_LONGEST] + " …"
