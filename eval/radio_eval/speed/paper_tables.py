"""Tables 7 and 8 of the paper: which models they have, and its numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from radio_core.bench.cases import SAM_PREFIX, Case, Dtype, Engine, parse_cases
from radio_core.bench.sam import PAPER_IMAGES_PER_SECOND


@dataclass(frozen=True, kw_only=True)
class PaperSpeed:
    """One row of a table.

    Attributes:
        label: the paper's name of the model.
        model: what is measured for it, as `parse_cases` takes it, without the resolution.
        images_per_second: in the paper; None where it has no number.
        quality: column -> percent in the paper.
    """

    label: str
    model: str
    images_per_second: float | None = None
    quality: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class SpeedTable:
    """A table of the paper.

    Attributes:
        title: what it shows.
        setting: how the paper measured.
        reference: label of the row that the others' speeds are divided by.
        resolution: side of the images in pixels.
        batch_size: images a call in the paper.
        rows: its rows.
    """

    title: str
    setting: str
    reference: str
    resolution: int
    batch_size: int
    rows: Sequence[PaperSpeed]

    @property
    def metrics(self) -> tuple[str, ...]:
        """Its columns of quality."""
        return tuple(dict.fromkeys(name for row in self.rows for name in row.quality))

    def case(self, row: PaperSpeed, batch_size: int, engine: Engine, dtype: Dtype) -> Case:
        """What is measured for a row."""
        model, plus, windows = row.model.partition("+")
        text = f"{model}@{self.resolution}{plus}{windows}"
        (case,) = parse_cases([text], (), [batch_size], engines=[engine], dtypes=[dtype])
        return case


def _row(
    label: str, model: str, speed: float | None, zero_shot: float | None, knn: float, ade20k: float
) -> PaperSpeed:
    quality = {"zero-shot": zero_shot, "kNN": knn, "ADE20K mIoU": ade20k}
    return PaperSpeed(
        label=label,
        model=f"random:{model}",
        images_per_second=speed,
        quality={name: value for name, value in quality.items() if value is not None},
    )


# Figure 3: "we study E-RADIO at 224px resolution, with a window size of 7".
_TABLE7 = SpeedTable(
    title="Table 7: backbones",
    setting="A100, TensorRT 9.0.1, mixed FP16/FP32, batch 128, 224 x 224 pixels",
    reference="E-RADIO-L",
    resolution=224,
    batch_size=128,
    rows=(
        _row("DINOv2 G/14", "timm:vit_giant_patch14_dinov2", 313, None, 83.41, 47.53),
        _row("OpenCLIP H/14", "timm:vit_huge_patch14_clip_224", 556, 77.19, 81.10, 40.04),
        _row("EfficientNetV2-S", "timm:tf_efficientnetv2_s", 9017, 65.37, 70.72, 27.75),
        _row("ResNetv2-101", "timm:resnetv2_101", 7283, 69.58, 75.32, 29.61),
        _row("RegNetY-064", "timm:regnety_064", 6573, 69.84, 74.59, 28.9),
        _row("EfficientViT-L1", "timm:efficientvit_l1", 6048, 71.73, 79.90, 33.12),
        _row("ConvNext-B", "timm:convnext_base", 1805, 75.43, 81.73, 38.95),
        _row("NFNet-F3", "timm:dm_nfnet_f3", 1777, 76.93, 80.50, 38.31),
        _row("SwinV2-S", "timm:swinv2_small_window8_256", 1497, 74.70, 81.12, 35.57),
        _row("MaxViT-B", "timm:maxvit_base_tf_224", 1486, 77.49, 79.34, 38.46),
        _row("PoolformerV2-M36", "timm:poolformerv2_m36", 1194, 74.46, 80.49, 35.05),
        _row("MViTV2-B", "timm:mvitv2_base", 975, 75.92, 81.39, 41.39),
        _row("E-RADIO-B", "eradio-b+w7", 6422, 75.19, 82.21, 44.03),
        _row("E-RADIO-B w/o upsample", "eradio-b-coarse+w7", 7040, 75.45, 82.05, 41.26),
        _row("E-RADIO-L", "eradio+w7", 3472, 77.87, 83.73, 45.5),
    ),
)

_TABLE8 = SpeedTable(
    title="Table 8: image encoders of Segment Anything",
    setting="A100, TensorRT, batch 16, 1024 x 1024 pixels",
    reference="SAM ViT-H",
    resolution=1024,
    batch_size=16,
    rows=tuple(
        PaperSpeed(
            label=label,
            model=f"random:{model}",
            images_per_second=PAPER_IMAGES_PER_SECOND.get(model.removeprefix(SAM_PREFIX)),
            quality={} if miou is None else {"COCO mIoU": miou},
        )
        for label, model, miou in (
            ("SAM ViT-B", "sam-b", 75.78),
            ("SAM ViT-L", "sam-l", 77.02),
            ("SAM ViT-H", "sam-h", 77.18),
            ("E-RADIO-L", "sam-with-e-radio-l", 76.31),
            ("RADIO ViT-H/16, windows of 8", "sam-with-radio-h+w8", 76.09),
            ("RADIO ViT-H/16, windows of 16", "sam-with-radio-h+w16", 76.23),
            ("RADIO ViT-H/16, global", "sam-with-radio-h", None),
        )
    ),
)

SPEED_TABLES: dict[str, SpeedTable] = {"7": _TABLE7, "8": _TABLE8}
"""Number -> table."""
