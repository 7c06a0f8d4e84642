"""Questions about toy-world scenes with exact answers, for the VQA files of the export."""

from collections import Counter
from dataclasses import dataclass
from typing import Literal

import numpy as np

from radio_core.data.toyworld.scenes import COLOURS, SHAPES, TEXTURES, Scene, ToyObject

Kind = Literal["color", "shape", "object", "texture", "count", "exist", "choose", "text"]
Structure = Literal["query", "verify", "choose"]

TEXT_QUESTION = "What word is written in the picture?"


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question about a scene.

    Attributes:
        kind: what it asks for.
        structure: GQA's structural type; "query" is open, the others are closed.
        text: the question.
        answer: a word or two in lower case, digits for numbers.
        full_answer: the answer as a sentence.
    """

    kind: Kind
    structure: Structure
    text: str
    answer: str
    full_answer: str


def ask(scene: Scene, rng: np.random.Generator) -> list[Question]:
    """Questions on one scene, at most one of each kind except "exist" (one yes and one no).

    Attributes are asked only of objects that the question names unambiguously. Answers on
    existence, texture and choice are balanced over many scenes.
    """
    questions = [_main_object(scene), _count(scene), *_existence(scene, rng)]
    questions += _attribute_questions(scene, rng)
    if scene.text:
        word = scene.text.lower()
        questions.append(_query("text", TEXT_QUESTION, word, f'The word is "{word}".'))
    return questions


def absent_names(scene: Scene) -> list[str]:
    """Class names, in the order of CLASS_NAMES, that no object of the scene has."""
    present = {thing.name for thing in scene.objects}
    return [f"{c} {s}" for c in COLOURS for s in SHAPES if f"{c} {s}" not in present]


def present_names(scene: Scene) -> list[str]:
    """Class names of the scene's objects without repetition, the main object's first."""
    return list(dict.fromkeys(thing.name for thing in scene.objects))


def _query(kind: Kind, text: str, answer: str, full_answer: str) -> Question:
    return Question(kind=kind, structure="query", text=text, answer=answer, full_answer=full_answer)


def _main_object(scene: Scene) -> Question:
    name = scene.objects[0].name
    return _query("object", "What is the largest object?", name, f"It is a {name}.")


def _count(scene: Scene) -> Question:
    number = len(scene.objects)
    sentence = "There is 1 object." if number == 1 else f"There are {number} objects."
    return _query("count", "How many objects are in the image?", str(number), sentence)


def _existence(scene: Scene, rng: np.random.Generator) -> list[Question]:
    """One question with the answer yes and one with the answer no."""
    present, absent = present_names(scene), absent_names(scene)
    questions = []
    for names, answer in ((present, "yes"), (absent, "no")):
        name = names[int(rng.integers(len(names)))]
        verb = "is" if answer == "yes" else "is not"
        questions.append(
            Question(
                kind="exist",
                structure="verify",
                text=f"Is there a {name} in the image?",
                answer=answer,
                full_answer=f"{answer.capitalize()}, there {verb} a {name} in the image.",
            )
        )
    return questions


def _attribute_questions(scene: Scene, rng: np.random.Generator) -> list[Question]:
    """Colour, choice of colours, shape and texture of objects that are alone of their kind."""
    questions = []
    thing = _pick(scene, "shape", rng)
    if thing is not None:
        sentence = f"The {thing.shape} is {thing.colour}."
        question = f"What color is the {thing.shape}?"
        questions.append(_query("color", question, thing.colour, sentence))
        questions.append(_choice(thing, rng))
        questions.append(_texture(thing, rng))
    thing = _pick(scene, "colour", rng)
    if thing is not None:
        sentence = f"The {thing.colour} object is a {thing.shape}."
        question = f"What shape is the {thing.colour} object?"
        questions.append(_query("shape", question, thing.shape, sentence))
    return questions


def _pick(scene: Scene, attribute: str, rng: np.random.Generator) -> ToyObject | None:
    """A random object among those that share `attribute` with no other, if there is one."""
    counts = Counter(getattr(thing, attribute) for thing in scene.objects)
    alone = [thing for thing in scene.objects if counts[getattr(thing, attribute)] == 1]
    return alone[int(rng.integers(len(alone)))] if alone else None


def _choice(thing: ToyObject, rng: np.random.Generator) -> Question:
    others = [colour for colour in COLOURS if colour != thing.colour]
    pair = [thing.colour, others[int(rng.integers(len(others)))]]
    first, second = pair if rng.random() < 0.5 else reversed(pair)
    return Question(
        kind="choose",
        structure="choose",
        text=f"Is the {thing.shape} {first} or {second}?",
        answer=thing.colour,
        full_answer=f"The {thing.shape} is {thing.colour}.",
    )


def _texture(thing: ToyObject, rng: np.random.Generator) -> Question:
    others = [texture for texture in TEXTURES if texture != thing.texture]
    asked = thing.texture if rng.random() < 0.5 else others[int(rng.integers(len(others)))]
    answer = "yes" if asked == thing.texture else "no"
    return Question(
        kind="texture",
        structure="verify",
        text=f"Is the {thing.shape} {asked}?",
        answer=answer,
        full_answer=f"{answer.capitalize()}, the {thing.shape} is {thing.texture}.",
    )
