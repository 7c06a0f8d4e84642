"""Questions on scenes -> the JSON structures of GQA, VQAv2, TextVQA, POPE, ScienceQA and LLaVA."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from radio_core.data.toyworld.export_questions import Question
from radio_core.data.toyworld.scenes import CLASS_NAMES, SCENE_SIZE

Json = dict[str, Any]

SHORT_ANSWER_PROMPT = "Answer the question using a single word or phrase."
POPE_SPLITS = ("random", "popular", "adversarial")

_CAPTION_PROMPTS = (
    "Describe the image briefly.",
    "What does the picture show?",
    "Give a short caption of this image.",
    "Write one sentence about the image.",
)
_LETTERS = "ABCDE"
_ANSWERERS = 10
_QUESTIONS_AN_IMAGE = 1000  # VQAv2: question id = image id * 1000 + number
_POPE_PAIRS = 3
_TEXT_ONLY_EVERY = 4


@dataclass(frozen=True, kw_only=True)
class SceneRecord:
    """What the VQA files need to know of one scene.

    Attributes:
        image_id: number of the scene, also in the file name.
        image: path of its picture below the image folder.
        caption: full description.
        text: the word in the picture, "" without one.
        present: class names of its objects, without repetition.
        absent: all other class names.
        questions: as `export_questions.ask` gives them.
    """

    image_id: int
    image: str
    caption: str
    text: str
    present: list[str]
    absent: list[str]
    questions: list[Question]


def llava_pretrain(records: Iterable[SceneRecord]) -> list[Json]:
    """LLaVA's first stage: one caption an image."""
    return [
        _conversation(
            f"{record.image_id:012d}",
            record.image,
            [(_CAPTION_PROMPTS[record.image_id % len(_CAPTION_PROMPTS)], record.caption)],
        )
        for record in records
    ]


def llava_instruct(records: Iterable[SceneRecord]) -> list[Json]:
    """LLaVA's second stage: all questions on an image in one conversation, short answers.

    As in LLaVA-1.5's mixture, only the first turn carries the request for a short answer. Each
    image begins with another of its questions: asked alone, every kind then looks as in training.
    """
    entries = []
    for record in records:
        turns = [(question.text, question.answer) for question in record.questions]
        first = record.image_id % len(turns)
        turns = turns[first:] + turns[:first]
        turns[0] = (f"{turns[0][0]}\n{SHORT_ANSWER_PROMPT}", turns[0][1])
        entries.append(_conversation(f"{record.image_id:012d}", record.image, turns))
    return entries


def _conversation(name: str, image: str, turns: Sequence[tuple[str, str]]) -> Json:
    messages = []
    for number, (question, answer) in enumerate(turns):
        prefix = "<image>\n" if number == 0 else ""
        messages.append({"from": "human", "value": prefix + question})
        messages.append({"from": "gpt", "value": answer})
    return {"id": name, "image": image, "conversations": messages}


def _llava_question(
    question_id: int | str, image: str, text: str, category: str = "default"
) -> Json:
    return {"question_id": question_id, "image": image, "text": text, "category": category}


def gqa(records: Iterable[SceneRecord]) -> tuple[Json, list[Json]]:
    """GQA: ({question id: question}, LLaVA's question lines); everything except read text."""
    questions: Json = {}
    lines = []
    for record in records:
        for number, question in enumerate(record.questions):
            if question.kind == "text":
                continue
            key = str(record.image_id * _QUESTIONS_AN_IMAGE + number)
            questions[key] = {
                "question": question.text,
                "imageId": f"{record.image_id:012d}",
                "answer": question.answer,
                "fullAnswer": question.full_answer,
                "isBalanced": True,
                "groups": {"global": question.kind, "local": f"{question.kind}-{number}"},
                "entailed": [],
                "equivalent": [key],
                "types": {
                    "structural": question.structure,
                    "semantic": _gqa_semantic(question),
                    "detailed": question.kind,
                },
                "annotations": {"question": {}, "answer": {}, "fullAnswer": {}},
                "semantic": [],
                "semanticStr": "",
            }
            lines.append(
                _llava_question(key, record.image, f"{question.text}\n{SHORT_ANSWER_PROMPT}")
            )
    return questions, lines


def _gqa_semantic(question: Question) -> str:
    kinds = {"object": "cat", "shape": "cat", "exist": "obj", "count": "global"}
    return kinds.get(question.kind, "attr")


def vqav2(records: Iterable[SceneRecord], split: str) -> tuple[Json, Json, list[Json]]:
    """VQAv2: (questions file, annotations file, LLaVA's question lines); all ten people agree."""
    questions, annotations, lines = [], [], []
    for record in records:
        for number, question in enumerate(record.questions):
            key = record.image_id * _QUESTIONS_AN_IMAGE + number
            questions.append(
                {"image_id": record.image_id, "question": question.text, "question_id": key}
            )
            annotations.append(
                {
                    "question_type": " ".join(question.text.lower().split()[:2]),
                    "multiple_choice_answer": question.answer,
                    "answers": [
                        {"answer": question.answer, "answer_confidence": "yes", "answer_id": k + 1}
                        for k in range(_ANSWERERS)
                    ],
                    "image_id": record.image_id,
                    "answer_type": _answer_type(question),
                    "question_id": key,
                }
            )
            lines.append(
                _llava_question(key, record.image, f"{question.text}\n{SHORT_ANSWER_PROMPT}")
            )
    head: Json = {
        "info": {"description": "toy world"},
        "license": {"name": "Apache-2.0"},
        "data_type": "toyworld",
        "data_subtype": split,
        "task_type": "Open-Ended",
    }
    return {**head, "questions": questions}, {**head, "annotations": annotations}, lines


