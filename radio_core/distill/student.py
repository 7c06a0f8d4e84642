"""The student that fits a run: its backbone, and a pair of heads for every teacher."""

from collections.abc import Mapping
from functools import partial

from radio_core.distill.config import TrainConfig
from radio_core.models.adaptors import AdaptorConfig, HeadConfig
from radio_core.models.config import RadioConfig
from radio_core.vision import ModelSpec


def student_config(config: TrainConfig, specs: Mapping[str, ModelSpec]) -> RadioConfig:
    """The student that fits these teachers, with two heads for each (paper 3.2).

    The heads' hidden width is that of the widest teacher. A teacher without a summary (SAM), or
    whose summary has no weight, gets a feature head only. Our ViT has a class token for every
    other teacher; the summary heads of other students all read the mean of the features.

    Raises:
        ValueError: a teacher with nothing to learn from, or shapes that do not fit.
    """
    for name, spec in specs.items():
        if spec.summary_dim is None and config.teachers[name].feature_weight == 0:
            raise ValueError(f"teacher {name} has no summary: its feature_weight must not be 0")
    with_summary = [
        name
        for name, spec in specs.items()
        if spec.summary_dim is not None and config.teachers[name].summary_weight > 0
    ]
    hidden = max(max(spec.feature_dim, spec.summary_dim or 0) for spec in specs.values())
    head = partial(HeadConfig, hidden_dim=hidden)
    preferred = _preferred_resolution(config, with_summary)
    backbone = config.student.with_summary_tokens(len(with_summary))
    # Training chooses windows for every size; the saved model has those of its best one.
    backbone = backbone.fit_windows(preferred, preferred)
    has_tokens = backbone.num_summary_tokens > 1
    adaptors = []
    for name, spec in specs.items():
        summary_dim = spec.summary_dim if name in with_summary else None
        slot = with_summary.index(name) if has_tokens and name in with_summary else 0
        adaptors.append(
            AdaptorConfig(
                name=name,
                features=head(out_dim=spec.feature_dim),
                summary=None if summary_dim is None else head(out_dim=summary_dim),
                token_slot=None if summary_dim is None else slot,
                upsample=config.teachers[name].upsample,
                text_tower=_text_tower(config.teachers[name].source),
            )
        )
    return RadioConfig(
        name=config.recipe,
        backbone=backbone,
        adaptors=tuple(adaptors),
        summary_idxs=tuple(range(backbone.num_summary_tokens)),
        teachers=tuple(teacher.source for teacher in config.teachers.values()),
        max_resolution=backbone.max_resolution,
        preferred_resolution=(preferred, preferred),
        supports_windows=any(g.window_sizes for s in config.stages for g in s.groups),
    )


def _preferred_resolution(config: TrainConfig, with_summary: list[str]) -> int:
    """The largest side at which the last stage teaches summaries, or else any stage anything."""
    sides = [max(group.resolutions) for stage in config.stages for group in stage.groups]
    summaries = [
        max(group.resolutions)
        for group in config.stages[-1].groups
        if any(name in with_summary for name in group.teachers)
    ]
    return max(summaries or sides)


def _text_tower(source: str) -> str | None:
    return source if source == "toy-clip" or source.startswith("open_clip:") else None
