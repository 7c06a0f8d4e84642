"""Recipes that need no cluster: the toy world on a CPU, for every kind of student, and one GPU."""

from dataclasses import replace
from pathlib import Path

from radio_core.distill.config import (
    DataConfig,
    EngineConfig,
    OptimConfig,
    RunConfig,
    StudentConfig,
    TargetsConfig,
    TrainConfig,
)
from radio_core.distill.groups import GroupConfig, StageConfig, TeacherConfig
from radio_core.models.backbone import BackboneConfig
from radio_core.models.eradio import eradio_config
from radio_core.models.timm_student import TimmConfig
from radio_core.models.vit import vit_config

_TOY_TEACHERS = {
    "clip": TeacherConfig(source="toy-clip"),
    "dino_v2": TeacherConfig(source="toy-dino"),
    "sam": TeacherConfig(source="toy-sam", summary_weight=0.0),
}
_LOW = GroupConfig(teachers=("clip", "dino_v2"), batch_size=32, resolutions=(64,))
_MIDDLE = GroupConfig(teachers=("clip", "dino_v2"), batch_size=24, resolutions=(96,))
_SAM = GroupConfig(
    teachers=("sam",),
    batch_size=16,
    resolutions=(128,),
    window_sizes=(8,),
    window_probability=0.5,
)


def toy() -> TrainConfig:
    """A student in a few minutes on two CPU cores, with cached teacher outputs."""
    return TrainConfig(
        recipe="toy",
        run=RunConfig(checkpoint_every=200, log_every=5),
        data=DataConfig(scenes=3000),
        student=StudentConfig(backbone=vit_config("tiny")),
        teachers=dict(_TOY_TEACHERS),
        stages=(
            StageConfig(steps=450, groups=(_LOW,)),
            StageConfig(steps=350, groups=(_MIDDLE, _SAM)),
        ),
        targets=TargetsConfig(cached_views=3000),
        optim=OptimConfig(lr=2e-3, warmup_steps=50),
    )


def toy_full() -> TrainConfig:
    """The bundled student: the same model, on more scenes and for longer."""
    return toy().changed(
        recipe="toy-full",
        run={"checkpoint_every": 250, "log_every": 10},
        data={"scenes": 20000},
        student={"dtype": "float16"},
        stages=(
            StageConfig(steps=2500, groups=(_LOW,)),
            StageConfig(steps=5000, groups=(replace(_MIDDLE, rate=2.0), _SAM)),
        ),
        targets={"cached_views": 20000},
        optim={"warmup_steps": 100},
    )


def toy_eradio() -> TrainConfig:
    """The toy run with the smallest E-RADIO as the student."""
    return with_student(toy(), eradio_config("eradio_xxxtiny")).changed(recipe="toy-e-radio")


def toy_timm(name: str) -> TrainConfig:
    """The toy run with a network of timm as the student."""
    return with_student(toy(), TimmConfig(name=name)).changed(recipe=f"toy-timm:{name}")


def single_gpu() -> TrainConfig:
    """ViT-B/16 on one GPU: about 50 hours of an A100 at 40 % of its bf16 peak.

    That share is an assumption: `--dry-run` has the operations behind the hours and takes another
    `--mfu` or `--gpu-tflops`, and `radio bench train-step single-gpu` measures.
    """
    group = GroupConfig(
        teachers=("clip", "dino_v2"),
        batch_size=512,
        resolutions=(224,),
        teacher_sizes={"dino_v2": 224},
    )
    return TrainConfig(
        recipe="single-gpu",
        run=RunConfig(out=Path("runs/single-gpu"), checkpoint_every=1000, log_every=50),
        # Any folder of images; --data.sources names another place.
        data=DataConfig(sources=("data/images",)),
        student=StudentConfig(backbone=vit_config("base"), dtype="float16"),
        teachers={
            "clip": TeacherConfig(source="open_clip:ViT-L-14/datacomp_xl_s13b_b90k"),
            "dino_v2": TeacherConfig(source="dinov2:facebook/dinov2-with-registers-large"),
        },
        stages=(StageConfig(steps=100_000, groups=(group,)),),
        targets=TargetsConfig(normalization="phi_s"),
        optim=OptimConfig(lr=1e-3, warmup_steps=2000, ema=0.9999),
        engine=EngineConfig(accumulate=4, precision="bf16", workers=12),
    )


def with_student(config: TrainConfig, backbone: BackboneConfig) -> TrainConfig:
    """The same run with another student; windows go where it has no windowed mode."""
    stages = config.stages
    if not backbone.supports_windows:
        stages = tuple(
            replace(
                stage,
                groups=tuple(
                    replace(group, window_sizes=(), window_probability=0.0)
                    for group in stage.groups
                ),
            )
            for stage in stages
        )
    return config.changed(student={"backbone": backbone}, stages=stages)
