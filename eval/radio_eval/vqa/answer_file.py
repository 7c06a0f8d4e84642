"""A file of answers that grows while a model is asked, and goes on after an interruption.

Beside OUT.jsonl, OUT.jsonl.settings.json says which model answered which questions how. The other
processes of a shared run append to OUT.jsonl.part-<rank>. At the end the answers are brought into
the order of the questions.
"""

import json
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from radio_core.data.images import printable
from radio_eval.vqa.answers import Json, ScoreInputError
from radio_eval.vqa.questions import VqaQuestion

_SETTINGS = ".settings.json"
_PARTS = ".part-"
_FORMAT = "radio eval vqa, 1"


class AnswerFile:
    """The answers to a list of questions.

    Args:
        path: of the answers in LLaVA's format.
        questions: all of the question file.
        identity: JSON types, all that decides the answers; a file is continued only if it is the
            same.

    Attributes:
        done: place of a question -> its answer line.

    Raises:
        ScoreInputError: the file holds other answers, or a damaged line. A last line that was not
            written to its end is not damaged: its question is asked again.
    """

    def __init__(
        self, path: Path, questions: Sequence[VqaQuestion], identity: Mapping[str, Any]
    ) -> None:
        self.path = path
        self._identity = json.loads(json.dumps({"format": _FORMAT, **identity}))
        self._settings = path.with_name(path.name + _SETTINGS)
        self._waiting: dict[tuple[str, str], list[int]] = {}
        for place, question in enumerate(questions):
            self._waiting.setdefault(question.key, []).append(place)
        self.done: dict[int, Json] = {}
        files = [file for file in _files(path) if file.stat().st_size]
        if files:
            self._check_identity(files[0])
        for file in files:
            self._read(file)

    @staticmethod
    def clear(path: Path) -> None:
        """Remove the answers of an earlier run, and nothing else."""
        for file in [*_files(path), path.with_name(path.name + _SETTINGS)]:
            file.unlink(missing_ok=True)

    def open_part(self, rank: int) -> "AnswerWriter":
        """What the process of this rank appends to."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if rank:
            return AnswerWriter(self.path.with_name(f"{self.path.name}{_PARTS}{rank}"))
        content = json.dumps(self._identity, indent=2) + "\n"
        self._settings.write_text(content, encoding="utf-8")
        return AnswerWriter(self.path)

    def finish(self) -> None:
        """Bring the answers into the order of the questions, in one file."""
        partial = self.path.with_name(self.path.name + ".partial")
        with partial.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(line) + "\n" for _, line in sorted(self.done.items()))
        os.replace(partial, self.path)
        for part in _parts(self.path):
            part.unlink()

    def _check_identity(self, file: Path) -> None:
        try:
            found = json.loads(self._settings.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            found = None
        if found == self._identity:
            return
        why = f"there is no readable {printable(self._settings.name)}"
        if isinstance(found, dict):
            names = {**self._identity, **found}
            values = {name: (found.get(name), self._identity.get(name)) for name in names}
            why = "; ".join(
                f"{n}: {old}, now {new}" for n, (old, new) in values.items() if old != new
            )
        raise ScoreInputError(
            file,
            f"holds answers of another run ({why}); choose another file, or pass --overwrite to "
            "remove them",
        )

    def _read(self, file: Path) -> None:
        for number, content in _whole_lines(file):
            places: list[int] | None = None
            try:
                answer = json.loads(content)
                key = str(answer["question_id"]), answer["prompt"]
                places = self._waiting.get(key)
                damaged = not isinstance(answer["text"], str)
            except (ValueError, KeyError, TypeError, RecursionError):
                damaged = True
            if damaged:
                raise ScoreInputError(
                    file, f"line {number} is damaged; remove it, or pass --overwrite to begin anew"
                )
            if places is None:
                raise ScoreInputError(
                    file, f"line {number} answers none of the questions; remove it, or --overwrite"
                )
            if places:
                self.done[places.pop(0)] = answer


class AnswerWriter:
    """Appends answer lines; what was written stays, whenever the process ends.

    Args:
        path: continued if it is there; an unfinished last line is cut off.
    """

    def __init__(self, path: Path) -> None:
        whole = path.read_bytes().rfind(b"\n") + 1 if path.is_file() else 0
        self._file: IO[bytes] = path.open("ab")
        self._file.truncate(whole)

    def write(self, question: VqaQuestion, text: str, model: str) -> None:
        """Append an answer; it is the system's when this returns."""
        line: Json = {
            "question_id": question.question_id,
            "prompt": question.prompt,
            "text": text,
            "answer_id": uuid.uuid4().hex,
            "model_id": model,
            "metadata": {},
        }
        self._file.write((json.dumps(line) + "\n").encode())
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> "AnswerWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _files(path: Path) -> list[Path]:
    return [file for file in (path, *_parts(path)) if file.is_file()]


def _parts(path: Path) -> list[Path]:
    start = path.name + _PARTS
    folder = path.parent
    names = sorted(n for n in os.listdir(folder) if n.startswith(start)) if folder.is_dir() else []
    return [folder / name for name in names if name.removeprefix(start).isdigit()]


def _whole_lines(file: Path) -> Iterator[tuple[int, bytes]]:
    lines = file.read_bytes().split(b"\n")[:-1]
    return ((number, line) for number, line in enumerate(lines, start=1) if line.strip())
