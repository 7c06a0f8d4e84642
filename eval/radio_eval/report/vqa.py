"""Sections of the report on a VQA task: questions with their pictures, and what was answered."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch

from radio_core.data.images import UnreadableImage, load_rgb
from radio_eval.report.pictures import SEED, choose_rows, thumbnail
from radio_eval.report.sections import Card, Line, Picture, Section
from radio_eval.scores.vqa import Judged
from radio_llava.images import IMAGE

QUESTIONS = 12
"""Questions that are shown."""
_SIDE = 240
_LONGEST = 400
"""Characters of a question or an answer."""


def vqa_sections(judged: Sequence[Judged], images: Path) -> list[Section]:
    """Some questions with their pictures, those on one picture together."""
    if not judged:
        return []
    right = torch.tensor([each.score >= 0.5 for each in judged])
    by_image: dict[str, list[Line]] = {}
    for row in sorted(choose_rows(right, QUESTIONS)):
        each, agrees = judged[row], judged[row].score >= 0.5
        lines = by_image.setdefault(each.question.image, [])
        lines += [
            Line(_shown(each.question.prompt)),
            Line(_cut(each.said), agrees, "" if agrees else f"right: {_cut(each.truth)}"),
        ]
    cards = []
    for name, lines in by_image.items():
        picture = None
        if name:
            with suppress(UnreadableImage):
                picture = thumbnail(load_rgb(images / name, upright=False), _SIDE)
        cards.append(Card(lead=Picture(picture, name=name), lines=lines))
    section = Section(
        title="Questions and answers",
        text=f"{min(len(judged), QUESTIONS)} of {len(judged)} questions, drawn with seed {SEED}, "
        "half of them answered right and half wrong as far as there are such. Where several "
        "answers count, the most frequent one is shown, and ✓ stands for half of the score or "
        "more.",
        cards=cards,
    )
    return [section]


def _shown(prompt: str) -> str:
    """A prompt without the place of the image and the request for a short answer."""
    lines = prompt.replace(IMAGE, "").strip().split("\n")
    if len(lines) > 1 and lines[-1].startswith("Answer "):
        lines.pop()
    return _cut("\n".join(lines))


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else text[:_LONGEST] + " …"
