"""Sections of the report on the linear probe."""

from collections.abc import Mapping, Sequence

import numpy as np

from radio_core.data.images import printable
from radio_eval.data import IGNORED
from radio_eval.linear_seg.evaluator import LinearSegEvaluator
from radio_eval.linear_seg.pictures import Comparison, palette
from radio_eval.report.html import Gallery, PictureRow
from radio_eval.report.sections import Bar, Bars, Section

IMAGES = 6
"""Val images that are shown."""
_IGNORED_NAME = "ignored"


def shown_images(count: int) -> frozenset[int]:
    """Which of `count` images are shown: the first one and others at equal distances."""
    return frozenset(place * count // IMAGES for place in range(IMAGES)) if count else frozenset()


def linear_seg_sections(evaluator: LinearSegEvaluator) -> list[Section]:
    """Images with their labels and predictions, and the IoU of every class.

    Args:
        evaluator: after its call, with `shown` images.
    """
    return [_comparison_gallery(evaluator), _class_bars(evaluator.class_iou)]


def _comparison_gallery(evaluator: LinearSegEvaluator) -> Gallery:
    colours, found = palette(), evaluator.comparisons
    paths = evaluator.val.images.paths
    return Gallery(
        title="Labels and predictions",
        text=f"{len(found)} of {len(evaluator.val)} validation images, at equal distances in the "
        "order of their names.",
        headings=("image as the model saw it", "labels", "prediction"),
        rows=tuple(
            PictureRow(
                label=f"{printable(paths[each.index].name)} · {_right(each)}",
                pictures=(each.image, colours[each.label], colours[each.prediction]),
            )
            for each in found
        ),
        legend=_legend(found, evaluator.val.class_names),
    )


def _right(comparison: Comparison) -> str:
    """How many pixels are right, in words."""
    counted = comparison.label != IGNORED
    if not counted.any():
        return "no labelled pixels"
    share = (comparison.prediction == comparison.label)[counted].mean()
    return f"{100 * share:.0f} % of the pixels right"


def _legend(
    comparisons: Sequence[Comparison], class_names: Sequence[str]
) -> tuple[tuple[str, str], ...]:
    """Names and colours of the classes that occur."""
    maps = [m.ravel() for each in comparisons for m in (each.label, each.prediction)]
    seen = np.unique(np.concatenate(maps)).tolist() if maps else []
    names = {**dict(enumerate(class_names)), IGNORED: _IGNORED_NAME}
    return tuple((names[number], _css(number)) for number in seen)


def _class_bars(class_iou: Mapping[str, float | None]) -> Bars:
    bars = [
        Bar(name=name, value=value, colour=_css(number))
        for number, (name, value) in enumerate(class_iou.items())
    ]
    bars.sort(key=lambda bar: -1.0 if bar.value is None else bar.value, reverse=True)
    return Bars(
        title="IoU of every class",
        text="In percent, best first; the patches are the colours of the pictures. A dash: the "
        "class is neither in the labels nor predicted.",
        bars=tuple(bars),
    )


def _css(number: int) -> str:
    """The colour of a class as "#rrggbb"."""
    return "#" + "".join(f"{level:02x}" for level in palette()[number].tolist())
