"""Student, targets and losses of one step: the mathematics of the distillation."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn

from radio_core.distill.balancing import BALANCERS, teacher_of
from radio_core.distill.config import TrainConfig
from radio_core.distill.group_config import Normalization
from radio_core.distill.losses import distance, feature_loss
from radio_core.distill.normalization import (
    FeatureStatistics,
    Normalizer,
    Standardizer,
    normalizations,
    output_width,
)
from radio_core.distill.phi_s import PhiS
from radio_core.distill.student import student_config
from radio_core.models.adaptors import Adaptor
from radio_core.models.radio import RadioModel
from radio_core.models.spectral import apply_spectral, folded_state_dict
from radio_core.vision import ModelSpec, Output


@dataclass(frozen=True)
class StepLosses:
    """The losses of one batch; all tensors are scalars.

    Attributes:
        total: what is differentiated, the sum of `teachers`.
        teachers: adaptor name -> its share of the total.
        terms: "<teacher>/summary" or "<teacher>/features" -> mean loss without any weight.
        weights: term, or teacher, -> weight that the balancing gave it; empty if naive.
    """

    total: Tensor
    teachers: dict[str, Tensor]
    terms: dict[str, Tensor]
    weights: dict[str, Tensor]

    def numbers(self) -> dict[str, float]:
        """For metrics: "loss", then by teacher, by term, and weights as "weight/<key>"."""
        named = {"loss": self.total, **self.teachers, **self.terms}
        named |= {f"weight/{key}": weight for key, weight in self.weights.items()}
        values = torch.stack([value.detach() for value in named.values()]).tolist()  # one transfer
        return dict(zip(named, values, strict=True))


class Distiller(nn.Module):
    """The student, the normalisation of its targets and the balancing; what a checkpoint holds.

    Args:
        config: the run.
        specs: adaptor name -> what is known of its teacher.

    Raises:
        ValueError: a teacher with nothing to learn from, or shapes that do not fit.
    """

    def __init__(self, config: TrainConfig, specs: Mapping[str, ModelSpec]) -> None:
        super().__init__()
        self.config = config
        self.student = RadioModel(student_config(config, specs))
        if config.spectral:
            apply_spectral(self.student.backbone)
        self.standardizers = nn.ModuleDict()  # keyed as terms
        for output, kind in normalizations(config, specs).items():
            self.standardizers[output] = _build_normalizer(kind, output_width(output, specs))
        balancer = BALANCERS[config.balancing]
        self.balancer = balancer(self._terms(), self.student.embed_dim)

    def forward(
        self, images: Tensor, targets: Mapping[str, Output], window_size: int | None
    ) -> StepLosses:
        """The losses of one batch.

        Args:
            images: [B, 3, H, W] in [0, 1] at the student's resolution.
            targets: the group's teachers, or some of them, and their outputs on the same crops.
            window_size: attention windows in patches; None for global attention.
        """
        self.student.backbone.fit_windows(*images.shape[-2:])
        outputs = self.student(images, "NCHW", tuple(targets), window_size or 0)
        losses: dict[str, Tensor] = {}
        for name, target in targets.items():
            losses |= self._teacher_losses(name, outputs[name], target)
        representation = outputs["backbone"].features.mean(dim=(2, 3))
        balanced = self.balancer(losses, representation)
        teachers: dict[str, Tensor] = {}
        for term, loss in balanced.terms.items():
            share = self._factor(term) * loss
            name = teacher_of(term)
            teachers[name] = teachers[name] + share if name in teachers else share
        return StepLosses(
            total=torch.stack(list(teachers.values())).sum(),
            teachers=teachers,
            terms={term: loss.detach().mean() for term, loss in losses.items()},
            weights=balanced.weights,
        )

    def fit_standardizers(self, statistics: Mapping[str, FeatureStatistics]) -> list[str]:
        """Take over measured statistics of the teachers' outputs; all processes do so together.

        Args:
            statistics: as `OutputStatistics.by_output`.

        Returns:
            What the user should know of the result, a line each.
        """
        notes = []
        for output, measured in statistics.items():
            note = self._normalizer(output).fit(measured)
            notes += [] if note is None else [f"{output}: {note}"]
        if distributed.is_available() and distributed.is_initialized():
            # Other processors may find other eigenvectors; all must rotate alike.
            for buffer in self.standardizers.buffers():
                distributed.broadcast(buffer, 0)
        return notes

    def export_student(self) -> RadioModel:
        """A copy of the student whose heads speak in the teachers' own numbers."""
        # A fresh model: a deep copy would share the classes of its spectral layers.
        state = {name: value.clone() for name, value in folded_state_dict(self.student).items()}
        student = RadioModel.from_state(self.student.config, state, "the trained student")
        student.to(next(self.student.parameters()).device)
        for name, adaptor in student.adaptors.items():
            assert isinstance(adaptor, Adaptor)
            self._normalizer(f"{name}/features").fold_into(adaptor.feature_head.output)
            if adaptor.summary_head is not None:
                self._normalizer(f"{name}/summary").fold_into(adaptor.summary_head.output)
        return student

    def _teacher_losses(self, name: str, output: Output, target: Output) -> dict[str, Tensor]:
        """Unweighted losses of one teacher: scalars, or [B] where the balancer wants samples."""
        config, per_sample = self.config.teachers[name], self.balancer.per_sample
        losses = {}
        if output.summary is not None and target.summary is not None:
            wanted = self._normalizer(f"{name}/summary")(target.summary)
            losses[f"{name}/summary"] = distance(
                config.summary_loss, output.summary, wanted, per_sample=per_sample
            )
        if config.feature_weight > 0:
            losses[f"{name}/features"] = feature_loss(
                output.features,
                self._normalizer(f"{name}/features")(target.features),
                self.config.alpha,
                self.config.beta,
                config.feature_loss,
                per_sample,
            )
        return losses

    def _normalizer(self, output: str) -> Normalizer:
        found = self.standardizers[output]
        assert isinstance(found, Normalizer)
        return found

    def _terms(self) -> list[str]:
        """Every term that any batch of the run can have."""
        terms = []
        for name, adaptor in self.student.adaptors.items():
            terms += [f"{name}/summary"] if adaptor.summary_head is not None else []
            terms += [f"{name}/features"] if self.config.teachers[name].feature_weight > 0 else []
        return terms

    def _factor(self, term: str) -> float:
        """The fixed weight of a term."""
        weights = self.config.teachers[teacher_of(term)]
        return weights.summary_weight if term.endswith("/summary") else weights.feature_weight


def _build_normalizer(kind: Normalization, channels: int) -> Normalizer:
    if kind == "phi_s":
        return PhiS(channels)
    return Standardizer(channels, shared_scale=kind == "global")
