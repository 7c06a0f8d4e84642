"""A recipe for one GPU."""

from pathlib import Path

from radio_core.distill.config import GroupConfig, StageConfig, TeacherConfig, TrainConfig
from radio_core.models.vit import vit_config

_SIDE = 224


def single_gpu() -> TrainConfig:
    """ViT-B/16 on one GPU: about 50 hours of an A100 at 40 % of its bf16 peak.

    That share is an assumption: `--dry-run` has the operations behind the hours and takes another
    `--mfu` or `--gpu-tflops`, and `radio bench train-step single-gpu` measures.
    """
    group = GroupConfig(
        teachers=("clip", "dino_v2"),
        batch_size=512,
        resolutions=(_SIDE,),
        teacher_sizes={"dino_v2": _SIDE},
    )
    return TrainConfig(
        recipe="single-gpu",
        out=Path("runs/single-gpu"),
        data=("data/images",),  # any folder of images; --data names another place
        student=vit_config("base"),
        teachers={
            "clip": TeacherConfig(source="open_clip:ViT-L-14/datacomp_xl_s13b_b90k"),
            "dino_v2": TeacherConfig(source="dinov2:facebook/dinov2-with-registers-large"),
        },
        stages=(StageConfig(steps=100_000, groups=(group,)),),
        normalization="phi_s",
        lr=1e-3,
        warmup_steps=2000,
        accumulate=4,
        ema=0.9999,
        precision="bf16",
        checkpoint_every=1000,
        log_every=50,
        workers=12,
        student_dtype="float16",
    )
