"""Questions about scenes with exact answers, in the files of the field's VQA benchmarks."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from radio_core.data.toyworld.scenes import (
    CLASS_NAMES,
    COLOURS,
    SCENE_SIZE,
    TEXTURES,
    Scene,
    ToyObject,
)

Json = dict[str, Any]
Kind = Literal["color", "shape", "object", "texture", "count", "exist", "choose", "text"]
Structure = Literal["query", "verify", "choose"]

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
_GQA_SEMANTIC = {"object": "cat", "shape": "cat", "exist": "obj", "count": "global"}


@dataclass(frozen=True)
class Question:
    """One question about a scene; `structure` is GQA's structural type ("query" is open)."""

    kind: Kind
    structure: Structure
    text: str
    answer: str
    full_answer: str

    @property
    def short(self) -> str:
        """The question as LLaVA's benchmark files put it."""
        return f"{self.text}\n{SHORT_ANSWER_PROMPT}"


@dataclass(frozen=True)
class SceneRecord:
    """What the VQA files need to know of one scene."""

    image_id: int
    image: str
    caption: str
    present: list[str]
    absent: list[str]
    questions: list[Question]

    @classmethod
    def of(cls, scene: Scene, image_id: int, image: str, rng: np.random.Generator) -> "SceneRecord":
        """Ask about a scene; the generator chooses what about."""
        present = list(dict.fromkeys(thing.name for thing in scene.objects))
        absent = [name for name in CLASS_NAMES if name not in present]
        questions = ask(scene, present, absent, rng)
        return cls(image_id, image, scene.caption, present, absent, questions)

    @property
    def name(self) -> str:
        """The image's number in twelve digits."""
        return f"{self.image_id:012d}"


def ask(
    scene: Scene, present: Sequence[str], absent: Sequence[str], rng: np.random.Generator
) -> list[Question]:
    """Questions on one scene, at most one of each kind except "exist" (one yes and one no).

    Attributes are asked only of objects that the question names unambiguously. Answers on
    existence, texture and choice are balanced over many scenes.
    """
    main, number = scene.objects[0].name, len(scene.objects)
    counted = "There is 1 object." if number == 1 else f"There are {number} objects."
    questions = [
        Question("object", "query", "What is the largest object?", main, f"It is a {main}."),
        Question("count", "query", "How many objects are in the image?", str(number), counted),
    ]
    for names, answer, verb in ((present, "yes", "is"), (absent, "no", "is not")):
        name = names[int(rng.integers(len(names)))]
        sentence = f"{answer.capitalize()}, there {verb} a {name} in the image."
        text = f"Is there a {name} in the image?"
        questions.append(Question("exist", "verify", text, answer, sentence))
    thing = _alone(scene, "shape", rng)
    if thing is not None:
        shape, colour, texture = thing.shape, thing.colour, thing.texture
        sentence = f"The {shape} is {colour}."
        questions.append(
            Question("color", "query", f"What color is the {shape}?", colour, sentence)
        )
        pair = [colour, _other(list(COLOURS), colour, rng)]
        first, second = pair if rng.random() < 0.5 else reversed(pair)
        text = f"Is the {shape} {first} or {second}?"
        questions.append(Question("choose", "choose", text, colour, sentence))
        asked = texture if rng.random() < 0.5 else _other(TEXTURES, texture, rng)
        answer = "yes" if asked == texture else "no"
        sentence = f"{answer.capitalize()}, the {shape} is {texture}."
        text = f"Is the {shape} {asked}?"
        questions.append(Question("texture", "verify", text, answer, sentence))
    thing = _alone(scene, "colour", rng)
    if thing is not None:
        sentence = f"The {thing.colour} object is a {thing.shape}."
        text = f"What shape is the {thing.colour} object?"
        questions.append(Question("shape", "query", text, thing.shape, sentence))
    if scene.text:
        word = scene.text.lower()
        text = "What word is written in the picture?"
        questions.append(Question("text", "query", text, word, f'The word is "{word}".'))
    return questions


def _alone(scene: Scene, attribute: str, rng: np.random.Generator) -> ToyObject | None:
    """A random object among those that share `attribute` with no other, if there is one."""
    counts = Counter(getattr(thing, attribute) for thing in scene.objects)
    alone = [thing for thing in scene.objects if counts[getattr(thing, attribute)] == 1]
    return alone[int(rng.integers(len(alone)))] if alone else None


def _other(choices: Sequence[str], than: str, rng: np.random.Generator) -> str:
    others = [choice for choice in choices if choice != than]
    return others[int(rng.integers(len(others)))]


def llava_pretrain(records: Sequence[SceneRecord]) -> list[Json]:
    """LLaVA's first stage: one caption an image."""
    entries = []
    for record in records:
        prompt = _CAPTION_PROMPTS[record.image_id % len(_CAPTION_PROMPTS)]
        entries.append(_conversation(record, [(prompt, record.caption)]))
    return entries


def llava_instruct(records: Sequence[SceneRecord]) -> list[Json]:
    """LLaVA's second stage: all questions on an image in one conversation, short answers.

    As in LLaVA-1.5's mixture, only the first turn carries the request for a short answer. Each
    image begins with another of its questions: asked alone, every kind then looks as in training.
    """
    entries = []
    for record in records:
        first = record.image_id % len(record.questions)
        turned = record.questions[first:] + record.questions[:first]
        turns = [(turned[0].short, turned[0].answer)]
        turns += [(question.text, question.answer) for question in turned[1:]]
        entries.append(_conversation(record, turns))
    return entries


