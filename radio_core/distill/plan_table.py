"""A plan as lines of text."""

from collections.abc import Iterator

from radio_core.distill.plan import GroupPlan, Plan
from radio_core.distill.teacher_facts import TeacherFacts


def plan_lines(plan: Plan) -> list[str]:
    """The rows of a table: what, and how much."""
    rows = [*_sizes(plan), *_stages(plan), *_costs(plan)]
    width = max(len(name) for name, _ in rows)
    return [f"{name:<{width}}  {value}".rstrip() for name, value in rows]


def _sizes(plan: Plan) -> Iterator[tuple[str, str]]:
    yield "student", f"{_count(plan.backbone)} parameters, heads {_count(plan.heads)}"
    for name, facts in plan.teachers.items():
        source = plan.config.teachers[name].source
        yield f"teacher {name}", f"{source}: {_teacher(facts)}"
    known = [facts for facts in plan.teachers.values() if facts is not None]
    sizes = [facts.download for facts in known if facts.download is not None]
    unknown = len(plan.teachers) - len(sizes)
    more = f" and {unknown} of unknown size" if unknown else ""
    yield "to download", f"{_bytes(sum(sizes))}{more} (unless it is in a cache already)"
    if plan.config.cached_views:
        yield "to cache", f"{_bytes(plan.cache_bytes)} for {plan.config.cached_views} views"
    else:
        yield "to cache", "nothing: the teachers run at every step"


def _stages(plan: Plan) -> Iterator[tuple[str, str]]:
    for index, stage in enumerate(plan.config.stages):
        mode = "all groups" if stage.all_groups else "one group"
        yield (
            f"stage {index + 1}",
            f"{stage.steps} steps of {mode}: {_count(plan.step_tokens(index))} tokens and "
            f"{_flops(plan.step_flops(index))} a step",
        )
        for group in plan.stages[index]:
            yield f"  {group.group.name}", _group(group)


def _costs(plan: Plan) -> Iterator[tuple[str, str]]:
    machine, some = plan.machine, any(facts is None for facts in plan.teachers.values())
    least = "at least " if some else ""
    processes = f"{machine.gpus} x {machine.gpu_tflops:g} TFLOPS at {100 * machine.mfu:g} %"
    yield (
        "memory",
        f"{least}{_bytes(plan.memory)} on the device that needs most, of {machine.gpus} "
        f"({plan.config.parallel}; weights, gradients, AdamW, teachers, activations)",
    )
    yield (
        "whole schedule",
        f"{least}{_flops(plan.total_flops)}: {plan.gpu_hours:.3g} GPU hours, "
        f"{plan.gpu_hours / machine.gpus:.3g} hours on {processes}",
    )
    if machine.gpu_hour_price is not None:
        price = plan.gpu_hours * machine.gpu_hour_price
        yield "price", f"{least}{price:.2f} at {machine.gpu_hour_price:g} a GPU hour"
    yield (
        "assumed",
        "backward = 2 x forward (3 x with activation checkpointing); float32 states; "
        "--gpus, --gpu-tflops, --mfu, --gpu-hour-price say otherwise",
    )


def _teacher(facts: TeacherFacts | None) -> str:
    if facts is None:
        return "unknown; left out, and its heads counted as 1024 wide"
    size = "unknown" if facts.download is None else _bytes(facts.download)
    return f"{_count(facts.parameters)} parameters, {facts.input_size} pixels, to download {size}"


def _group(plan: GroupPlan) -> str:
    return (
        f"{plan.group.batch_size} images, {_count(plan.tokens)} tokens; student "
        f"{_flops(plan.student_flops)}, teachers {_flops(plan.teacher_flops)}"
    )


def _count(number: float) -> str:
    return _scaled(number, 1000, ("", " k", " M", " G", " T"))


def _bytes(number: float) -> str:
    return _scaled(number, 1000, (" B", " kB", " MB", " GB", " TB"))


def _flops(number: float) -> str:
    return _scaled(number, 1000, (" FLOP", " kFLOP", " MFLOP", " GFLOP", " TFLOP", " PFLOP"))


def _scaled(number: float, base: int, units: tuple[str, ...]) -> str:
    for unit in units[:-1]:
        if number < base:
            return f"{number:.3g}{unit}"
        number /= base
    return f"{number:.4g}{units[-1]}"
