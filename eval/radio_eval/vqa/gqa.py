"""GQA: exact equality with the one right answer.

Nothing but case and full stops at the end is forgiven: no articles, plurals or punctuation.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from radio_eval.vqa.answers import (
    ScoreInputError,
    counted,
    percentage,
    pick,
    read_answers,
    read_document,
)

OPEN = "query"
"""Structural type of the open questions; all others have two answers to choose from."""


@dataclass(frozen=True, kw_only=True)
class GqaQuestion:
    """A question that counts.

    Attributes:
        answer: the right one.
        structural: "query", "verify", "choose", "logical" or "compare"; "" where the file has none.
    """

    answer: str
    structural: str


def gqa_prediction(text: str) -> str:
    """What a model's words count as: lower case, without full stops at the end."""
    return text.rstrip(".").lower()


def score_gqa(questions: Path, answers: Path) -> dict[str, Any]:
    """Score GQA answers.

    Args:
        questions: GQA's file, question id -> question; those with "isBalanced" false are skipped.
        answers: LLaVA's answer lines; answers to other questions are counted and left out.

    Returns:
        "accuracy", and that of the "binary" and "open" questions (None without any), in percent;
        "count" of questions, and of "unbalanced" ones and "other_answers" left out.

    Raises:
        ScoreInputError: files of another format, a question without an answer (as in the official
            evaluator), or one with two.
    """
    balanced, skipped = read_gqa_questions(questions)
    given = read_answers(answers)
    found, missing = pick(given, list(balanced), answers)
    if missing:
        raise ScoreInputError(answers, f"no answer to {counted(missing, 'question')}")
    right = {key: gqa_prediction(found[key].text) == balanced[key].answer for key in balanced}
    opened = [right[key] for key, question in balanced.items() if question.structural == OPEN]
    binary = [right[key] for key, q in balanced.items() if q.structural not in ("", OPEN)]
    return {
        "accuracy": percentage(sum(right.values()), len(right)),
        "binary": percentage(sum(binary), len(binary)),
        "open": percentage(sum(opened), len(opened)),
        "count": len(right),
        "unbalanced": skipped,
        "other_answers": len(given) - len(found),
    }


def read_gqa_questions(path: Path) -> tuple[dict[str, GqaQuestion], int]:
    """The balanced questions by id, and how many were skipped because they are not.

    Raises:
        ScoreInputError: another format, or no balanced question.
    """
    document = read_document(path)
    if not isinstance(document, Mapping):
        raise ScoreInputError(path, "wrong format: expected {question id: question}")
    balanced, wrong, skipped = {}, [], 0
    for key, question in document.items():
        fields = question if isinstance(question, Mapping) else {}
        answer, is_balanced = fields.get("answer"), fields.get("isBalanced")
        if not isinstance(answer, str) or not isinstance(is_balanced, bool):
            wrong.append(key)
        elif is_balanced:
            balanced[key] = GqaQuestion(answer=answer, structural=_structural(fields))
        else:
            skipped += 1
    if wrong:
        expected = '"answer" (string) and "isBalanced" (true or false)'
        raise ScoreInputError(path, f"expected {expected}; not so in {counted(wrong, 'question')}")
    if not balanced:
        raise ScoreInputError(path, f"no balanced questions, {skipped} others")
    return balanced, skipped


def _structural(question: Mapping[str, Any]) -> str:
    types = question.get("types")
    value = (types if isinstance(types, Mapping) else question).get("structural")
    return value if isinstance(value, str) else ""