def _conversation(record: SceneRecord, turns: Sequence[tuple[str, str]]) -> Json:
    messages = []
    for number, (question, answer) in enumerate(turns):
        prefix = "<image>\n" if number == 0 else ""
        messages.append({"from": "human", "value": prefix + question})
        messages.append({"from": "gpt", "value": answer})
    return {"id": record.name, "image": record.image, "conversations": messages}


def _line(question_id: int | str, image: str, text: str, category: str = "default") -> Json:
    """One line of LLaVA's file of questions for a benchmark."""
    return {"question_id": question_id, "image": image, "text": text, "category": category}


def gqa(records: Sequence[SceneRecord]) -> tuple[Json, list[Json]]:
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
                "imageId": record.name,
                "answer": question.answer,
                "fullAnswer": question.full_answer,
                "isBalanced": True,
                "groups": {"global": question.kind, "local": f"{question.kind}-{number}"},
                "entailed": [],
                "equivalent": [key],
                "types": {
                    "structural": question.structure,
                    "semantic": _GQA_SEMANTIC.get(question.kind, "attr"),
                    "detailed": question.kind,
                },
                "annotations": {"question": {}, "answer": {}, "fullAnswer": {}},
                "semantic": [],
                "semanticStr": "",
            }
            lines.append(_line(key, record.image, question.short))
    return questions, lines


def vqav2(records: Sequence[SceneRecord], split: str) -> tuple[Json, Json, list[Json]]:
    """VQAv2: (questions file, annotations file, LLaVA's question lines); all ten people agree."""
    questions, annotations, lines = [], [], []
    for record in records:
        for number, question in enumerate(record.questions):
            key = record.image_id * _QUESTIONS_AN_IMAGE + number
            answer = question.answer
            closed = "yes/no" if answer in ("yes", "no") else "other"
            questions.append(
                {"image_id": record.image_id, "question": question.text, "question_id": key}
            )
            annotations.append(
                {
                    "question_type": " ".join(question.text.lower().split()[:2]),
                    "multiple_choice_answer": answer,
                    "answers": [
                        {"answer": answer, "answer_confidence": "yes", "answer_id": k + 1}
                        for k in range(_ANSWERERS)
                    ],
                    "image_id": record.image_id,
                    "answer_type": "number" if question.kind == "count" else closed,
                    "question_id": key,
                }
            )
            lines.append(_line(key, record.image, question.short))
    head: Json = {
        "info": {"description": "toy world"},
        "license": {"name": "Apache-2.0"},
        "data_type": "toyworld",
        "data_subtype": split,
        "task_type": "Open-Ended",
    }
    return {**head, "questions": questions}, {**head, "annotations": annotations}, lines


def textvqa(records: Sequence[SceneRecord], split: str) -> tuple[Json, list[Json]]:
    """TextVQA 0.5.1: (annotation file, LLaVA's question lines), of the scenes that show a word.

    As in LLaVA's file the question id of a line is the image id, and no OCR tokens are given:
    in the toy world they would be the answer.
    """
    data, lines = [], []
    for record in records:
        for number, question in enumerate(record.questions):
            if question.kind != "text":
                continue
            data.append(
                {
                    "question": question.text,
                    "image_id": record.name,
                    "image_classes": record.present,
                    "image_width": SCENE_SIZE,
                    "image_height": SCENE_SIZE,
                    "answers": [question.answer] * _ANSWERERS,
                    "question_tokens": question.text.lower().rstrip("?").split(),
                    "question_id": record.image_id * _QUESTIONS_AN_IMAGE + number,
                    "set_name": split,
                }
            )
            lines.append(_line(record.name, record.image, question.short))
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

    def missing(split: str, record: SceneRecord) -> list[str]:
        """Class names that the image lacks, the first to ask for first."""
        if split == "popular":
            return [name for name in popular if name in record.absent]
        shuffled = [record.absent[k] for k in rng.permutation(len(record.absent))]
        if split == "random":
            return shuffled
        words = {word for name in record.present for word in name.split()}
        return sorted(shuffled, key=lambda name: -len(words & set(name.split())))

    labels: dict[str, list[Json]] = {split: [] for split in POPE_SPLITS}
    lines: list[Json] = []
    for split in POPE_SPLITS:
        for record in records:
            pairs = zip(record.present[:_POPE_PAIRS], missing(split, record), strict=False)
            asked = [name for pair in pairs for name in pair]
            for number, name in enumerate(asked):
                text = f"Is there a {name} in the image?"
                entry = {"question_id": len(lines), "image": record.image, "text": text}
                labels[split].append({**entry, "label": ("yes", "no")[number % 2]})
                short = f"{text}\n{SHORT_ANSWER_PROMPT}"
                lines.append(_line(len(lines), record.image, short, category=split))
    return labels, lines


def scienceqa(
    records: Sequence[SceneRecord], split: str, rng: np.random.Generator
) -> tuple[Json, list[Json]]:
    """ScienceQA: ({problem id: problem}, LLaVA's entries): which object does the scene show?

    Every fourth problem has no image; there the caption stands as the hint. The entries are as
    LLaVA's converter writes them in the format CQM-A.
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
        question, hint = "Which of these objects is there?", record.caption if in_text else ""
        problems[key] = {
            "question": question,
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
        options = " ".join(f"({_LETTERS[k]}) {text}" for k, text in enumerate(choices))
        text = f"Context: {hint or 'N/A'}\nQuestion: {question}\nOptions: {options}"
        entry: Json = {"id": key} if in_text else {"id": key, "image": record.image}
        entry["conversations"] = [
            {"from": "human", "value": text if in_text else f"{text}\n<image>"},
            {"from": "gpt", "value": f"The answer is {_LETTERS[answer]}."},
        ]
        entries.append(entry)
    return problems, entries
