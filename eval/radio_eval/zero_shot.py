"""Zero-shot classification: images against sentences that name the classes, as open_clip does."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from radio_core.extras import require
from radio_eval.data import LabelledImages, collect
from radio_eval.eval_model import EvalModel, need
from radio_eval.progress import Progress


@dataclass(frozen=True, kw_only=True)
class ZeroShotParameters:
    """Parameters of the zero-shot protocol.

    Attributes:
        templates: sentences with one "{}" for the class name; all are averaged.
        batch_size: images a forward pass.
        classes_per_batch: classes whose sentences are encoded at once.
    """

    templates: tuple[str, ...]
    batch_size: int = 16
    classes_per_batch: int = 10

    def __post_init__(self) -> None:
        if not self.templates:
            raise ValueError("zero-shot needs at least one template")
        for template in self.templates:
            if template.count("{}") != 1:
                raise ValueError(f"zero-shot template {template!r} must hold exactly one {{}}")


def openai_templates() -> tuple[str, ...]:
    """The 80 ImageNet templates of OpenAI, as sentences with one "{}"."""
    open_clip = require("open_clip", extra="clip")
    return tuple(template("{}") for template in open_clip.OPENAI_IMAGENET_TEMPLATES)


def zero_shot_classifier(
    encode_text: Callable[[Sequence[str]], Tensor],
    class_names: Sequence[str],
    templates: Sequence[str],
    classes_per_batch: int = 10,
) -> Tensor:
    """Class weights: normalise every sentence, average over templates, normalise again.

    Args:
        encode_text: sentences -> [T, D] float, not necessarily normalised; it is called with
            class-major lists (all templates of the first class, then of the second, ...).
        class_names: C names.
        templates: sentences with one "{}".
        classes_per_batch: classes whose sentences are encoded at once.

    Returns:
        [D, C] float32 with unit columns.
    """
    columns = []
    for start in range(0, len(class_names), classes_per_batch):
        names = class_names[start : start + classes_per_batch]
        texts = [template.replace("{}", name) for name in names for template in templates]
        embeddings = F.normalize(encode_text(texts).float(), dim=1)
        means = embeddings.view(len(names), len(templates), -1).mean(dim=1)
        columns.append(F.normalize(means, dim=1))
    return torch.cat(columns).T


def zero_shot_logits(image_summaries: Tensor, classifier: Tensor) -> Tensor:
    """Cosine similarity of images [B, D] with classes [D, C] -> [B, C] in [-1, 1]."""
    return F.normalize(image_summaries.float(), dim=1) @ classifier


@dataclass(frozen=True, kw_only=True)
class ZeroShotEvaluator:
    """Zero-shot accuracy (percent) of a model whose images and texts share a space."""

    val: LabelledImages
    parameters: ZeroShotParameters
    task: ClassVar[str] = "zero_shot"
    headline: ClassVar[str] = "top1"
    capability: ClassVar[str] = "image_text"

    def __call__(self, model: EvalModel, progress: Progress) -> Iterator[tuple[str, float]]:
        """Yield top1 and top5 in percent, and the number of images that were used."""
        pair = need(model.image_text, model, "text tower", self.task)
        with torch.no_grad():
            classifier = zero_shot_classifier(
                pair.encode_text,
                self.val.class_names,
                self.parameters.templates,
                self.parameters.classes_per_batch,
            )
        size = self.parameters.batch_size
        val = collect(pair.encode_image, model, self.val.images, size, progress, "zero-shot images")
        labels = self.val.labels[val.indices]
        logits = zero_shot_logits(val.stack(), classifier)
        best = logits.topk(min(5, logits.shape[1]), dim=1).indices
        yield "top1", 100.0 * float((best[:, 0] == labels).double().mean())
        yield "top5", 100.0 * float((best == labels[:, None]).any(dim=1).double().mean())
        yield "val_images", float(len(val.indices))
        yield "image_size", float(model.image_size)
