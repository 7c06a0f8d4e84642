"""The zero-shot tab: which of some labels fits a picture."""

from functools import cache
from pathlib import Path
from typing import Any

import gradio as gr
import torch
from PIL import Image
from torch import Tensor

from radio_clip.model import adaptor_specs, load_radio_clip
from radio_core.data.toyworld import TEMPLATES
from radio_core.models.radio import RadioModel
from radio_core.vision import VisionModel
from radio_demos.drawing import picture_input
from radio_demos.models import CannotServe, Model, Student, open_student
from radio_demos.safety import BLOCKS, LONGEST_TEXT, UNSEEN, Recent, on_picture, runs
from radio_eval.scores.zero_shot import zero_shot_classifier, zero_shot_logits

INTRODUCTION = """### Which words fit the picture?
**Type any labels.** The model was never trained on them as classes: it compares the picture with a
sentence about each, in the space of the CLIP teacher that it imitates."""

TOY_NOTE = """The bundled toy knows the colours and shapes of its toy world only: name things such
as *red star* or *blue circle*."""

MOST_LABELS = 200
MOST_TEMPLATES = 80
MOST_SENTENCES = 2000

_TOY_LABELS = "red cross, blue cross, purple star, green star, red triangle, red square"
_LABELS = "a cat, a dog, a car, a tree, a person, a house"
_TEMPLATES = ("a photo of a {}.",)
_BARS = 12


def build_zero_shot(
    model: Model | VisionModel | str | Path = "toy", text_tower: str | None = None
) -> Any:
    """The zero-shot tab.

    Args:
        model: one with an adaptor that has a text tower, see
            `radio_demos.models.open_demo_model`.
        text_tower: local weights of the text tower, so that none is downloaded; it is loaded when
            first needed.

    Returns:
        A `gr.Blocks`.

    Raises:
        CannotServe: a ValueError; a model without such an adaptor. Others as `open_demo_model`.
    """
    radio = open_student(model)
    specs = adaptor_specs(radio)
    if not any(spec.text_tower and spec.summary_dim for spec in specs.values()):
        known = ", ".join(specs) or "none"
        raise CannotServe(
            f"zero-shot labels need an adaptor with a text tower; this model's adaptors: {known}. "
            "An exported file has those that it was written with, as by "
            "`radio export onnx MODEL FILE --adaptors clip`"
        )
    toy = (radio.config if isinstance(radio, RadioModel) else radio.card).name == "toy"
    classifier = Classifier(radio, text_tower)
    with gr.Blocks(title="RADIO: zero-shot", **BLOCKS) as blocks:
        gr.Markdown(INTRODUCTION + (f"\n\n{TOY_NOTE}" if toy else ""))
        with gr.Row():
            with gr.Column(scale=2, min_width=280):
                picture = picture_input()
            with gr.Column(scale=3, min_width=280):
                labels = gr.Textbox(
                    _TOY_LABELS if toy else _LABELS,
                    label="Labels",
                    info="separated by commas or lines",
                    lines=2,
                    max_length=LONGEST_TEXT,
                )
                with gr.Accordion("Sentences around the labels", open=False):
                    templates = gr.Textbox(
                        "\n".join(TEMPLATES if toy else _TEMPLATES),
                        label="Templates",
                        info="one a line, {} is the label; their average is taken",
                        lines=4,
                        max_length=LONGEST_TEXT,
                    )
                button = gr.Button("Compare", variant="primary")
                bars = gr.Label(label="Probabilities", num_top_classes=_BARS)
        asked: dict[str, Any] = {"fn": on_picture(classifier.compare), "outputs": bars, **runs()}
        asked["inputs"] = [picture, labels, templates]
        triggers = [button.click, labels.submit, picture.change]
        gr.on(triggers, **asked, api_name="zero_shot", trigger_mode="always_last")
        blocks.load(**asked, **UNSEEN)
    return blocks


class Classifier:
    """Labels as the classes of pictures."""

    def __init__(self, radio: Student, text_tower: str | None) -> None:
        self._clip = cache(lambda: load_radio_clip(radio, text_tower=text_tower))
        self._weights: Recent[Tensor] = Recent(most=64)

    def compare(
        self, picture: Image.Image | None, labels: str, templates: str
    ) -> dict[str, float] | None:
        """The probability of each label; for a teacher with a bias (SigLIP) each for itself."""
        if picture is None:
            return None
        names, sentences = read_labels(labels), read_templates(templates)
        if len(names) * len(sentences) > MOST_SENTENCES:
            raise ValueError(
                f"{len(names)} labels in {len(sentences)} templates are too many: take at most "
                f"{MOST_SENTENCES} sentences"
            )
        clip, preprocess, tokenizer = self._clip()
        device = clip.logit_scale.device

        def encode(texts: Any) -> Tensor:
            return clip.encode_text(tokenizer(list(texts)).to(device))

        with torch.inference_mode():
            weights = self._weights.get(
                (names, sentences), lambda: zero_shot_classifier(encode, names, sentences)
            )
            image = preprocess(picture)[None].to(device)
            logits = zero_shot_logits(clip.encode_image(image), weights)[0] * clip.logit_scale.exp()
            if clip.logit_bias is None:
                shares = logits.softmax(dim=0)
            else:
                shares = (logits + clip.logit_bias).sigmoid()
        return dict(zip(names, shares.tolist(), strict=True))


def read_labels(text: str) -> tuple[str, ...]:
    """The different labels of a text, in order."""
    parts = (" ".join(part.split()) for part in text.replace("\n", ",").split(","))
    names = tuple(dict.fromkeys(filter(None, parts)))
    if not names:
        raise ValueError("Type at least one label, such as: red star")
    if len(names) > MOST_LABELS:
        raise ValueError(f"{len(names)} labels are too many here: take at most {MOST_LABELS}")
    return names


def read_templates(text: str) -> tuple[str, ...]:
    """The sentences of a text, one a line."""
    lines = tuple(filter(None, (line.strip() for line in text.splitlines())))
    if len(lines) > MOST_TEMPLATES:
        raise ValueError(f"{len(lines)} templates are too many: take at most {MOST_TEMPLATES}")
    if not lines:
        raise ValueError("Type at least one template, such as: a photo of a {}")
    for line in lines:
        if line.count("{}") != 1:
            raise ValueError(f"template {line!r} must hold exactly one {{}} for the label")
    return lines
