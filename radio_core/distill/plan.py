"""What a run will need and cost, from shapes alone: `radio train RECIPE --dry-run`.

Assumptions, all of them stated in what is printed:
- the student's forward pass is counted on the meta device by torch's own counter, its backward
  pass as two forward passes (three with activation checkpointing); teachers run forward only;
- memory holds weights, gradients and AdamW's two moments in float32, the teachers in float32, and
  the activations that autograd keeps for one micro-batch (half of it with bf16); buffers of the
  libraries come on top;
- a GPU reaches the share `mfu` of its peak, and several of them scale linearly.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from radio_core.distill.cache import CacheLayout
from radio_core.distill.config import TrainConfig
from radio_core.distill.groups import GroupConfig, Size, tiles
from radio_core.distill.schedule import Partition, StepShape, group_ranks, mosaic_images
from radio_core.distill.student import student_config
from radio_core.distill.targets import teacher_size
from radio_core.distill.teacher_facts import TeacherFacts, teacher_facts
from radio_core.models.radio import RadioModel

_UNKNOWN = TeacherFacts(
    width=1024, depth=0, hidden=0, patch_size=16, input_size=224, summary_dim=1024
)


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What the run is planned for.

    Attributes:
        gpus: number of processes, one on each GPU.
        gpu_tflops: peak of one GPU in 10^12 operations a second at the run's precision; 312 is an
            A100's dense bf16.
        mfu: share of the peak that training reaches.
        gpu_hour_price: in any currency; None for no price.
    """

    gpus: int = 1
    gpu_tflops: float = 312.0
    mfu: float = 0.4
    gpu_hour_price: float | None = None

    def __post_init__(self) -> None:
        if self.gpus < 1 or self.gpu_tflops <= 0 or not 0 < self.mfu <= 1:
            raise ValueError(
                "gpus and gpu_tflops must be positive, and mfu in (0, 1]; they are "
                f"{self.gpus}, {self.gpu_tflops} and {self.mfu}"
            )
        if self.gpu_hour_price is not None and self.gpu_hour_price < 0:
            raise ValueError("gpu_hour_price must not be negative")


