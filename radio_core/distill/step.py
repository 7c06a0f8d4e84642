"""One optimizer step, from top to bottom: targets, losses, gradients, update."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from radio_core.distill.config import BALANCERS, LOSSES, TrainConfig
from radio_core.distill.engine import (
    Gradients,
    RunningStatistics,
    WeightAverage,
    autocast,
    whole,
)
from radio_core.distill.losses import compare
from radio_core.distill.normalization import (
    FeatureStatistics,
    Normalizer,
    build_normalizer,
    normalizations,
    output_width,
)
from radio_core.distill.schedule import BatchPlan, StepShape, step_shape
from radio_core.distill.student import student_config
from radio_core.distill.targets import Targets
from radio_core.distill.views import Batch, to_unit
from radio_core.models.position import part_of_batch
from radio_core.models.radio import RadioModel
from radio_core.models.spectral import apply_spectral, iterate_spectral
from radio_core.processes import Processes
from radio_core.streams import Stream
from radio_core.vision import ModelSpec, Output


class NonFiniteLossError(RuntimeError):
    """A loss or its gradient became NaN or infinite; the message names teacher and step."""


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
        self.section, self.teachers = config.loss, config.teachers
        self.student = RadioModel(student_config(config, specs))
        if config.student.spectral:
            apply_spectral(self.student.backbone)
        self.standardizers = nn.ModuleDict()  # keyed as terms
        for output, kind in normalizations(config, specs).items():
            self.standardizers[output] = build_normalizer(kind, output_width(output, specs))
        self.losses = {}  # term -> function; every term that any batch of the run can have
        for name, adaptor in self.student.adaptors.items():
            if adaptor.summary_head is not None:
                self.losses[f"{name}/summary"] = LOSSES.load(config.teachers[name].summary_loss)
            if config.teachers[name].feature_weight > 0:
                self.losses[f"{name}/features"] = LOSSES.load(config.teachers[name].feature_loss)
        balancer = BALANCERS.load(config.loss.balancing)
        self.balancer = balancer(list(self.losses), self.student.embed_dim)

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
            for part in ("summary", "features"):
                ours, theirs = getattr(outputs[name], part), getattr(target, part)
                loss = self.losses.get(f"{name}/{part}")
                if loss is not None and ours is not None and theirs is not None:
                    losses[f"{name}/{part}"] = compare(
                        loss,
                        ours,
                        self.standardizers[f"{name}/{part}"](theirs),
                        self.section,
                        self.balancer.per_sample,
                    )
        representation = outputs["backbone"].features.mean(dim=(2, 3))
        balanced = self.balancer(losses, representation)
        teachers: dict[str, Tensor] = {}
        for term, loss in balanced.terms.items():
            name, _, part = term.partition("/")
            fixed = self.teachers[name]
            share = (fixed.summary_weight if part == "summary" else fixed.feature_weight) * loss
            teachers[name] = teachers[name] + share if name in teachers else share
        return StepLosses(
            total=torch.stack(list(teachers.values())).sum(),
            teachers=teachers,
            terms={term: loss.detach().mean() for term, loss in losses.items()},
            weights=balanced.weights,
        )

    @property
    def normalizers(self) -> dict[str, Normalizer]:
        """By "<teacher>/features" or "<teacher>/summary"."""
        return cast("dict[str, Normalizer]", dict(self.standardizers.items()))

    def fit_standardizers(
        self, statistics: Mapping[str, FeatureStatistics], processes: Processes
    ) -> list[str]:
        """Take over measured statistics of the teachers' outputs; all processes do so together.

        Args:
            statistics: as `OutputStatistics.by_output`.
            processes: of the run.

        Returns:
            What the user should know of the result, a line each.
        """
        notes = []
        for output, measured in statistics.items():
            note = self.normalizers[output].fit(measured)
            notes += [] if note is None else [f"{output}: {note}"]
        if processes.size > 1:
            # Other processors may find other eigenvectors; all must rotate alike.
            for buffer in self.standardizers.buffers():
                buffer.copy_(processes.broadcast(buffer.cpu()))
        return notes


class _Part(NamedTuple):
    """What became of a micro-batch, as the other processes hear of it."""

    weight: float
    numbers: dict[str, float]
    teachers: list[str]
    terms: list[str]


class TrainStep:
    """Everything that one step needs, callable on batches.

    Args:
        config: the run.
        distiller: student and normalisation, on its device, in training mode.
        optimizer: over the distiller's parameters.
        targets: gives the teachers' outputs, in this process.
    """

    def __init__(
        self,
        config: TrainConfig,
        distiller: Distiller,
        optimizer: torch.optim.Optimizer,
        targets: Targets,
    ) -> None:
        self.config, self.distiller, self.optimizer = config, distiller, optimizer
        self.targets, self.processes = targets, targets.processes
        self.device = next(distiller.parameters()).device
        self.gradients = Gradients(distiller.student, distiller, self.processes)
        self.statistics = RunningStatistics(distiller, self.processes)
        ema = config.optim.ema
        self.average = None if ema is None else WeightAverage(distiller, ema)

    def __call__(
        self,
        plan: Sequence[BatchPlan],
        batches: Sequence[Batch],
        lr: float,
        weight_decay: float,
        idle: int = 0,
    ) -> dict[str, Any]:
        """Run one step and return its row of metrics, the same in every process.

        Args:
            plan: the whole batches of the step, one a group.
            batches: the parts of them that this process runs, as micro-batches.
            lr: the learning rate.
            weight_decay: of matrices.
            idle: micro-batches that another process has more than this one; sharded weights are
                gathered by all processes together, so this one must run as many passes.

        Raises:
            NonFiniteLossError: a loss or its gradient is NaN or infinite; no weight was changed.
        """
        number, mine = plan[0].number, []
        rates = sum(batch.group.rate for batch in plan)
        iterate_spectral(self.distiller, whole=whole)
        self.gradients.clear()
        self.statistics.begin()
        for batch in batches:
            part = batch.plan
            # Everything random in a step follows from (seed, step): a resumed run needs no RNG
            # state, and a sample meets the same numbers however its batch is cut.
            torch.manual_seed(Stream.STEP.number(self.config.run.seed, number, part.index) >> 1)
            with part_of_batch(part.offset, part.group.batch_size):
                shape = self.shape(part)
                losses = self.losses(batch.images, self.targets(part, batch.images, shape), shape)
            # The share of the group's batch, times the group's share of the step.
            weight = len(part.views) / part.group.batch_size * part.group.rate / rates
            self.gradients.add(weight * losses.total)
            self.statistics.add(weight)
            mine.append(_Part(weight, losses.numbers(), [*losses.teachers], [*losses.terms]))
        for _ in range(idle):
            self.gradients.add_idle(plan[0].group.resolutions[0])
            self.statistics.add(0)

        parts = [part for parts in self.processes.gather(mine) for part in parts]
        teachers = list(dict.fromkeys(name for part in parts for name in part.teachers))
        numbers = _means(parts)
        self._check("loss", [n for n in teachers if not math.isfinite(numbers[n])], number)
        self.statistics.end()
        self.gradients.reduce(teachers)
        if not self.update(lr, weight_decay):
            self._check("gradient", teachers, number)
        if self.average is not None:
            self.average.update(number)
        terms = dict.fromkeys(term for part in parts for term in part.terms)
        self.distiller.balancer.observe(
            {term: torch.tensor(numbers[term], device=self.device) for term in terms}
        )
        group = " & ".join(batch.group.name for batch in plan)
        row: dict[str, Any] = {"step": number, "loss": numbers["loss"], "lr": lr}
        return {**row, "group": group, **numbers}

    def shape(self, batch: BatchPlan) -> StepShape:
        """What the student sees of a batch."""
        return step_shape(batch, self.config.run.seed, self.config.student.backbone)

    def losses(self, views: Tensor, targets: Mapping[str, Output], shape: StepShape) -> StepLosses:
        """Losses of a batch [B, 3, H, W] uint8 against `targets`, as `Distiller.forward`."""
        images = to_unit(views.to(self.device), shape.size)
        with autocast(self.config.engine, self.device):
            losses: StepLosses = self.distiller(images, targets, shape.window)
        return losses

    def update(self, lr: float, weight_decay: float) -> bool:
        """Clip the gradients and let the optimizer step; False, and no step, if not finite."""
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = lr
            parameters["weight_decay"] = weight_decay if parameters["decays"] else 0.0
        if not self.gradients.clip(self.config.optim.clip_grad):
            return False
        self.optimizer.step()
        return True

    @staticmethod
    def _check(what: str, broken: Sequence[str], number: int) -> None:
        if broken:
            raise NonFiniteLossError(
                f"the {what} of teacher {', '.join(broken)} is not finite at step {number}"
            )


def _means(parts: Sequence[_Part]) -> dict[str, float]:
    """The means over the samples that had each loss."""
    sums: dict[str, float] = {}
    weights: dict[str, float] = {}
    for part in parts:
        for key, value in part.numbers.items():
            sums[key] = sums.get(key, 0.0) + part.weight * value
            weights[key] = weights.get(key, 0.0) + part.weight
    return {key: value / weights[key] for key, value in sums.items()}
