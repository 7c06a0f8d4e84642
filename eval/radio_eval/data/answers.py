"""Files of questions and answers, read with an account of everything that is wrong with them.

An answer file has one JSON object a line, as LLaVA writes it:
``{"question_id": ..., "prompt": ..., "text": ..., "answer_id": ..., "model_id": ...}``.
"""

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from radio_core.data.images import printable

S = TypeVar("S")
T = TypeVar("T")
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
    """What a model said to one question; the prompt is "" where the file has none."""

    line: int
    question_id: str
    text: str
    prompt: str = ""


@dataclass(frozen=True, kw_only=True)
class Answers:
    """The answers of a file, in its order."""

    path: Path
    said: Sequence[Answer]

    def pick(self, wanted: Iterable[str] | None = None) -> tuple[dict[str, Answer], list[str]]:
        """The answers by question id, and the ids of wanted questions (None: all) that have none.

        A repeated answer is refused, and a file that answers not one wanted question.
        """
        found: dict[str, Answer] = {}
        repeated = []
        for answer in self.said:
            first = found.setdefault(answer.question_id, answer)
            if first is not answer:
                repeated.append(f"{answer.question_id} (lines {first.line} and {answer.line})")
        refuse(self.path, repeated, "repeated answer", "keep one of")
        if wanted is None:
            return found, []
        ids = list(wanted)
        picked = {key: found[key] for key in ids if key in found}
        if not picked:
            theirs, ours = counted(found, "answer"), counted(ids, "question")
            raise ScoreInputError(self.path, f"no answer fits: it has {theirs}; asked were {ours}")
        return picked, [key for key in ids if key not in found]


def read_document(path: Path) -> Any:
    """The content of a JSON file; ScoreInputError says where it breaks."""
    content = _read_bytes(path)
    try:
        return json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ScoreInputError(path, f"not a JSON file: {_reason(error)}") from None


def read_mapping(path: Path, expected: str) -> Mapping[str, Any]:
    """The object in a JSON file; ScoreInputError, with what is expected, for anything else."""
    document = read_document(path)
    if not isinstance(document, Mapping):
        raise ScoreInputError(path, f"wrong format: expected {expected}")
    return document


def read_lines(path: Path) -> list[tuple[int, Json]]:
    """The objects of a JSON lines file with line numbers from 1; empty lines are passed over."""
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
    refuse(path, broken, "broken line", "has")
    if not objects:
        raise ScoreInputError(path, "empty; expected one JSON object a line")
    return objects


def read_answers(path: Path) -> Answers:
    """LLaVA's answers, in the order of the file."""

    def answer(numbered: tuple[int, Json]) -> Answer:
        number, line = numbered
        key, prompt = identifier(line["question_id"]), words(line.get("prompt", ""))
        return Answer(line=number, question_id=key, text=words(line["text"]), prompt=prompt)

    lines = ((f"line {number}", (number, line)) for number, line in read_lines(path))
    expected = '"question_id" (string or whole number) and "text" (string)'
    return Answers(path=path, said=parsed(path, lines, answer, expected, "line"))


def parsed(
    path: Path, things: Iterable[tuple[str, S]], parse: Callable[[S], T], expected: str, what: str
) -> list[T]:
    """`things` (place, part of the document) parsed; all misfits are counted in one error.

    `parse` raises KeyError, TypeError or ValueError for something else than `expected`.
    """
    found, wrong = [], []
    for place, thing in things:
        try:
            found.append(parse(thing))
        except (KeyError, TypeError, AttributeError):
            wrong.append(place)
        except ValueError as error:
            wrong.append(f"{place} ({error})")
    refuse(path, wrong, what, f"expected {expected}; not so in")
    return found


def unique(path: Path, pairs: Iterable[tuple[str, T]], fault: str) -> dict[str, T]:
    """Pairs as a dict; ScoreInputError says `fault` with the keys that occur twice."""
    found: dict[str, T] = {}
    repeated = []
    for key, thing in pairs:
        if key in found:
            repeated.append(key)
        else:
            found[key] = thing
    refuse(path, repeated, "id", f"{fault}:")
    return found


def identifier(value: object) -> str:
    """An id as text; TypeError for what is neither a string nor a whole number."""
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise TypeError
    return str(value)


def words(value: object) -> str:
    """The value if it is a string; else TypeError."""
    if not isinstance(value, str):
        raise TypeError
    return value


def entries(path: Path, key: str) -> list[tuple[str, Json]]:
    """(its number, object) of the list under `key` of a JSON document."""
    document = read_document(path)
    found = document.get(key) if isinstance(document, Mapping) else None
    if not isinstance(found, list) or not found or not all(isinstance(e, dict) for e in found):
        raise ScoreInputError(path, f'wrong format: expected a list of objects under "{key}"')
    return [(f"number {place}", entry) for place, entry in enumerate(found)]


def refuse(path: Path, things: Collection[str], noun: str, fault: str) -> None:
    """Raise a ScoreInputError where there are any `things`: the fault, and `counted` things."""
    if things:
        raise ScoreInputError(path, f"{fault} {counted(things, noun)}")


def counted(things: Collection[str], noun: str) -> str:
    """How many there are, and the first three: "5 broken lines: line 3, line 8, line 9, ..."."""
    plural = "" if len(things) == 1 else "s"
    return f"{len(things)} {noun}{plural}: {listed(things, 3)}"


def listed(things: Collection[str], most: int = 20) -> str:
    """The first `most` of them, each cut and without characters that steer a terminal."""
    cut = (thing[:_SHOWN_CHARACTERS] for thing in islice(things, most))
    shown = ", ".join("".join(c if c.isprintable() else ascii(c)[1:-1] for c in x) for x in cut)
    return f"{shown}, ..." if len(things) > most else shown


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
