"""The page of the LLaVA quickstart: questions, the right answers, and what each LLaVA said."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from radio_eval.data.answers import read_answers, read_document
from radio_eval.llava_toy import TASK
from radio_eval.report.page import Page
from radio_eval.report.sections import Card, Picture, Section
from radio_eval.report.table import Cell, Column, Table, Tone

SCORES = {"accuracy": "all", "binary": "yes or no, this or that", "open": "open"}
"""Scores of the table, with their titles."""
SCENES = 8


def llava_page(data: Path, out: Path, content: Mapping[str, Any]) -> Page:
    """The page of a quickstart of its folder `out`, the export's `vqa` folder and results.json."""
    scores = Section(title="", tables=[llava_table(content["results"])])
    questions = Section(
        title="Questions and answers", cards=_scenes(data, out, tuple(content["results"]))
    )
    return Page(
        title="LLaVA quickstart: the same language model with different eyes",
        lead="Right answers to questions on scenes that no training has seen, in percent (GQA's "
        "score). “blind” was trained, and is asked, with noise in place of the pictures: what the "
        "words of the questions alone give away.",
        sections=[scores, questions],
        folded={"Steps, seeds, versions and times": content},
    )


def llava_table(results: Mapping[str, Mapping[str, Any]]) -> Table:
    """A row a model: right answers in percent, and how many tokens an image became."""
    best = max(result["accuracy"] for result in results.values())
    rows: list[list[str | Cell]] = []
    for name, result in results.items():
        tone: Tone = "best" if result["accuracy"] == best else ""
        scores = [result[key] for key in SCORES]
        cells = [Cell("–" if s is None else f"{s:.1f}", tone=tone, value=s) for s in scores]
        tokens = result["image_tokens"]
        rows.append([name, *cells, "–" if tokens is None else f"{tokens:.0f}"])
    columns = [Column(title) for title in ("vision tower", *SCORES.values(), "image tokens")]
    title = "Answers to held-out questions (GQA's score, percent)"
    return Table(title=title, columns=columns, rows=rows)


def _scenes(data: Path, out: Path, names: tuple[str, ...]) -> list[Card]:
    lines = (data / TASK / f"llava_{TASK}_val.jsonl").read_text(encoding="utf-8").splitlines()
    truths = read_document(data / TASK / "val_balanced_questions.json")
    said = [
        {a.question_id: a.text for a in read_answers(out / name / f"{TASK}_answers.jsonl").said}
        for name in names
    ]
    by_image: dict[str, list[list[str | Cell]]] = {}
    for line in map(json.loads, lines):
        key = line["question_id"]
        truth = truths[key]["answer"]
        answers = [each.get(key) for each in said]
        row: list[str | Cell] = [truths[key]["question"], truth]
        row += [Cell(a or "–", tone="right" if a == truth else "wrong") for a in answers]
        by_image.setdefault(line["image"], []).append(row)
    columns = [Column(title, numeric=False) for title in ("question", "right", *names)]
    cards = []
    for image, rows in list(by_image.items())[:SCENES]:
        pixels = np.asarray(Image.open(data / "images" / image).convert("RGB"))
        cards.append(Card(lead=Picture(pixels), table=Table(columns=columns, rows=rows)))
    return cards
