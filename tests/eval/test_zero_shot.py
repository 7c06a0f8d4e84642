"""Zero-shot classification on data where the answer is known."""

from collections.abc import Sequence

import pytest
import torch
from PIL import Image
from torch import Tensor

from radio_eval.contract import run_evaluator
from radio_eval.data import LabelledImages
from radio_eval.eval_model import EvalModel, ImageText
from radio_eval.zero_shot import ZeroShotEvaluator, ZeroShotParameters, openai_templates

NAMES = ("red", "green", "blue")


class Pictures:
    def __len__(self) -> int:
        return 3

    def read(self, index: int) -> Image.Image:
        return Image.new("RGB", (16, 16), tuple(255 * (index == c) for c in range(3)))


def encode_text(texts: Sequence[str]) -> Tensor:
    """Colour words become their axis, with lengths that must not matter."""
    return torch.stack(
        [(1 + len(text)) * torch.tensor([float(name in text) for name in NAMES]) for text in texts]
    )


def test_evaluator() -> None:
    pair = ImageText(encode_image=lambda x: x.mean(dim=(2, 3)), encode_text=encode_text)
    model = EvalModel(name="m", image_size=16, resize_step=8, image_text=pair)
    val = LabelledImages(images=Pictures(), labels=torch.tensor([0, 1, 1]), class_names=NAMES)
    parameters = ZeroShotParameters(templates=("a {} thing", "a photo of something {}"))
    result = run_evaluator(ZeroShotEvaluator(val=val, parameters=parameters), model)
    assert result.value == pytest.approx(200 / 3)
    assert result.metrics["top5"] == 100.0
    assert result.parameters["templates"] == parameters.templates


@pytest.mark.parametrize("templates", [(), ("no place",), ("{} and {}",)])
def test_bad_templates_are_refused(templates: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="template"):
        ZeroShotParameters(templates=templates)


def test_class_names_with_braces_stay_as_they_are() -> None:
    seen: list[str] = []
    pair = ImageText(
        encode_image=lambda x: x.mean(dim=(2, 3)),
        encode_text=lambda texts: seen.extend(texts) or torch.ones(len(texts), 3),
    )
    model = EvalModel(name="m", image_size=16, resize_step=8, image_text=pair)
    val = LabelledImages(
        images=Pictures(), labels=torch.zeros(3, dtype=torch.long), class_names=("{0}", "a{}", "%s")
    )
    parameters = ZeroShotParameters(templates=("x {}",))
    run_evaluator(ZeroShotEvaluator(val=val, parameters=parameters), model)
    assert seen == ["x {0}", "x a{}", "x %s"]


def test_default_templates_are_openais() -> None:
    pytest.importorskip("open_clip", reason="needs the extra 'clip'")
    templates = openai_templates()
    assert len(templates) == 80
    assert templates[0] == "a bad photo of a {}."
