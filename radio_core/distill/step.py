"""One optimizer step: targets, losses, gradients, update."""

import contextlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from radio_core.distill.cache import TeacherCache
from radio_core.distill.config import GroupConfig, TrainConfig
from radio_core.distill.distiller import Distiller, run_teachers
from radio_core.distill.schedule import step_seed
from radio_core.distill.views import ViewBatch, to_unit
from radio_core.teachers import Teacher, TeacherOutput


class NonFiniteLossError(RuntimeError):
    """A loss or its gradient became NaN or infinite; the message names teacher and step."""


class TrainStep:
    """Everything that one step needs, callable on batches.

    Args:
        config: the run.
        distiller: student and standardisation, on its device, in training mode.
        optimizer: over the distiller's parameters.
        teachers: adaptor name -> teacher, on the same device.
        cache: stored teacher outputs; None runs the teachers.
    """

    def __init__(
        self,
        config: TrainConfig,
        distiller: Distiller,
        optimizer: torch.optim.Optimizer,
        teachers: Mapping[str, Teacher],
        cache: TeacherCache | None,
    ) -> None:
        self.config, self.distiller, self.optimizer = config, distiller, optimizer
        self.teachers, self.cache = teachers, cache
        self.device = next(distiller.parameters()).device

    def __call__(self, batch: ViewBatch, lr: float) -> dict[str, Any]:
        """Run one step and return its row of metrics.

        Raises:
            NonFiniteLossError: a loss or its gradient is NaN or infinite; no weight was changed.
        """
        number, group = batch.step.number, batch.step.group
        # Everything random in a step follows from (seed, step): a resumed run needs no RNG state.
        torch.manual_seed(step_seed(self.config.seed, number))
        losses = self.losses(batch, self.targets(batch))
        totals = self.distiller.teacher_totals(losses)
        loss = torch.stack(list(totals.values())).sum()
        row: dict[str, Any] = {"step": number, "loss": loss.item(), "lr": lr, "group": group.name}
        row |= {name: total.item() for name, total in totals.items()}
        row |= {key: value.item() for key, value in losses.items()}
        broken = [name for name in totals if not np.isfinite(row[name])]
        if broken:
            raise NonFiniteLossError(
                f"the loss of teacher {', '.join(broken)} is not finite at step {number}"
            )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if not self.apply_gradients(lr):
            raise NonFiniteLossError(
                f"the gradient of teacher {', '.join(totals)} is not finite at step {number}"
            )
        return row

    def losses(self, batch: ViewBatch, targets: Mapping[str, TeacherOutput]) -> dict[str, Tensor]:
        """Unweighted losses of a batch against `targets`, as `Distiller.losses`."""
        group = batch.step.group
        window = draw_window(group, batch.step.number, self.config.seed)
        images = to_unit(batch.images.to(self.device), group.resolution)
        with self._autocast():
            return self.distiller.losses(images, targets, window)

    def targets(self, batch: ViewBatch) -> dict[str, TeacherOutput]:
        """Outputs of the group's teachers, stored or computed."""
        step = batch.step
        if self.cache is None:
            images = to_unit(batch.images.to(self.device))
            return run_teachers(self.teachers, step.group.teachers, images)
        stored = self.cache.outputs(step.views, step.group.teachers)
        return {name: _to(output, self.device) for name, output in stored.items()}

    def apply_gradients(self, lr: float) -> bool:
        """Clip the gradients and let the optimizer step; False, and no step, if not finite."""
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = lr
        norm = torch.nn.utils.clip_grad_norm_(self.distiller.parameters(), self.config.clip_grad)
        if not torch.isfinite(norm):
            return False
        self.optimizer.step()
        return True

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        if self.config.precision == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)


def build_optimizer(distiller: Distiller, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW; weight decay on matrices only, not on vectors and scalars of whatever shape."""
    parameters = [p for p in distiller.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.numel() > max(p.shape)]},
        {"params": [p for p in parameters if p.numel() == max(p.shape)], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.lr, weight_decay=config.weight_decay)


def view_size(group: GroupConfig, teachers: Mapping[str, Teacher]) -> int:
    """Side in pixels at which a group's crops are read: enough for everyone in it."""
    return max([group.resolution, *(teachers[name].spec.input_size for name in group.teachers)])


def draw_window(group: GroupConfig, number: int, seed: int) -> int | None:
    """The attention window of a step in patches; None for global attention."""
    if not group.window_sizes:
        return None
    rng = np.random.default_rng((seed, 5, number))
    if rng.random() >= group.window_probability:
        return None
    return int(rng.choice(group.window_sizes))


def _to(output: TeacherOutput, device: torch.device) -> TeacherOutput:
    summary = None if output.summary is None else output.summary.to(device)
    return TeacherOutput(summary, output.features.to(device))
