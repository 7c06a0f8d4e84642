"""Files of questions and answers, read with an account of everything that is wrong with them.

An answer file has one JSON object a line, as LLaVA writes it:
``{"question_id": ..., "prompt": ..., "text": ..., "answer_id": ..., "model_id": ...}``.
"""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from radio_core.data.images import printable

Json = dict[str, Any]

MAX_FILE_BYTES = 1 << 30
"""Larger files are refused; VQAv2's largest has 390 MB."""
MAX_LINE_BYTES = 1 << 20
"""Longer lines are refused; an answer has a few hundred bytes."""

_SHOWN_CHARACTERS = 160


class ScoreInputError(ValueError):
    """A file that cannot be scored; the message is one line that names the file and the fault."""

    def __init__(self, path: Path, fault: str) -> None:
        super().__init__(f"{printable(path)}: {fault}")


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a model said to one question.

    Attributes:
        line: of the answer file, from 1.
        question_id: as text, whether the file has a number or a string.
        text: the model's words.
        prompt: the question as the model read it; "" where the file has none.
    """

    line: int
    question_id: str
    text: str
    prompt: str = ""


def read_document(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        ScoreInputError: no file, too large, or no JSON; the message says where it breaks.
    """
    content = _read_bytes(path)
    try:
        return json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ScoreInputError(path, f"not a JSON file: {_reason(error)}") from None


def read_lines(path: Path) -> list[tuple[int, Json]]:
    """The objects of a JSON lines file with their line numbers from 1; empty lines are passed over.

    Raises:
        ScoreInputError: no file, too large, or lines that are no JSON objects (the first ones are
            named, all are counted).
    """
    objects, broken = [], []
    for number, line in enumerate(_read_bytes(path).split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            if len(line) > MAX_LINE_BYTES:
                raise ValueError(f"longer than {MAX_LINE_BYTES} bytes")
            value = json.loads(line.decode("utf-8-sig"))
            if not isinstance(value, dict):
                raise ValueError("not an object in braces")
        except (ValueError, RecursionError) as error:
            broken.append(f"line {number} ({_reason(error)})")
        else:
            objects.append((number, value))
    if broken:
        raise ScoreInputError(path, f"{counted(broken, 'broken line')}")
    if not objects:
        raise ScoreInputError(path, "empty; expected one JSON object a line")
    return objects


def read_answers(path: Path) -> list[Answer]:
    """LLaVA's answers, in the order of the file.

    Raises:
        ScoreInputError: as `read_lines`, or lines without a "question_id" (a string or a whole
            number) or without a "text".
    """
    answers, wrong = [], []
    for number, line in read_lines(path):
        question_id, text = identifier(line.get("question_id")), line.get("text")
        prompt = line.get("prompt", "")
        if question_id is None or not isinstance(text, str) or not isinstance(prompt, str):
            wrong.append(f"line {number}")
        else:
            answers.append(Answer(line=number, question_id=question_id, text=text, prompt=prompt))
    if wrong:
        keys = '"question_id" (string or whole number) and "text" (string)'
        raise ScoreInputError(path, f"expected {keys}; not so in {counted(wrong, 'line')}")
    return answers


def identifier(value: object) -> str | None:
    """An id as text; None for what is neither a string nor a whole number."""
    if isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool)):
        return str(value)
    return None


def by_question(answers: Iterable[Answer], path: Path) -> dict[str, Answer]:
    """The answers by question id.

    Args:
        answers: of the file.
        path: of the file, for the message.

    Raises:
        ScoreInputError: a question is answered more than once.
    """
    found: dict[str, Answer] = {}
    repeated = []
    for answer in answers:
        first = found.setdefault(answer.question_id, answer)
        if first is not answer:
            repeated.append(f"{answer.question_id} (lines {first.line} and {answer.line})")
    if repeated:
        raise ScoreInputError(path, f"keep one of {counted(repeated, 'repeated answer')}")
    return found


def pick(
    answers: Iterable[Answer], wanted: Sequence[str], path: Path
) -> tuple[dict[str, Answer], list[str]]:
    """The answers to the wanted questions, and the ids of those questions that have none.

    Args:
        answers: of the file; answers to other questions are left out.
        wanted: question ids.
        path: of the file, for the message.

    Raises:
        ScoreInputError: a repeated answer, or not one answer to a wanted question.
    """
    found = by_question(answers, path)
    picked = {key: found[key] for key in wanted if key in found}
    if not picked:
        theirs, ours = counted(found, "answer"), counted(wanted, "question")
        raise ScoreInputError(path, f"no answer fits: it has {theirs}; asked were {ours}")
    return picked, [key for key in wanted if key not in found]


def entries(document: object, key: str, path: Path) -> list[Json]:
    """The list of objects under `key` of a JSON document.

    Raises:
        ScoreInputError: there is none, or it is empty or holds other things.
    """
    found = document.get(key) if isinstance(document, Mapping) else None
    if not isinstance(found, list) or not found or not all(isinstance(e, dict) for e in found):
        raise ScoreInputError(path, f'wrong format: expected a list of objects under "{key}"')
    return found


def strings(value: object) -> list[str] | None:
    """The value if it is a list of strings that is not empty, else None."""
    if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
        return value
    return None


def percentage(part: float, whole: int) -> float | None:
    """100 * part / whole; None of nothing."""
    return 100.0 * part / whole if whole else None


def counted(things: Collection[str], noun: str) -> str:
    """How many there are, and the first three: "5 broken lines: line 3, line 8, line 9, ..."."""
    plural = "" if len(things) == 1 else "s"
    return f"{len(things)} {noun}{plural}: {listed(things, 3)}"


def listed(things: Collection[str], most: int = 20) -> str:
    """The first `most` of them, each cut and without characters that steer a terminal."""
    shown = ", ".join(_harmless(thing[:_SHOWN_CHARACTERS]) for thing in islice(things, most))
    return f"{shown}, ..." if len(things) > most else shown


def _harmless(text: str) -> str:
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _read_bytes(path: Path) -> bytes:
    if not path.is_file():
        raise ScoreInputError(path, "no such file")
    with path.open("rb") as file:
        content = file.read(MAX_FILE_BYTES + 1)
    if len(content) > MAX_FILE_BYTES:
        raise ScoreInputError(path, f"larger than {MAX_FILE_BYTES} bytes")
    return content


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "nested too deeply"
    return " ".join(str(error).split())[:_SHOWN_CHARACTERS]
