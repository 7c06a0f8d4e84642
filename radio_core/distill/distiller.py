"""Student, targets and losses of one step: the mathematics of the distillation."""

import copy
from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, nn

from radio_core.distill.config import TrainConfig
from radio_core.distill.losses import cosine_distance, feature_loss
from radio_core.distill.normalization import FeatureStatistics, Standardizer
from radio_core.models.adaptors import AdaptorConfig
from radio_core.models.config import RadioConfig
from radio_core.models.heads import HeadConfig
from radio_core.models.radio import RadioModel
from radio_core.models.spectral import apply_spectral
from radio_core.teachers import Teacher, TeacherOutput, TeacherSpec


def student_config(config: TrainConfig, specs: Mapping[str, TeacherSpec]) -> RadioConfig:
    """The student that fits these teachers: a class token and two heads each (paper 3.2).

    The heads' hidden width is that of the widest teacher. A teacher without a summary (SAM), or
    whose summary has no weight, gets a feature head only and no class token.

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
    adaptors = []
    for name, spec in specs.items():
        summary_dim = spec.summary_dim if name in with_summary else None
        head = partial(HeadConfig, hidden_dim=hidden)
        adaptors.append(
            AdaptorConfig(
                name=name,
                features=head(out_dim=spec.feature_dim),
                summary=None if summary_dim is None else head(out_dim=summary_dim),
                token_slot=None if summary_dim is None else with_summary.index(name),
                upsample=config.teachers[name].upsample,
                text_tower=_text_tower(config.teachers[name].source),
            )
        )
    tokens = max(len(with_summary), 1)
    backbone = {**vars(config.student), "num_cls_tokens": tokens}
    student = type(config.student)(**backbone)
    resolutions = [group.resolution for stage in config.stages for group in stage.groups]
    summaries = [
        group.resolution
        for group in config.stages[-1].groups
        if any(name in with_summary for name in group.teachers)
    ]
    preferred = max(summaries or resolutions)
    return RadioConfig(
        name=config.recipe,
        backbone=student,
        adaptors=tuple(adaptors),
        summary_idxs=tuple(range(student.num_summary_tokens)),
        teachers=tuple(teacher.source for teacher in config.teachers.values()),
        max_resolution=student.grid_size * student.patch_size,
        preferred_resolution=(preferred, preferred),
        supports_windows=any(g.window_sizes for s in config.stages for g in s.groups),
    )


def _text_tower(source: str) -> str | None:
    return source if source == "toy-clip" or source.startswith("open_clip:") else None


class Distiller(nn.Module):
    """The student and the standardisation of its targets; what a checkpoint holds.

    Args:
        config: the run.
        specs: adaptor name -> what is known of its teacher.
    """

    def __init__(self, config: TrainConfig, specs: Mapping[str, TeacherSpec]) -> None:
        super().__init__()
        self.config = config
        self.student = RadioModel(student_config(config, specs))
        if config.spectral:
            apply_spectral(self.student.backbone)
        self.standardizers = nn.ModuleDict(
            {name: Standardizer(spec.feature_dim) for name, spec in specs.items()}
        )

    def losses(
        self, images: Tensor, targets: Mapping[str, TeacherOutput], window_size: int | None
    ) -> dict[str, Tensor]:
        """Unweighted losses of one batch, as "<teacher>/summary" and "<teacher>/features".

        Args:
            images: [B, 3, H, W] in [0, 1] at the student's resolution.
            targets: the group's teachers and their outputs on the same crops.
            window_size: attention windows in patches; None for global attention.
        """
        outputs = self.student(images, "NCHW", tuple(targets), window_size or 0)
        losses = {}
        for name, target in targets.items():
            output, weights = outputs[name], self.config.teachers[name]
            if output.summary is not None and target.summary is not None:
                losses[f"{name}/summary"] = cosine_distance(output.summary, target.summary)
            if weights.feature_weight > 0:
                losses[f"{name}/features"] = feature_loss(
                    output.features,
                    self.standardizers[name](target.features),
                    self.config.alpha,
                    self.config.beta,
                )
        return losses

    def teacher_totals(self, losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Each teacher's weighted loss; naive balancing adds them up (paper 3.4.1)."""
        totals: dict[str, Tensor] = {}
        for key, loss in losses.items():
            name, _, part = key.partition("/")
            weights = self.config.teachers[name]
            factor = weights.summary_weight if part == "summary" else weights.feature_weight
            totals[name] = totals.get(name, loss.new_zeros(())) + factor * loss
        return totals

    def fit_standardizers(self, statistics: Mapping[str, FeatureStatistics]) -> None:
        """Take over measured statistics of the teachers' features."""
        for name, measured in statistics.items():
            self.standardizers[name].fit(measured)  # type: ignore[operator]

    def export_student(self) -> RadioModel:
        """A copy of the student whose heads speak in the teachers' own feature space."""
        student = copy.deepcopy(self.student)
        for name, standardizer in self.standardizers.items():
            standardizer.fold_into(student.adaptors[name])  # type: ignore[operator]
        return student.eval()


@torch.no_grad()
def run_teachers(
    teachers: Mapping[str, Teacher], names: tuple[str, ...], images: Tensor
) -> dict[str, TeacherOutput]:
    """Outputs of the named teachers on images [B, 3, S, S] in [0, 1]."""
    return {name: teachers[name](images) for name in names}
