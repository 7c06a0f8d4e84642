"""Table 3: which teachers' spatial features are supervised."""

import dataclasses

from radio_core.distill.config import TrainConfig
from radio_eval.paper.claims import Claim
from radio_eval.paper.definitions import (
    KNN,
    SEGMENTATION,
    ZERO_SHOT,
    Change,
    PaperTable,
    Variant,
    unchanged,
)
from radio_eval.paper.recipe import CLIP, DINO


def _features_of(*names: str) -> Change:
    """Supervise the spatial features of these teachers only; summaries stay."""

    def change(config: TrainConfig) -> TrainConfig:
        teachers = {
            name: dataclasses.replace(teacher, feature_weight=float(name in names))
            for name, teacher in config.teachers.items()
        }
        return dataclasses.replace(config, teachers=teachers)

    return change


TABLE3 = PaperTable(
    name="table3",
    title="Table 3: which teachers' spatial features are supervised",
    setting=(
        "The paper: ViT-L/14 student, CLIP and DINOv2 teachers (no SAM, as here), LAION-400M; "
        "segmentation is a linear probe on ADE20K.",
        "Its caption says that supervising features is always beneficial; its zero-shot numbers "
        "say otherwise.",
    ),
    metrics={"zero_shot": ZERO_SHOT, "knn": KNN, "linear_seg": SEGMENTATION},
    variants={
        "none": Variant(
            title="none",
            change=_features_of(),
            paper={"zero_shot": 75.77, "knn": 82.59, "linear_seg": 41.18},
        ),
        "clip": Variant(
            title="CLIP",
            change=_features_of(CLIP),
            paper={"zero_shot": 75.64, "knn": 82.60, "linear_seg": 44.42},
        ),
        "dino": Variant(
            title="DINOv2",
            change=_features_of(DINO),
            paper={"zero_shot": 74.68, "knn": 83.02, "linear_seg": 47.05},
        ),
        "both": Variant(
            title="both",
            change=unchanged,
            paper={"zero_shot": 74.85, "knn": 82.96, "linear_seg": 48.13},
        ),
    },
    claims=(
        Claim(
            text="CLIP's features are better than none",
            source="caption",
            metric="linear_seg",
            higher="clip",
            lower="none",
        ),
        Claim(
            text="DINOv2's features are better than none",
            source="caption",
            metric="linear_seg",
            higher="dino",
            lower="none",
        ),
        Claim(
            text="both are better than none",
            source="caption",
            metric="linear_seg",
            higher="both",
            lower="none",
        ),
        Claim(
            text="DINOv2's are better than CLIP's",
            source="caption",
            metric="linear_seg",
            higher="dino",
            lower="clip",
        ),
        Claim(
            text="both are better than CLIP's alone",
            source="caption",
            metric="linear_seg",
            higher="both",
            lower="clip",
        ),
        Claim(
            text="both are better than DINOv2's alone",
            source="caption",
            metric="linear_seg",
            higher="both",
            lower="dino",
        ),
        Claim(
            text="DINOv2's features are better than none",
            source="numbers",
            metric="knn",
            higher="dino",
            lower="none",
        ),
        Claim(
            text="both are better than none",
            source="numbers",
            metric="knn",
            higher="both",
            lower="none",
        ),
        Claim(
            text="none is better than both",
            source="numbers",
            metric="zero_shot",
            higher="none",
            lower="both",
        ),
    ),
)
