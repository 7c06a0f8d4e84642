"""Zero-shot classification: images against sentences that name the classes, as open_clip does."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from radio_core.extras import require
from radio_eval.classification.blocks import ClassificationSet
from radio_eval.eval_model import EvalModel, need
from radio_eval.progress import Progress
from radio_eval.summaries.extract import Encoder, Extraction, summaries
from radio_eval.summaries.store import StoredSummaries

_IMAGES_AT_ONCE = 4096

ZeroShotObserver = Callable[[StoredSummaries, Tensor], None]


@dataclass(frozen=True, kw_only=True)
class ZeroShotParameters:
    """Parameters of the zero-shot protocol.

    Attributes:
        templates: sentences with one "{}" for the class name; all are averaged.
        classes_per_batch: classes whose sentences are encoded at once.
    """

    templates: tuple[str, ...]
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
    """Zero-shot accuracy (percent) of a model whose images and texts share a space.

    Attributes:
        val: images that are classified, with the classes' readable names.
        parameters: the protocol.
        extraction: how summaries are computed and kept, and the processes that share the work.
        skipped: "val images" of the last run that could not be read, with the reasons.
        observer: is shown the image summaries and their classes, as `predict` gives them, before
            the summaries are gone; for pictures.
    """

    val: ClassificationSet
    parameters: ZeroShotParameters
    extraction: Extraction = field(default_factory=Extraction)
    skipped: dict[str, dict[str, str]] = field(default_factory=dict, compare=False)
    observer: ZeroShotObserver | None = field(default=None, compare=False)
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
            ).cpu()
        encoder = Encoder(function=pair.encode_image, model=model, output="image_text")
        with summaries(encoder, self.val, self.extraction, progress, "zero-shot images") as val:
            self.skipped["val images"] = val.skipped
            best, labels = self.predict(val, classifier), val.labels
            if self.observer is not None:
                self.observer(val, best)
        yield "top1", 100.0 * float((best[:, 0] == labels).double().mean())
        yield "top5", 100.0 * float((best == labels[:, None]).any(dim=1).double().mean())
        yield "val_images", float(len(labels))
        yield "image_size", float(model.image_size)

    def predict(self, val: StoredSummaries, classifier: Tensor) -> Tensor:
        """The classes of all validation images [N, 5] int64, the most likely first.

        Args:
            val: image summaries.
            classifier: [D, C], as `zero_shot_classifier` gives it. With fewer than five classes,
                there are C columns in the result.
        """
        best = []
        for start in range(0, len(val), _IMAGES_AT_ONCE):
            rows = val.rows(start, min(start + _IMAGES_AT_ONCE, len(val)))
            logits = zero_shot_logits(rows, classifier)
            best.append(logits.topk(min(5, logits.shape[1]), dim=1).indices)
        return torch.cat(best)
