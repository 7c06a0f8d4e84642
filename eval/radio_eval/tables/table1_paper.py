"""Table 1 of the AM-RADIO paper (CVPR 2024), as it is printed."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from radio_core.zoo.releases import find_release

SOURCE = "AM-RADIO, CVPR 2024, Table 1"

SETTING = (
    "Zero-shot and k-NN are computed on ImageNet-1K. ADE20K and VOC (PascalVOC2012) are linear "
    "probe semantic segmentation mIoU. GQA, POPE (popular), TextVQA and VQAv2 are obtained via "
    "LLaVA-1.5 by replacing the vision encoder. COCO is the instance segmentation metric "
    "introduced by EfficientViT to evaluate SAM distillation. Zero-shot and COCO use the "
    "teacher's decoder head, which is not fine-tuned. Throughput: NVIDIA A100 GPU, stated "
    "resolution, TensorRT v8601."
)
FOOTNOTES: Mapping[str, str] = {
    "*": "a teacher used to train the final RADIO",
    "†": "DINOv2-g-reg could not be exported to TensorRT; this is DINOv2-g, which should be "
    "fairly close",
    "‡": "the authors were unable to get zero-shot working using the model's code",
}
"""Mark -> what the paper says of it."""

THROUGHPUT = "throughput"
_SCORES = ("zero-shot", "knn", "ade20k", "voc", "gqa", "pope", "textvqa", "vqav2", "coco")


@dataclass(frozen=True, kw_only=True)
class PaperRow:
    """One row of the paper's table.

    Attributes:
        name: as printed.
        aliases: names under which `--models` takes that very model.
        parameters_m: millions of parameters.
        resolution: side of the images in pixels.
        throughput: images a second.
        scores: column -> percent; None where the paper has a dash.
        marks: column (or "throughput", "name") -> a key of `FOOTNOTES`.
        kin: later releases of the same architecture; the paper's row is shown with a remark.
    """

    name: str
    aliases: tuple[str, ...]
    parameters_m: float
    resolution: int
    throughput: float
    scores: Mapping[str, float | None]
    marks: Mapping[str, str] = field(default_factory=dict)
    kin: tuple[str, ...] = ()

    def is_of(self, source: str) -> bool:
        """Whether the row is of the model that `--models` calls `source`, or of its kin."""
        return any(_same(source, name) for name in (*self.aliases, *self.kin))

    def remark(self, source: str) -> str:
        """What sets `source` apart from the paper's model; "" if nothing does."""
        release = find_release(source)
        if release is None or not any(_same(source, name) for name in self.kin):
            return ""
        return (
            f"{source} is the later release {release.name}; the paper's row is {self.name}, whose "
            f"weights are {self.aliases[0]}"
        )


def paper_row(source: str) -> PaperRow | None:
    """The paper's row of a model, or None if it has none."""
    return next((row for row in PAPER_ROWS if row.is_of(source)), None)


def _same(source: str, alias: str) -> bool:
    """Whether two names mean the same model; one that ends in ":" stands for any file."""
    if alias.endswith(":"):
        return source.startswith(alias) and source != alias
    release = find_release(source)
    return source == alias or (release is not None and release == find_release(alias))


def _scores(*values: float | None) -> dict[str, float | None]:
    return dict(zip(_SCORES, values, strict=True))


