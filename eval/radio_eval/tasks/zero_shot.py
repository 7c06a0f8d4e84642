"""Zero-shot classification: images against sentences that name the classes, as open_clip does."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, cast

import torch
from torch import Tensor

from radio_core.extras import require
from radio_core.vision import TextEncoder, VisionModel
from radio_eval.data.classification import ClassificationSet, read_templates
from radio_eval.extraction import SummaryTask
from radio_eval.report.figures import bars_figure, confusion_figure
from radio_eval.report.sections import Section
from radio_eval.results import Json, StoredRows
from radio_eval.runner import Context
from radio_eval.scores.zero_shot import zero_shot_classifier, zero_shot_logits
from radio_eval.tasks.knn import confused_pairs, confusions

_IMAGES_AT_ONCE = 4096
_MOST_CLASSES = 100
"""More classes give no confusion matrix that anybody could read."""
_EXTREMES = 10
"""Classes at either end that are named where there is no confusion matrix."""


@dataclass(frozen=True, kw_only=True)
class ZeroShot(SummaryTask):
    """Zero-shot accuracy (percent) of a model whose images and texts share a space.

    Data: val/CLASS/*.jpg or WebDataset shards *val*.tar, classnames.json {CLASS: name} (open_clip's
    names for ImageNet's own folders without it), templates.json (a list of sentences with "{}",
    OpenAI's 80 without it). Start it with torchrun to share the work; the result is the same.
    """

    templates: tuple[str, ...] = ()
    """Sentences with one "{}" for the class name, all averaged, in place of the data's own."""

    name: ClassVar[str] = "zero_shot"
    title: ClassVar[str] = "Zero-shot classification"
    headline: ClassVar[str] = "top1"
    needs: ClassVar[frozenset[str]] = frozenset({"text"})
    reads: ClassVar[tuple[str, ...]] = ("val",)
    readable: ClassVar[bool] = True

    @cached_property
    def sentences(self) -> tuple[str, ...]:
        """The templates that count.

        Raises:
            ValueError: one has not exactly one "{}".
        """
        found = self.templates or read_templates(self.data) or openai_templates()
        for template in found:
            if template.count("{}") != 1:
                raise ValueError(f"zero-shot template {template!r} must hold exactly one {{}}")
        return found

    def parameters(self) -> Json:
        """With the templates that count."""
        return {**super().parameters(), "templates": list(self.sentences)}

    def run(self, model: VisionModel, context: Context) -> Iterator[tuple[str, float]]:
        """Yield top1 and top5 in percent, the number of images that were used, and their size."""
        towers = cast(TextEncoder, model)
        with torch.no_grad():
            names = self.splits["val"].class_names
            classifier = zero_shot_classifier(towers.encode_text, names, self.sentences).cpu()

        def represent(images: Tensor) -> Tensor:
            return towers.image_text(images, (images.shape[-2], images.shape[-1]))

        with self.summaries(model, represent, "val", "image_text", context) as val:
            best, labels = _predict(val, classifier), val.labels
            context.show(lambda: zero_shot_sections(self.splits["val"], val, best))
        yield "top1", 100.0 * float((best[:, 0] == labels).double().mean())
        yield "top5", 100.0 * float((best == labels[:, None]).any(dim=1).double().mean())
        yield "val_images", float(len(labels))
        yield "image_size", float(context.parameters["images"]["size"])


def _predict(val: StoredRows, classifier: Tensor) -> Tensor:
    """The classes of all images [N, 5] int64, the most likely first; [N, C] for fewer than five."""
    best = []
    for start in range(0, len(val), _IMAGES_AT_ONCE):
        rows = val.rows(start, min(start + _IMAGES_AT_ONCE, len(val)))
        logits = zero_shot_logits(rows, classifier)
        best.append(logits.topk(min(5, logits.shape[1]), dim=1).indices)
    return torch.cat(best)


def openai_templates() -> tuple[str, ...]:
    """The 80 ImageNet templates of OpenAI, as sentences with one "{}"."""
    open_clip = require("open_clip", extra="clip")
    return tuple(template("{}") for template in open_clip.OPENAI_IMAGENET_TEMPLATES)


def zero_shot_sections(data: ClassificationSet, val: StoredRows, best: Tensor) -> list[Section]:
    """The confusion of classes (of very many, their extremes), and the most confused pairs."""
    predicted, names = best[:, 0], data.class_names
    if len(names) <= _MOST_CLASSES:
        overview = Section(
            title="Confusion of classes",
            text="A row for each true class, a column for each predicted one. The stronger a "
            "colour, the larger the share of the row's images: right ones are blue and lie on the "
            "diagonal, wrong ones are red. Wrong ones below 1 % are left out.",
            figures=[confusion_figure(names, confusions(val.labels, predicted))],
        )
    else:
        overview = _class_extremes(names, val.labels, predicted)
    return [overview, confused_pairs(data, names, val, predicted)]


def _class_extremes(names: Sequence[str], labels: Tensor, predicted: Tensor) -> Section:
    """Accuracy of the classes at either end."""
    totals = Counter(labels.tolist())
    right = Counter(labels[labels == predicted].tolist())
    accuracy = {label: 100 * right[label] / total for label, total in totals.items()}
    order = sorted(accuracy, key=lambda label: (accuracy[label], label))
    shown = order if len(order) <= 2 * _EXTREMES else [*order[:_EXTREMES], *order[-_EXTREMES:]]
    return Section(
        title="The hardest and the easiest classes",
        text=f"Accuracy of {len(shown)} of {len(order)} classes, those at either end.",
        figures=[bars_figure([(names[label], accuracy[label]) for label in shown])],
    )
