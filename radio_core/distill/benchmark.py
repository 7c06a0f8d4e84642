"""How much of a training step is the mathematics, and how much is the trainer around it."""

import time
from dataclasses import dataclass, replace
from typing import Any

import torch
from rich.console import Console

from radio_core.bench.timing import Activity, Timing, time_in_turns
from radio_core.distill.config import GroupConfig, TrainConfig
from radio_core.distill.distiller import Distiller
from radio_core.distill.schedule import Step
from radio_core.distill.step import TrainStep, build_optimizer, view_size
from radio_core.distill.trainer import choose_device, open_run
from radio_core.distill.views import ViewBatch, view_loader


@dataclass(frozen=True)
class StepTimes:
    """One group's step and its parts, each alone on the same inputs, measured in turns.

    Attributes:
        group: name of the teacher group.
        batch_size: images a step.
        data: reading and cropping the batch (overlapped by workers in training).
        step: the whole step as the trainer runs it on a batch that is already read.
        teachers: the teachers' forward passes.
        student: the student's forward and backward pass with the losses.
        optimizer: gradient clipping and AdamW.
    """

    group: str
    batch_size: int
    data: Timing
    step: Timing
    teachers: Timing
    student: Timing
    optimizer: Timing

    @property
    def ratio(self) -> float:
        """Step time over the sum of its parts: 1 is a trainer that costs nothing."""
        parts = self.teachers.median + self.student.median + self.optimizer.median
        return self.step.median / parts

    @property
    def images_per_second(self) -> float:
        """Throughput of the step."""
        return self.batch_size / self.step.median

    def as_json(self) -> dict[str, Any]:
        """Medians in milliseconds, spreads in percent, ratio and throughput."""
        parts = ("data", "step", "teachers", "student", "optimizer")
        row: dict[str, Any] = {"group": self.group, "batch_size": self.batch_size}
        for part in parts:
            timing: Timing = getattr(self, part)
            row[f"{part}_ms"] = round(1000 * timing.median, 2)
            row[f"{part}_spread_percent"] = round(100 * timing.spread, 1)
        return row | {
            "ratio": round(self.ratio, 4),
            "images_per_second": round(self.images_per_second, 1),
        }


def bench_train_step(config: TrainConfig, repeats: int) -> list[StepTimes]:
    """Time every group of a recipe with its teachers online.

    Args:
        config: the recipe; its cache is left aside and nothing is written.
        repeats: measured repetitions, after two for warming up.
    """
    config = replace(config, cached_views=0)
    inputs = open_run(config, Console(stderr=True))
    device = choose_device(config.device)
    distiller = Distiller(config, {name: t.spec for name, t in inputs.teachers.items()})
    distiller.to(device).train()
    optimizer = build_optimizer(distiller, config)
    step = TrainStep(config, distiller, optimizer, inputs.teachers, None)
    groups = {group.name: group for stage in config.stages for group in stage.groups}
    results = []
    for group in groups.values():
        size = view_size(group, inputs.teachers)
        plan = iter([(_plan(group), size)])
        began = time.perf_counter()
        batch = next(iter(view_loader(inputs.views, plan, 0)))
        data = time.perf_counter() - began
        results.append(_time_group(step, batch, data, repeats))
    return results


def _plan(group: GroupConfig) -> Step:
    return Step(1, group, tuple(range(group.batch_size)))


def _time_group(step: TrainStep, batch: ViewBatch, data: float, repeats: int) -> StepTimes:
    """Run step and parts in turns, so that a slower moment of the machine hits all alike."""
    targets = step.targets(batch)

    def student() -> None:
        losses = step.losses(batch, targets)
        totals = step.distiller.teacher_totals(losses)
        step.optimizer.zero_grad(set_to_none=True)
        torch.stack(list(totals.values())).sum().backward()

    activities: dict[str, Activity] = {
        "step": lambda: step(batch, step.config.lr),
        "teachers": lambda: step.targets(batch),
        "student": student,
        "optimizer": lambda: step.apply_gradients(step.config.lr),
    }
    timings = time_in_turns(activities, repeats, device=step.device)
    group = batch.step.group
    return StepTimes(group.name, group.batch_size, Timing((data, data)), **timings)
