"""Table 6: class tokens against the mean of the patches as the summary."""

import dataclasses

from radio_core.distill.config import TrainConfig
from radio_eval.paper.claims import Claim
from radio_eval.paper.definitions import (
    KNN,
    SEGMENTATION,
    ZERO_SHOT,
    Logged,
    PaperTable,
    Variant,
    unchanged,
)
from radio_eval.paper.recipe import CLIP, DINO


def _average(config: TrainConfig) -> TrainConfig:
    student = config.student
    return dataclasses.replace(config, student=student.with_fields(summary="avg"))


TABLE6 = PaperTable(
    name="table6",
    title="Table 6: class tokens or average pooling for the summary",
    setting=(
        "The paper: identical ViT students; segmentation is a linear probe on ADE20K. It also has "
        "VOC (83.51 with class tokens, 77.04 with pooling) and VQAv2 (77.66 and 78.28), which are "
        "not measured here.",
        "Here the student has a class token for each of its two teachers, and k-NN sees both; "
        "with pooling it sees one mean, of half that width.",
        "Losses are those of training, without any weight, over the last fifth of it.",
    ),
    metrics={
        "zero_shot": ZERO_SHOT,
        "knn": KNN,
        "linear_seg": SEGMENTATION,
        "summary_loss": Logged(title="summary loss", keys=(f"{CLIP}/summary", f"{DINO}/summary")),
        "feature_loss": Logged(title="feature loss", keys=(f"{CLIP}/features", f"{DINO}/features")),
    },
    variants={
        "cls": Variant(
            title="class tokens",
            change=unchanged,
            paper={"zero_shot": 78.55, "knn": 83.91, "linear_seg": 49.01},
        ),
        "avg": Variant(
            title="average pooling",
            change=_average,
            paper={"zero_shot": 80.12, "knn": 83.83, "linear_seg": 38.36},
        ),
    },
    claims=(
        Claim(
            text="pooling is better",
            source="numbers",
            metric="zero_shot",
            higher="avg",
            lower="cls",
        ),
        Claim(
            text="class tokens are better",
            source="numbers",
            metric="linear_seg",
            higher="cls",
            lower="avg",
        ),
        Claim(
            text="pooling has the lower summary loss",
            source="text",
            metric="summary_loss",
            higher="cls",
            lower="avg",
        ),
        Claim(
            text="pooling has the higher feature loss",
            source="text",
            metric="feature_loss",
            higher="avg",
            lower="cls",
        ),
    ),
)
