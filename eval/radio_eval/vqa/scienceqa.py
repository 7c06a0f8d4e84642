"""ScienceQA: the letter of the right choice.

The letter alone counts, "B. because ..." and one "The answer is B."; "B." and "b" do not.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from radio_eval.vqa.answers import (
    ScoreInputError,
    counted,
    identifier,
    listed,
    percentage,
    pick,
    read_answers,
    read_document,
)

LETTERS = "ABCDE"
IMAGE = "<image>"
_SENTENCE = re.compile(r"The answer is ([A-Z]).")


def parse_letter(text: str) -> str | None:
    """The letter that a model's words choose; None where they choose none clearly."""
    if text in tuple(LETTERS):
        return text
    if text[1:3] == ". " and text[0] in LETTERS:
        return text[0]
    sentences = _SENTENCE.findall(text)
    return sentences[0] if len(sentences) == 1 else None


def score_scienceqa(
    problems: Path, splits: Path, answers: Path, split: str = "test"
) -> dict[str, Any]:
    """Score ScienceQA answers.

    Args:
        problems: ScienceQA's problems.json.
        splits: ScienceQA's pid_splits.json.
        answers: LLaVA's answer lines; answers to other problems are counted and left out. A
            prompt with "<image>" marks a problem with an image, as in LLaVA's evaluator.
        split: name of a list in `splits`.

    Returns:
        "accuracy" and "image_accuracy" (None without images) in percent; "count" of problems and
        "image_count"; how many were "missing" (they count as wrong, without an image), how many
        answers chose no letter ("unclear"), and "other_answers" left out.

    Raises:
        ScoreInputError: files of another format, a split that is not there, a problem with two
            answers, or no answer to any problem of the split.
    """
    asked = read_problems(problems, splits, split)
    given = read_answers(answers)
    found, missing = pick(given, list(asked), answers)
    letters = {key: parse_letter(answer.text) for key, answer in found.items()}
    right = {key: letter == LETTERS[asked[key]] for key, letter in letters.items()}
    with_image = [right[key] for key, answer in found.items() if IMAGE in answer.prompt]
    return {
        "accuracy": percentage(sum(right.values()), len(asked)),
        "image_accuracy": percentage(sum(with_image), len(with_image)),
        "count": len(asked),
        "image_count": len(with_image),
        "missing": len(missing),
        "unclear": sum(letter is None for letter in letters.values()),
        "other_answers": len(given) - len(found),
    }


def read_problems(problems: Path, splits: Path, split: str) -> dict[str, int]:
    """The index of the right choice by problem id, in the order of the split.

    Raises:
        ScoreInputError: files of another format, an unknown split (the known ones are listed), or
            one that names an unknown or the same problem twice.
    """
    everything = read_document(problems)
    if not isinstance(everything, Mapping):
        raise ScoreInputError(problems, "wrong format: expected {problem id: problem}")
    found: dict[str, int] = {}
    unknown, wrong, repeated = [], [], []
    for key in _split_ids(splits, split):
        right = _right_choice(everything.get(key))
        if key not in everything:
            unknown.append(key)
        elif key in found:
            repeated.append(key)
        elif right is None:
            wrong.append(key)
        else:
            found[key] = right
    if unknown:
        raise ScoreInputError(problems, f"lacks, of split {split!r}, {counted(unknown, 'problem')}")
    if repeated:
        raise ScoreInputError(
            splits, f"more than once in split {split!r}: {counted(repeated, 'problem')}"
        )
    if wrong:
        expected = f'"choices" (at most {len(LETTERS)}) and "answer" (index of one of them)'
        raise ScoreInputError(
            problems, f"expected {expected}; not so in {counted(wrong, 'problem')}"
        )
    return found


def _split_ids(path: Path, split: str) -> list[str]:
    document = read_document(path)
    if not isinstance(document, Mapping):
        raise ScoreInputError(path, "wrong format: expected {split: [problem ids]}")
    if split not in document:
        raise ScoreInputError(path, f"no split {split!r}; it has {listed(document)}")
    ids = document[split] if isinstance(document[split], list) else []
    keys = [key for key in map(identifier, ids) if key is not None]
    if not ids or len(keys) != len(ids):
        raise ScoreInputError(path, f"wrong format: split {split!r} is no list of problem ids")
    return keys


def _right_choice(problem: object) -> int | None:
    fields = problem if isinstance(problem, Mapping) else {}
    choices, answer = fields.get("choices"), fields.get("answer")
    if not isinstance(choices, list) or not isinstance(answer, int) or isinstance(answer, bool):
        return None
    return answer if 0 <= answer < len(choices) <= len(LETTERS) else None