# fmt: off
PAPER_ROWS: tuple[PaperRow, ...] = (
    PaperRow(
        name="OpenCLIP-H/14",
        aliases=(
            "open_clip:ViT-H-14/laion2b_s32b_b79k",
            "open_clip:hf-hub:laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
        ),
        parameters_m=632, resolution=224, throughput=503,
        scores=_scores(77.19, 81.10, 40.04, 68.03, 57.94, 83.61, 50.48, 72.24, None),
    ),
    PaperRow(
        name="MetaCLIP-H/14",
        aliases=(
            "open_clip:ViT-H-14-quickgelu/metaclip_fullcc",
            "open_clip:ViT-H-14/metaclip_fullcc",
        ),
        parameters_m=632, resolution=224, throughput=486,
        scores=_scores(80.51, 82.12, 35.39, 62.62, 60.57, 84.76, 53.65, 75.71, None),
    ),
    PaperRow(
        name="SigLIP-M/14",
        aliases=(
            "open_clip:ViT-SO400M-14-SigLIP-384/webli",
            "open_clip:hf-hub:timm/ViT-SO400M-14-SigLIP-384",
            "timm:vit_so400m_patch14_siglip_384.webli",
        ),
        parameters_m=428, resolution=384, throughput=241,
        scores=_scores(82.61, 85.16, 40.53, 70.31, 57.70, 84.85, 56.65, 71.94, None),
    ),
    PaperRow(
        name="Intern-ViT-6B (224)",
        aliases=("hf:OpenGVLab/InternViT-6B-224px",),
        parameters_m=5902, resolution=224, throughput=63,
        scores=_scores(83.20, 78.43, 47.20, 76.85, 60.18, 84.02, 52.45, 76.75, None),
        marks={"zero-shot": "‡"},
    ),
    PaperRow(
        name="Intern-ViT-6B (448)",
        aliases=("hf:OpenGVLab/InternViT-6B-448px-V1-2",),
        parameters_m=5537, resolution=448, throughput=14,
        scores=_scores(None, 68.64, 42.78, 74.43, 61.19, 87.23, 60.36, 78.83, None),
        marks={"zero-shot": "‡"},
    ),
    PaperRow(
        name="DFN CLIP-H/14",
        aliases=(
            "open_clip:ViT-H-14-378-quickgelu/dfn5b",
            "open_clip:ViT-H-14-378/dfn5b",
            "open_clip:hf-hub:apple/DFN5B-CLIP-ViT-H-14-378",
        ),
        parameters_m=633, resolution=378, throughput=170,
        scores=_scores(83.90, 85.27, 39.00, 70.29, 61.73, 85.91, 56.78, 78.78, None),
        marks={"name": "*"},
    ),
    PaperRow(
        name="OpenAI CLIP-L/14",
        aliases=(
            "open_clip:ViT-L-14-336/openai",
            "open_clip:ViT-L-14-336-quickgelu/openai",
            "hf:openai/clip-vit-large-patch14-336",
        ),
        parameters_m=305, resolution=336, throughput=414,
        scores=_scores(75.54, 79.80, 36.51, 67.04, 62.20, 86.09, 57.92, 78.49, None),
        marks={"name": "*"},
    ),
    PaperRow(
        name="DINOv2-g/14-reg",
        aliases=(
            "dinov2:facebook/dinov2-with-registers-giant",
            "dinov2:vit_giant_patch14_reg4_dinov2.lvd142m",
            "hf:facebook/dinov2-with-registers-giant",
            "timm:vit_giant_patch14_reg4_dinov2.lvd142m",
        ),
        parameters_m=1137, resolution=224, throughput=294,
        scores=_scores(None, 83.41, 48.68, 82.78, 61.88, 85.62, 47.18, 76.23, None),
        marks={"name": "*", THROUGHPUT: "†"},
    ),
    PaperRow(
        name="SAM-H/16",
        aliases=("sam:vit_h:", "hf:facebook/sam-vit-huge"),
        parameters_m=637, resolution=1024, throughput=12,
        scores=_scores(None, 22.12, 28.08, 34.34, 49.92, 81.76, 43.91, 57.65, 77.18),
        marks={"name": "*"},
    ),
    PaperRow(
        name="E-RADIO-L",
        aliases=("e-radio_v2",),
        parameters_m=391, resolution=512, throughput=468,
        scores=_scores(80.73, 83.89, 48.22, 81.64, 61.70, 85.07, 51.47, 76.73, 76.31),
    ),
    PaperRow(
        name="RADIO-ViT-H/16",
        aliases=("radio_v2.1", "radio_v2.1-h", "radio_v2"),
        parameters_m=653, resolution=432, throughput=158,
        scores=_scores(82.93, 86.06, 51.34, 84.71, 63.01, 86.20, 56.32, 79.28, 76.23),
        kin=("radio_v2.5-h",),
    ),
)
# fmt: on
"""The rows, top to bottom."""
