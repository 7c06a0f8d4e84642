"""How much of a training step is the mathematics, and what a cache of teacher outputs saves."""

import itertools
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from radio_core.bench.timing import Activity, Timing, time_in_turns
from radio_core.distill.cache import TeacherCache
from radio_core.distill.config import (
    DataConfig,
    StudentConfig,
    TargetsConfig,
    TrainConfig,
)
from radio_core.distill.engine import build_optimizer
from radio_core.distill.groups import GroupConfig, Size, StageConfig, TeacherConfig
from radio_core.distill.schedule import BatchPlan
from radio_core.distill.step import Distiller, TrainStep
from radio_core.distill.targets import Targets, open_targets, view_side, view_size
from radio_core.distill.views import Batch, Views, open_views
from radio_core.models.vit import VisionTransformer, ViTConfig, vit_config
from radio_core.processes import Processes
from radio_core.teachers.base import Teacher
from radio_core.vision import ModelSpec, Output

_RESOLUTION = 224
_CACHED_BATCHES = 4


@dataclass(frozen=True)
class GroupTimes:
    """Timings of one group's step, of its parts or of two ways to take it, measured in turns.

    Attributes:
        group: name of the teacher group.
        batch_size: images a step.
        timings: by `bench_train_step` "data" (reading and cropping a batch in one process),
            "teachers", "student" (forward and backward pass with the losses), "optimizer" (with
            gradient clipping) and the whole "step" as the trainer runs it, waiting for the data
            loader included; by `bench_cached` "online" and "cached", both with their data.
        workers: processes that read images ahead of time.
    """

    group: str
    batch_size: int
    timings: dict[str, Timing]
    workers: int = 0

    @property
    def ratio(self) -> float:
        """Step time over the sum of its parts, 1 for a trainer that costs nothing; or the time
        online over that from the cache.

        Reading is a part of the step only where no worker reads ahead of time.
        """
        times = {name: timing.median for name, timing in self.timings.items()}
        if "cached" in times:
            return times["online"] / times["cached"]
        parts = ("teachers", "student", "optimizer", *(() if self.workers else ("data",)))
        return times["step"] / sum(times[part] for part in parts)

    def as_json(self) -> dict[str, Any]:
        """Medians in milliseconds, spreads in percent, images a second, and the ratio."""
        row: dict[str, Any] = {"group": self.group, "batch_size": self.batch_size}
        for name, timing in self.timings.items():
            row[f"{name}_ms"] = round(1000 * timing.median, 2)
            row[f"{name}_spread_percent"] = round(100 * timing.spread, 1)
        if "cached" in self.timings:
            for name, timing in self.timings.items():
                row[f"{name}_images_per_second"] = round(self.batch_size / timing.median, 2)
            return row | {"speedup": round(self.ratio, 2)}
        speed = round(self.batch_size / self.timings["step"].median, 1)
        ratio = round(self.ratio, 4)
        return row | {"workers": self.workers, "ratio": ratio, "images_per_second": speed}


def bench_train_step(config: TrainConfig, repeats: int) -> list[GroupTimes]:
    """Time every group of a recipe with its teachers online.

    Args:
        config: the recipe; its cache is left aside and nothing is written.
        repeats: measured repetitions, after two for warming up.
    """
    config = config.changed(targets={"cached_views": 0})
    views = _open(config)
    bench = _Bench(config, open_targets(config, views, Console(stderr=True)), views)
    return [bench.step_times(group, repeats) for group in _groups(config)]


def bench_cached(
    config: TrainConfig, repeats: int, teachers: Mapping[str, Teacher] | None = None
) -> list[GroupTimes]:
    """Time every group of a recipe online and from a cache, which is filled in a temporary folder.

    Args:
        config: the recipe; its own cache is left aside.
        repeats: measured repetitions, after two for warming up.
        teachers: take the place of those that the recipe names.

    Raises:
        ValueError: a group that cannot be cached.
    """
    console, views = Console(stderr=True), _open(config)
    count = _CACHED_BATCHES * max(group.batch_size for group in _groups(config))
    with tempfile.TemporaryDirectory(prefix="radio-cache-") as folder:
        config = config.changed(targets={"cached_views": count, "cache_dir": Path(folder)})
        if teachers is None:
            targets = open_targets(config, views, console, confirmed=True)
        else:
            device = Processes().device(config.engine.device)
            moved = {name: teacher.to(device) for name, teacher in teachers.items()}
            specs = {name: teacher.spec for name, teacher in teachers.items()}
            side = max(max(group.resolutions) for group in config.groups)
            cache = TeacherCache(
                Path(folder), config.targets, moved, views, view_side(config, specs), side
            )
            console.print(cache.describe(), markup=False)
            targets = Targets(config, moved, specs, cache, device, Processes())
        assert targets.cache is not None
        targets.cache.fill()
        bench = _Bench(config, replace(targets, cache=None), views)
        return [bench.cached_times(group, targets.cache, repeats) for group in _groups(config)]


