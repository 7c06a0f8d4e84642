"""Recipes for the toy world, which run on a CPU: one for every kind of student."""

from dataclasses import replace

from radio_core.distill.config import GroupConfig, StageConfig, TeacherConfig, TrainConfig
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
        student=vit_config("tiny"),
        teachers=dict(_TOY_TEACHERS),
        stages=(
            StageConfig(steps=450, groups=(_LOW,)),
            StageConfig(steps=350, groups=(_MIDDLE, _SAM)),
        ),
        scenes=3000,
        cached_views=3000,
        warmup_steps=50,
        lr=2e-3,
        checkpoint_every=200,
        log_every=5,
    )


def toy_full() -> TrainConfig:
    """The bundled student: the same model, on more scenes and for longer."""
    return TrainConfig(
        recipe="toy-full",
        student=vit_config("tiny"),
        teachers=dict(_TOY_TEACHERS),
        stages=(
            StageConfig(steps=2500, groups=(_LOW,)),
            StageConfig(steps=5000, groups=(replace(_MIDDLE, rate=2.0), _SAM)),
        ),
        scenes=20000,
        cached_views=20000,
        warmup_steps=100,
        lr=2e-3,
        checkpoint_every=250,
        student_dtype="float16",
    )


def toy_eradio() -> TrainConfig:
    """The toy run with the smallest E-RADIO as the student."""
    student = eradio_config("eradio_xxxtiny")
    return replace(toy(), recipe="toy-e-radio", student=student, stages=_without_windows())


def toy_timm(name: str) -> TrainConfig:
    """The toy run with a network of timm as the student."""
    return replace(
        toy(), recipe=f"toy-timm:{name}", student=TimmConfig(name=name), stages=_without_windows()
    )


def _without_windows() -> tuple[StageConfig, ...]:
    """The stages of `toy` for students that have no windowed mode."""
    first, second = toy().stages
    sam = replace(_SAM, window_sizes=(), window_probability=0.0)
    return first, replace(second, groups=(_MIDDLE, sam))
