"""The questions of a VQA task, as LLaVA's files have them."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from radio_eval.vqa.answers import (
    Json,
    ScoreInputError,
    counted,
    identifier,
    read_document,
    read_lines,
)
from radio_llava.images import IMAGE

SCIENCEQA_PROMPT = "Answer with the option's letter from the given choices directly."
"""LLaVA's `--single-pred-prompt`."""
REPEATED_IDS = ("textvqa",)
"""Tasks whose question ids are those of the images."""


@dataclass(frozen=True, kw_only=True)
class VqaQuestion:
    """One question.

    Attributes:
        question_id: as the file has it.
        prompt: what is asked, and what answer files have as "prompt".
        image: name of the image's file; "" for none.
        category: of POPE, the split.
        fault: why it cannot be asked; "" if it can.
    """

    question_id: int | str
    prompt: str
    image: str = ""
    category: str = ""
    fault: str = ""

    @property
    def key(self) -> tuple[str, str]:
        """What an answer has of its question: the id as text, and the prompt."""
        return str(self.question_id), self.prompt

    @property
    def name(self) -> str:
        """For people: the id and the first line of the question."""
        return f"{self.question_id} ({self.prompt.removeprefix(IMAGE).strip().splitlines()[0]})"


def read_vqa_questions(path: Path, task: str) -> list[VqaQuestion]:
    """The questions in the order of the file.

    A question whose image and "<image>" do not fit together has a `fault`.

    Args:
        path: LLaVA's question lines; of ScienceQA its entries (llava_test_CQM-A.json).
        task: one of `tasks.TASKS`.

    Raises:
        ScoreInputError: another format, questions without an id or a text, or an id that occurs
            twice (but in TextVQA).
    """
    if task == "scienceqa":
        entries = _science_entries(path)
        found = [(f"number {place}", _of_science(entry)) for place, entry in enumerate(entries)]
        expected = '"id" and "conversations" (the first with "value")'
    else:
        found = [(f"line {number}", _of_line(line)) for number, line in read_lines(path)]
        expected = '"question_id" (string or whole number), "text" and perhaps "image" (strings)'
    wrong = [place for place, question in found if question is None]
    if wrong:
        raise ScoreInputError(path, f"expected {expected}; not so in {counted(wrong, 'question')}")
    questions = [question for _, question in found if question is not None]
    times = Counter(str(question.question_id) for question in questions)
    repeated = [key for key, count in times.items() if count > 1]
    if repeated and task not in REPEATED_IDS:
        raise ScoreInputError(path, f"ids that occur more than once: {counted(repeated, 'id')}")
    return questions


def _of_line(line: Json) -> VqaQuestion | None:
    key, text, image = line.get("question_id"), line.get("text"), line.get("image", "")
    if identifier(key) is None or not _is_text(text) or not isinstance(image, str):
        return None
    assert key is not None
    assert isinstance(text, str)
    fault = "" if image else "it names no image"
    if text.count(IMAGE) > 1:
        fault = f"{IMAGE} {text.count(IMAGE)} times for one image"
    category = str(line.get("category", ""))
    return VqaQuestion(question_id=key, prompt=text, image=image, category=category, fault=fault)


def _of_science(entry: Json) -> VqaQuestion | None:
    key, image, text = entry.get("id"), entry.get("image", ""), _first_text(entry)
    if identifier(key) is None or not _is_text(text) or not isinstance(image, str):
        return None
    assert key is not None
    assert isinstance(text, str)
    marks = text.count(IMAGE)
    fault = ""
    if marks and not image:
        fault = f"{IMAGE} without an image"
    elif marks != bool(image):
        fault = f"an image, but {IMAGE} {marks} times"
    question = text.replace(IMAGE, "").strip()
    place = f"{IMAGE}\n" if image else ""
    prompt = f"{place}{question}\n{SCIENCEQA_PROMPT}"
    return VqaQuestion(question_id=key, prompt=prompt, image=image, fault=fault)


def _science_entries(path: Path) -> list[Json]:
    document = read_document(path)
    if not isinstance(document, list) or not document:
        raise ScoreInputError(path, "wrong format: expected a list of LLaVA's entries")
    return [entry if isinstance(entry, dict) else {} for entry in document]


def _first_text(entry: Json) -> Any:
    sentences = entry.get("conversations")
    first = sentences[0] if isinstance(sentences, list) and sentences else None
    return first.get("value") if isinstance(first, Mapping) else None


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.replace(IMAGE, "").strip())