@dataclass(frozen=True, kw_only=True)
class GroupPlan:
    """One group of a stage, for a whole batch of it.

    Attributes:
        group: the group.
        tokens: patches of the student's input, the mean over its resolutions.
        student_flops: forward and backward.
        teacher_flops: forward; 0 from a cache.
        activation_bytes: that one micro-batch of one process keeps, at the largest resolution.
    """

    group: GroupConfig
    tokens: float
    student_flops: float
    teacher_flops: float
    activation_bytes: float


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run needs.

    Attributes:
        config: the run.
        machine: what it is planned for.
        backbone: parameters of the student's backbone.
        heads: parameters of its heads.
        teachers: adaptor name -> facts; None where they are not known.
        stages: the groups of each stage.
        memory: bytes of the process that needs most.
        cache_bytes: of stored teacher outputs; 0 without a cache.
    """

    config: TrainConfig
    machine: Machine
    backbone: int
    heads: int
    teachers: dict[str, TeacherFacts | None]
    stages: tuple[tuple[GroupPlan, ...], ...]
    memory: float
    cache_bytes: int

    def step_flops(self, index: int) -> float:
        """Mean operations of a step of one stage."""
        return self._mean(index, lambda plan: plan.student_flops + plan.teacher_flops)

    def step_tokens(self, index: int) -> float:
        """Mean patches that the student sees in a step of one stage."""
        return self._mean(index, lambda plan: plan.tokens)

    @property
    def total_flops(self) -> float:
        """Operations of the whole schedule."""
        stages = enumerate(self.config.stages)
        return sum(stage.steps * self.step_flops(index) for index, stage in stages)

    @property
    def gpu_hours(self) -> float:
        """Of the whole schedule, over all GPUs."""
        return self.total_flops / (self.machine.gpu_tflops * 1e12 * self.machine.mfu) / 3600

    def _mean(self, index: int, value: Callable[[GroupPlan], float]) -> float:
        plans = self.stages[index]
        if self.config.stages[index].all_groups:
            return sum(value(plan) for plan in plans)
        rates = sum(plan.group.rate for plan in plans)
        return sum(value(plan) * plan.group.rate for plan in plans) / rates

    def lines(self) -> list[str]:
        """The plan as the rows of a table: what, and how much."""
        rows = [*self._sizes(), *self._costs()]
        width = max(len(name) for name, _ in rows)
        return [f"{name:<{width}}  {value}".rstrip() for name, value in rows]

    def _sizes(self) -> Iterator[tuple[str, str]]:
        yield "student", f"{_count(self.backbone)} parameters, heads {_count(self.heads)}"
        downloads = []
        for name, facts in self.teachers.items():
            what = "unknown; left out, and its heads counted as 1024 wide"
            if facts is not None:
                downloads += [] if facts.download is None else [facts.download]
                size = "unknown" if facts.download is None else _bytes(facts.download)
                what = (
                    f"{_count(facts.parameters)} parameters, {facts.input_size} pixels, to "
                    f"download {size}"
                )
            yield f"teacher {name}", f"{self.config.teachers[name].source}: {what}"
        unknown = len(self.teachers) - len(downloads)
        more = f" and {unknown} of unknown size" if unknown else ""
        yield "to download", f"{_bytes(sum(downloads))}{more} (unless it is in a cache already)"
        views = self.config.targets.cached_views
        stored = f"{_bytes(self.cache_bytes)} for {views} views"
        yield "to cache", stored if views else "nothing: the teachers run at every step"

    def _costs(self) -> Iterator[tuple[str, str]]:
        for index, stage in enumerate(self.config.stages):
            mode = "all groups" if stage.all_groups else "one group"
            yield (
                f"stage {index + 1}",
                f"{stage.steps} steps of {mode}: {_count(self.step_tokens(index))} tokens and "
                f"{_flops(self.step_flops(index))} a step",
            )
            for plan in self.stages[index]:
                yield (
                    f"  {plan.group.name}",
                    f"{plan.group.batch_size} images, {_count(plan.tokens)} tokens; student "
                    f"{_flops(plan.student_flops)}, teachers {_flops(plan.teacher_flops)}",
                )
        machine = self.machine
        least = "at least " if None in self.teachers.values() else ""
        yield (
            "memory",
            f"{least}{_bytes(self.memory)} on the device that needs most, of {machine.gpus} "
            f"({self.config.engine.parallel}; weights, gradients, AdamW, teachers, activations)",
        )
        yield (
            "whole schedule",
            f"{least}{_flops(self.total_flops)}: {self.gpu_hours:.3g} GPU hours, "
            f"{self.gpu_hours / machine.gpus:.3g} hours on {machine.gpus} x "
            f"{machine.gpu_tflops:g} TFLOPS at {100 * machine.mfu:g} %",
        )
        if machine.gpu_hour_price is not None:
            price = self.gpu_hours * machine.gpu_hour_price
            yield "price", f"{least}{price:.2f} at {machine.gpu_hour_price:g} a GPU hour"
        yield (
            "assumed",
            "backward = 2 x forward (3 x with activation checkpointing); float32 states; "
            "--gpus, --gpu-tflops, --mfu, --gpu-hour-price say otherwise",
        )


def plan_run(config: TrainConfig, machine: Machine) -> Plan:
    """Work out what a run needs; nothing is downloaded and no model is run."""
    facts = {name: teacher_facts(teacher.source) for name, teacher in config.teachers.items()}
    known = {name: fact or _UNKNOWN for name, fact in facts.items()}
    specs = {name: fact.spec(name) for name, fact in known.items()}
    with torch.device("meta"):
        student = RadioModel(student_config(config, specs)).eval()
    heads, whole = (
        sum(parameter.numel() for parameter in module.parameters())
        for module in (student.adaptors, student)
    )
    stages = tuple(
        tuple(
            _plan_group(config, student, group, known, len(ranks))
            for group, ranks in zip(stage.groups, group_ranks(stage, machine.gpus), strict=True)
        )
        for stage in config.stages
    )
    side = max(max(group.resolutions) for group in config.groups)
    layout = CacheLayout(specs, side, config.targets)
    return Plan(
        config=config,
        machine=machine,
        backbone=whole - heads,
        heads=heads,
        teachers=facts,
        stages=stages,
        memory=_memory(config, machine, whole, known, stages),
        cache_bytes=config.targets.cached_views * layout.view_bytes,
    )


def _plan_group(
    config: TrainConfig,
    student: RadioModel,
    group: GroupConfig,
    facts: dict[str, TeacherFacts],
    ranks: int,
) -> GroupPlan:
    names, engine, patch = tuple(group.teachers), config.engine, student.patch_size
    sizes = group.shapes(config.student.backbone.resolution_step)
    forward, teachers, tokens, kept = 0.0, 0.0, 0.0, 0.0
    for size in sizes:
        flops, saved = _forward(student, names, size, 0)
        kept = max(kept, saved)
        windowed = [window for window in group.window_sizes if tiles(window, size, patch)]
        if windowed:
            costs = [_forward(student, names, size, window)[0] for window in windowed]
            flops += group.window_probability * (sum(costs) / len(costs) - flops)
        forward += flops / len(sizes)
        tokens += size[0] * size[1] / patch**2 / len(sizes)
        for name in () if config.targets.cached_views else names:
            height, width = teacher_size(group, name, facts[name].spec(name), StepShape(*size))
            once = facts[name].flops(round((height * width) ** 0.5))
            teachers += once / group.mosaics.get(name, 1) ** 2 / len(sizes)
    if engine.activation_checkpointing:
        # One unit, and the inputs of all of them.
        kept = kept / len(student.backbone.units()) * 1.5
    unit = mosaic_images(group)
    images = -(-group.batch_size // unit // ranks // engine.accumulate) * unit
    return GroupPlan(
        group=group,
        tokens=tokens * group.batch_size,
        student_flops=(4 if engine.activation_checkpointing else 3) * forward * group.batch_size,
        teacher_flops=teachers * group.batch_size,
        activation_bytes=max(images, 1) * kept * (0.5 if engine.precision == "bf16" else 1.0),
    )


def _forward(
    student: RadioModel, names: tuple[str, ...], size: Size, window: int
) -> tuple[float, float]:
    """Operations of a forward pass on one image, and bytes that it keeps for the backward pass."""
    student.backbone.fit_windows(*size)
    images = torch.empty(1, 3, *size, device="meta")
    with _kept_bytes(student) as kept, FlopCounterMode(display=False) as counter:
        student(images, "NCHW", names, window)
    return float(counter.get_total_flops()), sum(kept.values())


@contextmanager
def _kept_bytes(student: RadioModel) -> Iterator[dict[int, int]]:
    """Storage -> bytes of what autograd saves, the weights themselves left out."""
    weights = {tensor.untyped_storage()._cdata for tensor in student.parameters()}
    kept: dict[int, int] = {}
    alive = []  # a storage's address may come again once it is freed

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage.nbytes()
            alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield kept


def _memory(
    config: TrainConfig,
    machine: Machine,
    parameters: int,
    facts: dict[str, TeacherFacts],
    stages: tuple[tuple[GroupPlan, ...], ...],
) -> float:
    """Bytes of the process that needs most."""
    copies = 4 + (config.optim.ema is not None)  # weights, gradients, two moments, moving average
    state = 4.0 * copies * parameters
    if config.engine.parallel == "fsdp":
        state /= machine.gpus
    worst = 0.0
    for rank in range(machine.gpus):
        held = Partition(config, rank, machine.gpus).teachers()
        for stage, plans in zip(config.stages, stages, strict=True):
            for plan, ranks in zip(plans, group_ranks(stage, machine.gpus), strict=True):
                present = plan.group.teachers if config.targets.offload else held
                present = () if config.targets.cached_views else present
                teachers = sum(4 * facts[name].parameters for name in present)
                if rank in ranks:
                    worst = max(worst, state + plan.activation_bytes + teachers)
    return worst


def _count(number: float) -> str:
    return _scaled(number, ("", " k", " M", " G", " T"))


def _bytes(number: float) -> str:
    return _scaled(number, (" B", " kB", " MB", " GB", " TB"))


def _flops(number: float) -> str:
    return _scaled(number, (" FLOP", " kFLOP", " MFLOP", " GFLOP", " TFLOP", " PFLOP"))


def _scaled(number: float, units: tuple[str, ...]) -> str:
    for unit in units[:-1]:
        if number < 1000:
            return f"{number:.3g}{unit}"
        number /= 1000
    return f"{number:.4g}{units[-1]}"
