"""One optimizer step: targets, losses, gradients, update."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from radio_core.distill.balancing import kept_teachers
from radio_core.distill.batch_norm import RunningStatistics
from radio_core.distill.cache import TeacherCache
from radio_core.distill.config import TrainConfig
from radio_core.distill.distiller import Distiller, StepLosses
from radio_core.distill.distributed import whole
from radio_core.distill.ema import WeightAverage
from radio_core.distill.execution import autocast, forget_heads, idle_pass, touch_heads
from radio_core.distill.gradients import Gradients
from radio_core.distill.mosaic import run_teacher
from radio_core.distill.schedule import Step, step_seed
from radio_core.distill.shapes import StepShape, step_shape, teacher_size
from radio_core.distill.teacher_bench import TeacherBench
from radio_core.distill.views import ViewBatch, to_unit
from radio_core.models.position import part_of_batch
from radio_core.models.spectral import iterate_spectral
from radio_core.processes import Processes
from radio_core.teachers import Teacher
from radio_core.vision import Output


class NonFiniteLossError(RuntimeError):
    """A loss or its gradient became NaN or infinite; the message names teacher and step."""


class TrainStep:
    """Everything that one step needs, callable on batches.

    Args:
        config: the run.
        distiller: student and standardisation, on its device, in training mode.
        optimizer: over the distiller's parameters.
        teachers: adaptor name -> teacher, on the same device (or on the CPU if they are to be
            offloaded).
        cache: stored teacher outputs; None runs the teachers.
        ranks: the processes that take the step together; None for this one alone.
    """

    def __init__(
        self,
        config: TrainConfig,
        distiller: Distiller,
        optimizer: torch.optim.Optimizer,
        teachers: Mapping[str, Teacher],
        cache: TeacherCache | None,
        ranks: Processes | None = None,
    ) -> None:
        self.config, self.distiller, self.optimizer = config, distiller, optimizer
        self.cache, self.ranks = cache, ranks or Processes()
        self.gradients = Gradients(distiller, self.ranks)
        self.statistics = RunningStatistics(distiller, self.ranks)
        self.average = None if config.ema is None else WeightAverage(distiller, config.ema)
        self.device = next(distiller.parameters()).device
        self._bench = TeacherBench(teachers, self.device, config.offload_teachers)

    def __call__(
        self, plan: Sequence[Step], batches: Sequence[ViewBatch], lr: float, idle: int = 0
    ) -> dict[str, Any]:
        """Run one step and return its row of metrics, the same in every process.

        Args:
            plan: the whole batches of the step, one a group.
            batches: the parts of them that this process runs, as micro-batches.
            lr: the learning rate.
            idle: micro-batches that another process has more than this one; sharded weights are
                gathered by all processes together, so this one must run as many passes.

        Raises:
            NonFiniteLossError: a loss or its gradient is NaN or infinite; no weight was changed.
        """
        number = plan[0].number
        iterate_spectral(self.distiller, whole=whole)
        self.gradients.clear()
        self.statistics.begin()
        sums = _Sums()
        for batch in batches:
            # Everything random in a step follows from (seed, step): a resumed run needs no RNG
            # state, and a sample meets the same numbers however its batch is cut.
            torch.manual_seed(step_seed(self.config.seed, number, batch.step.index))
            with part_of_batch(batch.step.offset, batch.step.group.batch_size):
                losses = self.losses(batch, self.targets(batch))
            weight = weight_in_step(batch.step, plan)
            self._add_gradient(weight * losses.total)
            self.statistics.add(weight)
            sums.add(weight, losses)
        for _ in range(idle):
            side = plan[0].group.resolutions[0]
            self._add_gradient(idle_pass(self.distiller.student, side))
            self.statistics.add(0)
        sums = _Sums.joined(self.ranks.gather(sums))
        self._check("loss", sums.broken(), number)
        self.statistics.end()
        self.gradients.reduce()
        if self.gradients.sharded:
            forget_heads(self.distiller.student, sums.teachers)
        if not self.apply_gradients(lr):
            self._check("gradient", sums.teachers, number)
        if self.average is not None:
            self.average.update(number)
        numbers = sums.means()
        self.distiller.balancer.observe(
            {term: torch.tensor(numbers[term], device=self.device) for term in sums.terms}
        )
        group = " & ".join(step.group.name for step in plan)
        row: dict[str, Any] = {"step": number, "loss": numbers["loss"], "lr": lr}
        return {**row, "group": group, **numbers}

    def _add_gradient(self, loss: Tensor) -> None:
        if self.gradients.sharded:
            loss = loss + touch_heads(self.distiller.student)
        self.gradients.add(loss)

    @staticmethod
    def _check(what: str, broken: Sequence[str], number: int) -> None:
        if broken:
            raise NonFiniteLossError(
                f"the {what} of teacher {', '.join(broken)} is not finite at step {number}"
            )

    def losses(self, batch: ViewBatch, targets: Mapping[str, Output]) -> StepLosses:
        """Losses of a batch against `targets`, as `Distiller.forward`."""
        shape = self.shape(batch.step)
        images = to_unit(batch.images.to(self.device), shape.size)
        with autocast(self.config, self.device):
            losses: StepLosses = self.distiller(images, targets, shape.window)
        return losses

    def targets(self, batch: ViewBatch) -> dict[str, Output]:
        """Outputs of the group's teachers, stored or computed; dropped ones are missing."""
        step, group, config = batch.step, batch.step.group, self.config
        names = kept_teachers(
            group.teachers, config.teacher_dropping, config.seed, step.number, step.index
        )
        if self.cache is not None:
            return self.cache.outputs(step.views, names, self.device)
        shape, views = self.shape(step), batch.images.to(self.device)
        targets = {}
        for name, teacher in self._bench.take(names).items():
            size = teacher_size(group, name, teacher.spec, shape)
            with autocast(config, self.device):
                targets[name] = run_teacher(teacher, views, size, group.mosaics.get(name, 1))
        return targets

    def shape(self, step: Step) -> StepShape:
        """What the student sees at a step."""
        config = self.config
        return step_shape(step.group, step.number, config.seed, config.student, step.index)

    def apply_gradients(self, lr: float) -> bool:
        """Clip the gradients and let the optimizer step; False, and no step, if not finite."""
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = lr
        if not self.gradients.clip(self.config.clip_grad):
            return False
        self.optimizer.step()
        return True

    def set_weight_decay(self, value: float) -> None:
        """Use another weight decay from now on, for the parameters that have one."""
        for parameters in self.optimizer.param_groups:
            if parameters["decays"]:
                parameters["weight_decay"] = value


