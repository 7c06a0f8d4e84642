"""The ablations of the AM-RADIO paper: its Tables 3, 4, 5 and 6."""

from dataclasses import replace

from radio_core.distill.config import TrainConfig
from radio_eval.tables.ablation import (
    CLIP,
    DINO,
    RESOLUTION,
    Ablation,
    Change,
    Claim,
    Logged,
    Score,
    Variant,
)

_ZERO_SHOT = Score("zero-shot", "zero_shot")
_KNN = Score("k-NN", "knn")
_SEGMENTATION = Score("segmentation mIoU", "linear_seg")
_THREE = {"zero_shot": _ZERO_SHOT, "knn": _KNN, "linear_seg": _SEGMENTATION}
_COLLAPSED = 90.0  # percent of the weight, where an even share is 50
_HIGH = 144  # pixels; to the training resolution about as the paper's 518 to its 224
_NEGLIGIBLE = 1.0  # percentage points


def _printed(zero_shot: float, knn: float, linear_seg: float) -> dict[str, float]:
    return {"zero_shot": zero_shot, "knn": knn, "linear_seg": linear_seg}


def _features_of(*names: str) -> Change:
    """Supervise the spatial features of these teachers only; summaries stay."""

    def change(config: TrainConfig) -> TrainConfig:
        teachers = {
            name: replace(teacher, feature_weight=float(name in names))
            for name, teacher in config.teachers.items()
        }
        return config.changed(teachers=teachers)

    return change


def _balanced(balancing: str) -> Change:
    return lambda config: config.changed(loss={"balancing": balancing})


def _fixed_grid(config: TrainConfig) -> TrainConfig:
    """One position for each patch of the training resolution, stretched for others."""
    backbone = config.student.backbone
    grid = RESOLUTION // backbone.patch_size
    backbone = backbone.with_fields(positions="grid", grid_size=grid)
    return config.changed(student={"backbone": backbone})


def _average(config: TrainConfig) -> TrainConfig:
    backbone = config.student.backbone.with_fields(summary="avg")
    return config.changed(student={"backbone": backbone})


TABLE3 = Ablation(
    name="table3",
    title="Table 3: which teachers' spatial features are supervised",
    setting=(
        "The paper: ViT-L/14 student, CLIP and DINOv2 teachers (no SAM, as here), LAION-400M; "
        "segmentation is a linear probe on ADE20K.",
        "Its caption says that supervising features is always beneficial; its zero-shot numbers "
        "say otherwise.",
    ),
    metrics=_THREE,
    variants={
        "none": Variant("none", _features_of(), _printed(75.77, 82.59, 41.18)),
        "clip": Variant("CLIP", _features_of(CLIP), _printed(75.64, 82.60, 44.42)),
        "dino": Variant("DINOv2", _features_of(DINO), _printed(74.68, 83.02, 47.05)),
        "both": Variant("both", None, _printed(74.85, 82.96, 48.13)),
    },
    claims=(
        Claim("CLIP's features are better than none", "caption", "linear_seg", "clip", "none"),
        Claim("DINOv2's features are better than none", "caption", "linear_seg", "dino", "none"),
        Claim("both are better than none", "caption", "linear_seg", "both", "none"),
        Claim("DINOv2's are better than CLIP's", "caption", "linear_seg", "dino", "clip"),
        Claim("both are better than CLIP's alone", "caption", "linear_seg", "both", "clip"),
        Claim("both are better than DINOv2's alone", "caption", "linear_seg", "both", "dino"),
        Claim("DINOv2's features are better than none", "numbers", "knn", "dino", "none"),
        Claim("both are better than none", "numbers", "knn", "both", "none"),
        Claim("none is better than both", "numbers", "zero_shot", "none", "both"),
    ),
)

