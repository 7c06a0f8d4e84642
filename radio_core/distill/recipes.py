"""Recipes: functions that return a complete training config."""

from collections.abc import Callable
from dataclasses import replace
from difflib import get_close_matches

from radio_core.distill.config import GroupConfig, StageConfig, TeacherConfig, TrainConfig
from radio_core.models.vit import vit_config

Recipe = Callable[[], TrainConfig]

_TOY_TEACHERS = {
    "clip": TeacherConfig(source="toy-clip"),
    "dino_v2": TeacherConfig(source="toy-dino"),
    "sam": TeacherConfig(source="toy-sam", summary_weight=0.0),
}
_LOW = GroupConfig(teachers=("clip", "dino_v2"), batch_size=32, resolution=64)
_MIDDLE = GroupConfig(teachers=("clip", "dino_v2"), batch_size=24, resolution=96)
_SAM = GroupConfig(
    teachers=("sam",),
    batch_size=16,
    resolution=128,
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


RECIPES: dict[str, Recipe] = {"toy": toy, "toy-full": toy_full}


def get_recipe(name: str) -> TrainConfig:
    """The config of a recipe.

    Raises:
        ValueError: unknown name; the message lists the known ones.
    """
    if name not in RECIPES:
        close = get_close_matches(name, RECIPES, n=1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise ValueError(f"unknown recipe {name!r}{hint}; known: {', '.join(RECIPES)}")
    return RECIPES[name]()