@dataclass
class _Sums:
    """Losses of a step's micro-batches, summed with their weights; travels between processes."""

    values: dict[str, float] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)
    teachers: list[str] = field(default_factory=list)
    terms: list[str] = field(default_factory=list)

    def add(self, weight: float, losses: StepLosses) -> None:
        """Add one micro-batch."""
        for key, value in losses.numbers().items():
            self._add(key, weight * value, weight)
        self.teachers = list(dict.fromkeys([*self.teachers, *losses.teachers]))
        self.terms = list(dict.fromkeys([*self.terms, *losses.terms]))

    @classmethod
    def joined(cls, parts: "Sequence[_Sums]") -> "_Sums":
        """The sums of all processes."""
        if len(parts) == 1:
            return parts[0]
        joined = cls()
        for part in parts:
            for key, value in part.values.items():
                joined._add(key, value, part.weights[key])
            joined.teachers = list(dict.fromkeys([*joined.teachers, *part.teachers]))
            joined.terms = list(dict.fromkeys([*joined.terms, *part.terms]))
        return joined

    def means(self) -> dict[str, float]:
        """The means over the samples that had each loss."""
        return {key: value / self.weights[key] for key, value in self.values.items()}

    def broken(self) -> list[str]:
        """Teachers whose loss is not finite."""
        return [name for name in self.teachers if not np.isfinite(self.values[name])]

    def _add(self, key: str, value: float, weight: float) -> None:
        self.values[key] = self.values.get(key, 0.0) + value
        self.weights[key] = self.weights.get(key, 0.0) + weight


def weight_in_step(part: Step, plan: Sequence[Step]) -> float:
    """The weight of a micro-batch's mean loss in the loss of its step.

    Its share of its group's batch times the group's rate, as a share of the step's groups'.
    """
    return part.share * part.group.rate / sum(step.group.rate for step in plan)


def build_optimizer(distiller: Distiller, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW; weight decay on matrices only, not on vectors and scalars of whatever shape."""
    groups: list[dict[str, Any]] = []
    for decays in (True, False):
        for sharded in (True, False):  # torch updates a group at once, which must be of one kind
            parameters = [
                p
                for p in distiller.parameters()
                if p.requires_grad
                and (p.numel() > max(p.shape)) == decays
                and isinstance(p, DTensor) == sharded
            ]
            decay = config.weight_decay if decays else 0.0
            if parameters:
                groups.append({"params": parameters, "decays": decays, "weight_decay": decay})
    return torch.optim.AdamW(groups, lr=config.lr, weight_decay=config.weight_decay)
