"""The toy world's questions, and answerers that know what to say."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from radio_core.data.images import load_rgb
from radio_core.data.toyworld.export import export
from radio_eval.vqa.answers import read_answers
from radio_eval.vqa.questions import read_vqa_questions
from radio_eval.vqa.tasks import VqaData, find_vqa_data
from radio_llava.answering import Query

SCENES = 8
Key = tuple[bytes, str]


class Oracle:
    """An answerer that knows what to say of each picture, and remembers what it was asked."""

    name = "oracle"

    def __init__(self, known: dict[Key, str]) -> None:
        self.settings = {"weights": "0"}
        self.known = known
        self.batches: list[list[str]] = []
        self.stop_after: int | None = None

    def prompt(self, query: Query) -> str:
        return query.text

    def answers(self, queries: Sequence[Query], max_new_tokens: int = 128) -> list[str]:
        if self.stop_after is not None and len(self.batches) >= self.stop_after:
            raise KeyboardInterrupt
        self.batches.append([query.text for query in queries])
        if any("refused" in query.text for query in queries):
            raise ValueError("features overflow")
        return [self.known[picture(query), query.text] for query in queries]

    def stream(self, query: Query, listen: Callable[[str], None], max_new_tokens: int = 512) -> str:
        raise NotImplementedError

    def image_tokens(self, height: int, width: int) -> int | None:
        return height * width // 256

    @property
    def asked(self) -> int:
        return sum(map(len, self.batches))


def picture(query: Query) -> bytes:
    return query.images[0].tobytes() if query.images else b""


def right_answers(data: VqaData) -> list[str]:
    """The answer to each question, in their order."""
    questions = read_vqa_questions(data.questions, data.task)
    if data.task == "pope":
        assert {path.name for path in data.annotations} == {
            f"coco_pope_{split}.json" for split in ("random", "popular", "adversarial")
        }
        label_lines = [line for path in data.annotations for line in path.read_text().splitlines()]
        labels = {x["question_id"]: x["label"] for x in map(json.loads, label_lines)}
        return [labels[q.question_id] for q in questions]
    if data.task == "scienceqa":
        assert data.problems is not None
        problems = json.loads(data.problems.read_text())
        return ["ABCDE"[problems[str(q.question_id)]["answer"]] for q in questions]
    labels = json.loads(data.annotations[0].read_text())
    if data.task == "gqa":
        return [labels[q.question_id]["answer"] for q in questions]
    if data.task == "vqav2":
        said = {x["question_id"]: x["multiple_choice_answer"] for x in labels["annotations"]}
        return [said[q.question_id] for q in questions]
    words = {(x["image_id"], x["question"]): x["answers"][0] for x in labels["data"]}
    return [words[str(q.question_id), q.prompt.splitlines()[0]] for q in questions]


def known_to(data: VqaData) -> Oracle:
    questions = read_vqa_questions(data.questions, data.task)
    known = {}
    for question, answer in zip(questions, right_answers(data), strict=True):
        image = load_rgb(data.images / question.image).tobytes() if question.image else b""
        known[image, question.prompt] = answer
    return Oracle(known)


@pytest.fixture
def oracle_of() -> Callable[[VqaData], Oracle]:
    """Makes an answerer that knows all answers of a task."""
    return known_to


@pytest.fixture
def make_oracle() -> Callable[[dict[tuple[Path, str], str]], Oracle]:
    """Makes an answerer out of (image file, prompt) -> answer."""

    def make(known: dict[tuple[Path, str], str]) -> Oracle:
        return Oracle(
            {(load_rgb(path).tobytes(), text): said for (path, text), said in known.items()}
        )

    return make


@pytest.fixture
def ids() -> Callable[[Path], list[str]]:
    """The question ids of a file of answers."""
    return lambda path: [answer.question_id for answer in read_answers(path)]


@pytest.fixture
def copied() -> Callable[[VqaData, Path], VqaData]:
    """Gives a task pictures of its own in a folder, to be broken."""

    def copy(data: VqaData, folder: Path) -> VqaData:
        for question in read_vqa_questions(data.questions, data.task):
            if question.image:
                place = folder / question.image
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes((data.images / question.image).read_bytes())
        return dataclasses.replace(data, images=folder)

    return copy


@pytest.fixture
def write_questions() -> Callable[[Path, Sequence[dict[str, Any]]], Path]:
    """Writes question lines."""

    def write(path: Path, lines: Sequence[dict[str, Any]]) -> Path:
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return path

    return write


@pytest.fixture(scope="session")
def toy_vqa(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy world's questions on eight scenes."""
    out = tmp_path_factory.mktemp("toy-vqa")
    export(out, 1, SCENES, parts=("vqa",))
    return out / "vqa"


@pytest.fixture
def gqa(toy_vqa: Path) -> VqaData:
    return find_vqa_data("gqa", toy_vqa)
