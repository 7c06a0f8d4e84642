"""The student that fits a run: its backbone, and a pair of heads for every teacher."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from radio_core.distill.config import TrainConfig
from radio_core.models.adaptors import AdaptorConfig
from radio_core.models.config import BackboneConfig, RadioConfig
from radio_core.models.eradio import ERadio, ERadioConfig
from radio_core.models.heads import HeadConfig
from radio_core.models.radio import RadioModel
from radio_core.models.vit import ViTConfig
from radio_core.vision import ModelSpec

_MAX_WINDOW = 16  # cells; of the released E-RADIO


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
    has_tokens = isinstance(config.student, ViTConfig)
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
    preferred = _preferred_resolution(config, with_summary)
    backbone = _backbone(config.student, len(with_summary), preferred)
    vit = backbone if isinstance(backbone, ViTConfig) else None
    return RadioConfig(
        name=config.recipe,
        backbone=backbone,
        adaptors=tuple(adaptors),
        summary_idxs=tuple(range(backbone.num_summary_tokens)),
        teachers=tuple(teacher.source for teacher in config.teachers.values()),
        max_resolution=None if vit is None else vit.grid_size * vit.patch_size,
        preferred_resolution=(preferred, preferred),
        supports_windows=any(g.window_sizes for s in config.stages for g in s.groups),
    )


def fit_windows(model: RadioModel, height: int, width: int) -> None:
    """Give an E-RADIO the windows that tile images of this size in pixels; others stay as is."""
    if isinstance(model.backbone, ERadio):
        model.backbone.change_window_size(_window(model.backbone.config, min(height, width)))


def _window(student: ERadioConfig, side: int) -> int:
    """The largest window in cells that tiles an image side; the configured one where none does."""
    cells = side // student.resolution_step
    tiling = [window for window in range(2, _MAX_WINDOW + 1) if cells % window == 0]
    return max(tiling, default=student.window_sizes[-1])


def _backbone(student: BackboneConfig, summaries: int, preferred: int) -> BackboneConfig:
    """The configured backbone with what follows from teachers and resolutions."""
    if isinstance(student, ViTConfig):
        return replace(student, num_cls_tokens=max(summaries, 1))
    if isinstance(student, ERadioConfig):
        # Training chooses windows for every size; the saved model has those of its best one.
        window = _window(student, preferred)
        return replace(student, window_sizes=(window, window))
    return student


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
