"""Sections of the report on the linear probe."""

import numpy as np

from radio_core.data.images import printable
from radio_eval.data import IGNORED
from radio_eval.linear_seg.evaluator import LinearSegEvaluator
from radio_eval.linear_seg.pictures import palette
from radio_eval.report.figures import bars_figure
from radio_eval.report.sections import Card, Picture, Section

IMAGES = 6
"""Val images that are shown."""


def shown_images(count: int) -> frozenset[int]:
    """Which of `count` images are shown: the first one and others at equal distances."""
    return frozenset(place * count // IMAGES for place in range(IMAGES)) if count else frozenset()


def linear_seg_sections(evaluator: LinearSegEvaluator) -> list[Section]:
    """Images with their labels and predictions, and the IoU of every class.

    Args:
        evaluator: after its call, with `shown` images.
    """
    colours, names = palette(), evaluator.val.class_names
    paths = evaluator.val.images.paths
    cards, seen = [], np.zeros(256, bool)
    for each in evaluator.comparisons:
        counted = each.label != IGNORED
        share = (each.prediction == each.label)[counted].mean() if counted.any() else None
        words = (
            "no labelled pixels" if share is None else f"{100 * share:.0f} % of the pixels right"
        )
        seen[each.label.ravel()] = seen[each.prediction.ravel()] = True
        cards.append(
            Card(
                title=f"{printable(paths[each.index].name)} · {words}",
                pictures=[
                    Picture(each.image, "image as the model saw it"),
                    Picture(colours[each.label], "labels"),
                    Picture(colours[each.prediction], "prediction"),
                ],
            )
        )
    css = ["#" + "".join(f"{level:02x}" for level in colour) for colour in colours.tolist()]
    all_names = {**dict(enumerate(names)), IGNORED: "ignored"}
    ranked = sorted(
        enumerate(evaluator.class_iou.items()),
        key=lambda item: -1.0 if item[1][1] is None else item[1][1],
        reverse=True,
    )
    return [
        Section(
            title="Labels and predictions",
            text=f"{len(cards)} of {len(evaluator.val)} validation images, at equal distances in "
            "the order of their names.",
            legend=[(all_names[number], css[number]) for number in np.flatnonzero(seen).tolist()],
            cards=cards,
        ),
        Section(
            title="IoU of every class",
            text="In percent, best first, in the colours of the pictures. A dash: the class is "
            "neither in the labels nor predicted.",
            figures=[
                bars_figure([found for _, found in ranked], [css[number] for number, _ in ranked])
            ],
        ),
    ]
