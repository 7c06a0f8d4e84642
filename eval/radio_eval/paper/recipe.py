"""The short toy recipe that all variants are made from."""

import dataclasses
from pathlib import Path

from radio_core.distill.config import GroupConfig, StageConfig, TrainConfig
from radio_core.distill.recipes import get_recipe
from radio_core.models.vit import vit_config

CLIP, DINO = "clip", "dino_v2"
RESOLUTION = 64
"""Side in pixels of the student's input in training."""

_BATCH, _LONGEST_WARMUP = 32, 50


def short_recipe(out: Path, *, steps: int, views: int, seed: int, device: str) -> TrainConfig:
    """The toy recipe made short: CLIP and DINOv2, one resolution, and a student of half the cost.

    Variants may change losses and student, but neither data nor teachers nor sizes, so that all of
    one seed read one cache of teacher outputs.

    Args:
        out: where runs and caches live; `TrainConfig.out` is for the caller to set.
        steps: optimizer steps.
        views: scenes, each with one crop.
        seed: of everything.
        device: as in `TrainConfig`.
    """
    toy = get_recipe("toy")
    group = GroupConfig(teachers=(CLIP, DINO), batch_size=_BATCH, resolutions=(RESOLUTION,))
    return dataclasses.replace(
        toy,
        out=out,
        student=vit_config("tiny", embed_dim=96, depth=4),
        teachers={name: toy.teachers[name] for name in (CLIP, DINO)},
        stages=(StageConfig(steps=steps, groups=(group,)),),
        scenes=views,
        cached_views=views,
        cache_dir=out / "cache",
        warmup_steps=min(_LONGEST_WARMUP, steps // 8),
        seed=seed,
        checkpoint_every=max(1, steps // 4),
        keep_checkpoints=1,
        device=device,
    )