def _answer_type(question: Question) -> str:
    if question.answer in ("yes", "no"):
        return "yes/no"
    return "number" if question.kind == "count" else "other"


def textvqa(records: Iterable[SceneRecord], split: str) -> tuple[Json, list[Json]]:
    """TextVQA 0.5.1: (annotation file, LLaVA's question lines), of the scenes that show a word.

    As in LLaVA's file the question id of a line is the image id, and no OCR tokens are given:
    in the toy world they would be the answer.
    """
    data, lines = [], []
    for record in records:
        for number, question in enumerate(record.questions):
            if question.kind != "text":
                continue
            image_id = f"{record.image_id:012d}"
            data.append(
                {
                    "question": question.text,
                    "image_id": image_id,
                    "image_classes": record.present,
                    "image_width": SCENE_SIZE,
                    "image_height": SCENE_SIZE,
                    "answers": [question.answer] * _ANSWERERS,
                    "question_tokens": question.text.lower().rstrip("?").split(),
                    "question_id": record.image_id * _QUESTIONS_AN_IMAGE + number,
                    "set_name": split,
                }
            )
            lines.append(
                _llava_question(image_id, record.image, f"{question.text}\n{SHORT_ANSWER_PROMPT}")
            )
    head: Json = {"dataset_type": split, "dataset_name": "textvqa", "dataset_version": "0.5.1"}
    return {**head, "data": data}, lines


def pope(
    records: Sequence[SceneRecord], rng: np.random.Generator
) -> tuple[dict[str, list[Json]], list[Json]]:
    """POPE: ({split: label lines}, LLaVA's question lines in the same order).

    Half of the questions have the answer yes. The objects asked for in vain are any ("random"),
    the most frequent of the data set ("popular"), or those most like the objects that are there
    ("adversarial": a colour and a shape that both occur, though not together).
    """
    frequency = Counter(name for record in records for name in record.present)
    popular = sorted(CLASS_NAMES, key=lambda name: -frequency[name])
    labels: dict[str, list[Json]] = {split: [] for split in POPE_SPLITS}
    lines = []
    key = 0
    for split in POPE_SPLITS:
        for record in records:
            asked = record.present[:_POPE_PAIRS]
            missing = _missing(split, record, popular, rng)
            for yes, no in zip(asked, missing, strict=False):
                for name, label in ((yes, "yes"), (no, "no")):
                    text = f"Is there a {name} in the image?"
                    entry = {"question_id": key, "image": record.image, "text": text}
                    labels[split].append({**entry, "label": label})
                    lines.append({**entry, "text": f"{text}\n{SHORT_ANSWER_PROMPT}"})
                    lines[-1]["category"] = split
                    key += 1
    return labels, lines


def _missing(
    split: str, record: SceneRecord, popular: Sequence[str], rng: np.random.Generator
) -> list[str]:
    """Class names that the image lacks, the first to ask for first."""
    if split == "popular":
        absent = set(record.absent)
        return [name for name in popular if name in absent]
    shuffled = [record.absent[k] for k in rng.permutation(len(record.absent))]
    if split == "random":
        return shuffled
    words = {word for name in record.present for word in name.split()}
    return sorted(shuffled, key=lambda name: -len(words & set(name.split())))


def scienceqa(
    records: Iterable[SceneRecord], split: str, rng: np.random.Generator
) -> tuple[Json, list[Json]]:
    """ScienceQA: ({problem id: problem}, LLaVA's entries): which object does the scene show?

    Every fourth problem has no image; there the caption stands as the hint.
    """
    problems: Json = {}
    entries = []
    for number, record in enumerate(records):
        key = str(record.image_id)
        in_text = number % _TEXT_ONLY_EVERY == _TEXT_ONLY_EVERY - 1
        size = int(rng.integers(2, len(_LETTERS) + 1))
        wrong = [record.absent[k] for k in rng.permutation(len(record.absent))[: size - 1]]
        answer = int(rng.integers(size))
        choices = [*wrong[:answer], record.present[0], *wrong[answer:]]
        hint = record.caption if in_text else ""
        problems[key] = {
            "question": "Which of these objects is there?",
            "choices": choices,
            "answer": answer,
            "hint": hint,
            "image": None if in_text else record.image,
            "task": "closed choice",
            "grade": "grade1",
            "subject": "natural science",
            "topic": "toy world",
            "category": "Objects",
            "skill": "Recognise an object",
            "lecture": "",
            "solution": f"The scene shows {record.caption}.",
            "split": split,
        }
        entries.append(_scienceqa_entry(key, problems[key]))
    return problems, entries


def _scienceqa_entry(key: str, problem: Json) -> Json:
    """One problem as LLaVA's converter writes it in the format CQM-A."""
    options = " ".join(f"({_LETTERS[k]}) {text}" for k, text in enumerate(problem["choices"]))
    text = (
        f"Context: {problem['hint'] or 'N/A'}\nQuestion: {problem['question']}\nOptions: {options}"
    )
    entry: Json = {"id": key}
    if problem["image"] is not None:
        entry["image"] = problem["image"]
        text += "\n<image>"
    entry["conversations"] = [
        {"from": "human", "value": text},
        {"from": "gpt", "value": f"The answer is {_LETTERS[problem['answer']]}."},
    ]
    return entry
