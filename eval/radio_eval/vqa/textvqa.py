"""TextVQA: the soft accuracy of normalised answers, joined by image and question.

LLaVA's question ids are image ids here, and an image has several questions; so the question is
taken out of the prompt again.
"""

from collections import Counter
from pathlib import Path
from typing import Any

from radio_eval.vqa.answers import (
    Answer,
    ScoreInputError,
    counted,
    entries,
    identifier,
    listed,
    percentage,
    read_answers,
    read_document,
    strings,
)
from radio_eval.vqa.normalise import m4c_normalise, soft_accuracy

ANSWERERS = 10
_OCR = "Reference OCR token:"

Key = tuple[str, str]
"""Image id and question in lower case."""


def textvqa_question(prompt: str) -> str:
    """The question of a prompt, in lower case.

    Args:
        prompt: "OCR tokens: ... Question: Q Short answer:", or Q and the request for a short answer
            on a line each, with a line "Reference OCR token: ..." before or after Q.

    Raises:
        ValueError: none of these.
    """
    lines = prompt.split("\n")
    if prompt.startswith("OCR tokens: "):
        question, end, _ = prompt.partition("Question: ")[2].partition(" Short answer:")
        if end:
            return question.lower()
    elif len(lines) == 2 or (len(lines) == 3 and f"{_OCR} " in prompt):
        return lines[1 if len(lines) == 3 and lines[0].startswith(_OCR) else 0].lower()
    raise ValueError(
        f"no TextVQA prompt ({len(lines)} lines): expected the question, perhaps a line "
        f'"{_OCR} ...", and the request for a short answer'
    )


def textvqa_accuracy(prediction: str, answers: list[str]) -> float:
    """How far ten people agree with a prediction, in [0, 1]; all answers are normalised."""
    return soft_accuracy(m4c_normalise(prediction), [m4c_normalise(answer) for answer in answers])


def score_textvqa(annotations: Path, answers: Path) -> dict[str, Any]:
    """Score TextVQA answers.

    Args:
        annotations: TextVQA's file (TextVQA_0.5.1_val.json).
        answers: LLaVA's answer lines; "question_id" is the image id, "prompt" the whole prompt.

    Returns:
        "accuracy" in percent and "count" of questions.

    Raises:
        ScoreInputError: files of another format, prompts that hold no question, answers to other
            questions, questions without an answer, or with two.
    """
    people, asked = read_textvqa_annotations(annotations)
    given = read_answers(answers)
    keys = [_key(answer, answers) for answer in given]
    strange = [_named(answer) for answer, key in zip(given, keys, strict=True) if key not in people]
    if strange:
        noun = "answer to a question that the annotations lack"
        raise ScoreInputError(answers, counted(strange, noun))
    times = Counter(keys)
    repeated = [f"{image} {question}" for image, question in (times - asked)]
    if repeated:
        raise ScoreInputError(answers, f"answered more than once: {counted(repeated, 'question')}")
    missing = [f"{image} {question}" for image, question in (asked - times)]
    if missing:
        raise ScoreInputError(answers, f"no answer to {counted(missing, 'question')}")
    total = sum(
        textvqa_accuracy(answer.text, people[key]) for answer, key in zip(given, keys, strict=True)
    )
    return {"accuracy": percentage(total, len(given)), "count": len(given)}


def read_textvqa_annotations(path: Path) -> tuple[dict[Key, list[str]], Counter[Key]]:
    """Ten people's answers to each question, and how often it is asked.

    Where a question is asked twice of an image, the later answers count, as in LLaVA's evaluator.

    Raises:
        ScoreInputError: another format.
    """
    people: dict[Key, list[str]] = {}
    asked: Counter[Key] = Counter()
    wrong = []
    for place, entry in enumerate(entries(read_document(path), "data", path)):
        image, question = identifier(entry.get("image_id")), entry.get("question")
        answers = strings(entry.get("answers"))
        if image is None or not isinstance(question, str) or not answers:
            wrong.append(f"number {place}")
        elif len(answers) != ANSWERERS:
            wrong.append(f"number {place} ({len(answers)} answers)")
        else:
            key = (image, question.lower())
            people[key] = answers
            asked[key] += 1
    if wrong:
        expected = f'"image_id", "question" and {ANSWERERS} "answers"'
        raise ScoreInputError(
            path, f"expected {expected}; not so in data: {listed(wrong, 3)} ({len(wrong)} in all)"
        )
    return people, asked


def _key(answer: Answer, path: Path) -> Key:
    try:
        return answer.question_id, textvqa_question(answer.prompt)
    except ValueError as error:
        raise ScoreInputError(path, f"line {answer.line}: {error}") from None


def _named(answer: Answer) -> str:
    return f"line {answer.line} (image {answer.question_id})"