TABLE4 = Ablation(
    name="table4",
    title="Table 4: how the losses are balanced",
    setting=(
        "The paper: ViT-B/14 student, CLIP and DINOv2 teachers; segmentation is a linear probe on "
        "ADE20K. Of AMTML-KD it prints no numbers: it says that the model “would always collapse "
        "its entire weight around the CLIP teacher and would yield worse results than naive "
        "manual balancing” (section 3.4.1).",
        f"Collapse is read as a weight of CLIP above {_COLLAPSED:.0f} %; an even share is 50 %.",
    ),
    metrics={**_THREE, "clip_weight": Logged("weight of CLIP, %", (f"weight/{CLIP}",), 100.0)},
    variants={
        "naive": Variant("naive", None, _printed(70.63, 79.50, 44.71)),
        "uncertainty": Variant(
            "uncertainty", _balanced("uncertainty"), _printed(70.92, 79.37, 44.57)
        ),
        "ada_loss": Variant("AdaLoss", _balanced("ada_loss"), _printed(71.31, 79.77, 44.36)),
        "amtml_kd": Variant("AMTML-KD", _balanced("amtml_kd")),
    },
    claims=(
        *(
            Claim(f"{better} is better than {worse}", "caption", metric, higher, lower)
            for better, worse, metric, higher, lower in (
                ("AdaLoss", "naive", "zero_shot", "ada_loss", "naive"),
                ("AdaLoss", "uncertainty", "zero_shot", "ada_loss", "uncertainty"),
                ("AdaLoss", "naive", "knn", "ada_loss", "naive"),
                ("AdaLoss", "uncertainty", "knn", "ada_loss", "uncertainty"),
                ("naive", "AdaLoss", "linear_seg", "naive", "ada_loss"),
                ("uncertainty", "AdaLoss", "linear_seg", "uncertainty", "ada_loss"),
            )
        ),
        *(Claim("naive is better than AMTML-KD", "text", m, "naive", "amtml_kd") for m in _THREE),
        Claim(
            "AMTML-KD collapses to the CLIP teacher",
            "text",
            "clip_weight",
            "amtml_kd",
            margin=_COLLAPSED,
        ),
    ),
)

TABLE5 = Ablation(
    name="table5",
    title="Table 5: with and without Cropped Position Embedding (CPE)",
    setting=(
        "The paper: ViT-L/14 student that trains at 224 pixels; segmentation is a linear probe on "
        "ADE20K at 518.",
        f"Here it trains at {RESOLUTION} pixels and is evaluated there and at {_HIGH}. Without "
        "CPE, the positions are a learned grid of the training resolution, stretched bilinearly "
        "for the other; dropout of positions is the same in both.",
        f"“A negligible drop” is read as one of less than {_NEGLIGIBLE:g} percentage point.",
    ),
    metrics={
        "knn": _KNN,
        "linear_seg": Score(f"mIoU at {RESOLUTION} px", "linear_seg"),
        "knn_high": Score(f"k-NN at {_HIGH} px", "knn", _HIGH),
        "linear_seg_high": Score(f"mIoU at {_HIGH} px", "linear_seg", _HIGH),
    },
    variants={
        "grid": Variant("without CPE", _fixed_grid, {"knn": 82.96, "linear_seg_high": 47.30}),
        "cpe": Variant("CPE", None, {"knn": 82.84, "linear_seg_high": 48.52}),
    },
    claims=(
        Claim(
            "CPE is better above the training resolution",
            "caption",
            "linear_seg_high",
            "cpe",
            "grid",
        ),
        Claim("CPE costs next to nothing", "text", "knn", "cpe", "grid", -_NEGLIGIBLE),
    ),
)

TABLE6 = Ablation(
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
        **_THREE,
        "summary_loss": Logged("summary loss", (f"{CLIP}/summary", f"{DINO}/summary")),
        "feature_loss": Logged("feature loss", (f"{CLIP}/features", f"{DINO}/features")),
    },
    variants={
        "cls": Variant("class tokens", None, _printed(78.55, 83.91, 49.01)),
        "avg": Variant("average pooling", _average, _printed(80.12, 83.83, 38.36)),
    },
    claims=(
        Claim("pooling is better", "numbers", "zero_shot", "avg", "cls"),
        Claim("class tokens are better", "numbers", "linear_seg", "cls", "avg"),
        Claim("pooling has the lower summary loss", "text", "summary_loss", "cls", "avg"),
        Claim("pooling has the higher feature loss", "text", "feature_loss", "avg", "cls"),
    ),
)

ABLATIONS = {table.name: table for table in (TABLE3, TABLE4, TABLE5, TABLE6)}
"""The tables by name."""
