"""Questions, the right answers, and what each LLaVA said, as one HTML file."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from radio_eval.llava_toy import TASK
from radio_eval.report.html import environment
from radio_eval.report.sections import Answered, Asked, AskedScene, Questions
from radio_eval.vqa.answers import read_answers, read_document

TITLE = "LLaVA quickstart: the same language model with different eyes"
SCENES = 8


def write_llava_report(path: Path, data: Path, out: Path, content: Mapping[str, Any]) -> None:
    """Write the report of a quickstart.

    Args:
        path: of the HTML file.
        data: the export's `vqa` folder.
        out: the quickstart's folder; each model's answers are below the folder of its name.
        content: of results.json.
    """
    names = tuple(content["results"])
    asked = Questions(
        title="Questions and answers", text="", names=names, scenes=_scenes(data, out, names)
    )
    page = environment().get_template("llava.html.j2")
    html = page.render(title=TITLE, content=content, asked=asked)
    path.write_text(html, encoding="utf-8")


def _scenes(data: Path, out: Path, names: Sequence[str]) -> tuple[AskedScene, ...]:
    """The first held-out scenes with their questions and everybody's answers."""
    lines = (data / TASK / f"llava_{TASK}_val.jsonl").read_text(encoding="utf-8").splitlines()
    truths = read_document(data / TASK / "val_balanced_questions.json")
    said = [
        {a.question_id: a.text for a in read_answers(out / name / f"{TASK}_answers.jsonl")}
        for name in names
    ]
    by_image: dict[str, list[Asked]] = {}
    for line in map(json.loads, lines):
        key = line["question_id"]
        truth = truths[key]["answer"]
        texts = [answers.get(key) for answers in said]
        asked = Asked(
            text=truths[key]["question"],
            truth=truth,
            answers=tuple(Answered(text=text, right=text == truth) for text in texts),
        )
        by_image.setdefault(line["image"], []).append(asked)
    scenes = []
    for image, questions in list(by_image.items())[:SCENES]:
        picture = np.asarray(Image.open(data / "images" / image).convert("RGB"))
        scenes.append(AskedScene(picture=picture, questions=tuple(questions)))
    return tuple(scenes)