def cached_setting() -> tuple[TrainConfig, dict[str, Teacher]]:
    """A ViT-S/16 with random teachers of the size of a ViT-B/14 and a ViT-L/14, at 224 pixels."""
    teachers: dict[str, Teacher] = {
        "vit_b14": _RandomViT("ViT-B/14", "base"),
        "vit_l14": _RandomViT("ViT-L/14", "large"),
    }
    group = GroupConfig(teachers=tuple(teachers), batch_size=4, resolutions=(_RESOLUTION,))
    config = TrainConfig(
        recipe="vit-s from vit-b/14 and vit-l/14",
        data=DataConfig(scenes=_CACHED_BATCHES * group.batch_size),
        student=StudentConfig(backbone=vit_config("small")),
        teachers={name: TeacherConfig(source="random") for name in teachers},
        stages=(StageConfig(steps=1000, groups=(group,)),),
        targets=TargetsConfig(normalization="none"),
    )
    return config, teachers


class _RandomViT(Teacher):
    """A ViT with fresh weights: its time is that of a trained one."""

    def __init__(self, name: str, preset: str) -> None:
        shape: ViTConfig = vit_config(preset, patch_size=14, grid_size=_RESOLUTION // 14)
        width = shape.embed_dim
        super().__init__(
            ModelSpec(
                name=name,
                input_size=_RESOLUTION,
                mean=(0.5, 0.5, 0.5),
                std=(0.25, 0.25, 0.25),
                patch_size=14,
                summary_dim=width,
                feature_dim=width,
            )
        )
        self.vit = VisionTransformer(shape)
        self.freeze()

    def extract(self, images: Tensor) -> Output:
        output = self.vit(images)
        assert output.summary is not None
        return Output(output.summary[:, 0], output.features)


class _Bench:
    """A run's step with its teachers online."""

    def __init__(self, config: TrainConfig, targets: Targets, views: Views) -> None:
        torch.manual_seed(config.run.seed)
        self.config, self.views, self.specs = config, views, targets.specs
        distiller = Distiller(config, self.specs).to(targets.device).train()
        optim = config.optim
        optimizer = build_optimizer(distiller, optim.lr, optim.weight_decay)
        self.step = TrainStep(config, distiller, optimizer, targets)

    def step_times(self, group: GroupConfig, repeats: int) -> GroupTimes:
        """Run step and parts in turns, so that a slower moment of the machine hits all alike."""
        step, planned = self.step, _plans(group)
        loaded = self._loaded(group)
        batch = next(loaded)
        shape = step.shape(batch.plan)
        targets = step.targets(batch.plan, batch.images, shape)

        def data() -> None:
            current = next(planned)
            size = self._view_size(current)
            torch.stack([self.views[(view, size)][0] for view in current.views])

        def student() -> None:
            losses = step.losses(batch.images, targets, shape)
            step.optimizer.zero_grad(set_to_none=True)
            losses.total.backward()

        optim, workers = self.config.optim, self.config.engine.workers
        activities: dict[str, Activity] = {
            "step": lambda: self._run(step, next(loaded)),
            "data": data,
            "teachers": lambda: step.targets(batch.plan, batch.images, shape),
            "student": student,
            "optimizer": lambda: step.update(optim.lr, optim.weight_decay),
        }
        timings = time_in_turns(activities, repeats, device=step.device)
        return GroupTimes(group.name, group.batch_size, timings, workers)

    def cached_times(self, group: GroupConfig, cache: TeacherCache, repeats: int) -> GroupTimes:
        """Run the step online and from the cache in turns, on the same student."""
        online = self.step
        stored = replace(online.targets, teachers={}, cache=cache)
        cached = TrainStep(self.config, online.distiller, online.optimizer, stored)
        loaded, planned = self._loaded(group), _plans(group, cache.count)

        def from_cache() -> None:
            plan = next(planned)
            self._run(cached, Batch(plan, cache.images(plan.views), []))

        activities: dict[str, Activity] = {
            "online": lambda: self._run(online, next(loaded)),
            "cached": from_cache,
        }
        timings = time_in_turns(activities, repeats, device=online.device)
        return GroupTimes(group.name, group.batch_size, timings)

    def _loaded(self, group: GroupConfig) -> Iterator[Batch]:
        """Batches out of the trainer's own data loader."""
        sized = ((plan, self._view_size(plan)) for plan in _plans(group))
        return self.views.loader(sized, self.config.engine.workers)

    def _view_size(self, plan: BatchPlan) -> Size:
        return view_size(plan.group, self.specs, self.step.shape(plan))

    def _run(self, step: TrainStep, batch: Batch) -> None:
        step([batch.plan], [batch], self.config.optim.lr, self.config.optim.weight_decay)


def _open(config: TrainConfig) -> Views:
    if config.engine.threads is not None:
        torch.set_num_threads(config.engine.threads)
    return open_views(config.data, config.run.seed, Console(stderr=True))


def _groups(config: TrainConfig) -> list[GroupConfig]:
    """The different groups of a recipe."""
    return list({group.name: group for group in config.groups}.values())


def _plans(group: GroupConfig, views: int | None = None) -> Iterator[BatchPlan]:
    """Step after step of one group, each with views of its own, or round and round `views`."""
    for number in itertools.count(1):
        first = (number - 1) * group.batch_size
        ids = range(first, first + group.batch_size)
        yield BatchPlan(number, group, tuple(i if views is None else i % views for i in ids))
