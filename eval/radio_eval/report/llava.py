"""Questions, the right answers, and what each LLaVA said, as one HTML file."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from radio_eval.llava_toy import TASK
from radio_eval.report.html import Picture, environment
from radio_eval.vqa.answers import read_answers, read_document

TITLE = "LLaVA quickstart: the same language model with different eyes"
SCENES = 8


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A question to all models.

    Attributes:
        text: the question.
        truth: the right answer.
        said: model -> its answer; None where it has none.
    """

    text: str
    truth: str
    said: Mapping[str, str | None]


@dataclass(frozen=True, kw_only=True)
class AskedScene:
    """A picture, uint8 [H, W, 3], with all questions on it."""

    picture: Picture
    questions: Sequence[Asked]


def write_llava_report(path: Path, data: Path, out: Path, content: Mapping[str, Any]) -> None:
    """Write the report of a quickstart.

    Args:
        path: of the HTML file.
        data: the export's `vqa` folder.
        out: the quickstart's folder; each model's answers are below the folder of its name.
        content: of results.json.
    """
    names = list(content["results"])
    page = environment().get_template("llava.html.j2")
    html = page.render(title=TITLE, content=content, names=names, scenes=_scenes(data, out, names))
    path.write_text(html, encoding="utf-8")


def _scenes(data: Path, out: Path, names: Sequence[str]) -> list[AskedScene]:
    """The first held-out scenes with their questions and everybody's answers."""
    lines = (data / TASK / f"llava_{TASK}_val.jsonl").read_text(encoding="utf-8").splitlines()
    truths = read_document(data / TASK / "val_balanced_questions.json")
    said = {
        name: {a.question_id: a.text for a in read_answers(out / name / f"{TASK}_answers.jsonl")}
        for name in names
    }
    by_image: dict[str, list[Asked]] = {}
    for line in map(json.loads, lines):
        key = line["question_id"]
        asked = Asked(
            text=truths[key]["question"],
            truth=truths[key]["answer"],
            said={name: answers.get(key) for name, answers in said.items()},
        )
        by_image.setdefault(line["image"], []).append(asked)
    scenes = []
    for image, questions in list(by_image.items())[:SCENES]:
        picture = np.asarray(Image.open(data / "images" / image).convert("RGB"))
        scenes.append(AskedScene(picture=picture, questions=questions))
    return scenes
