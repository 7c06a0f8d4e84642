"""An ablation of the paper in the toy world: students that differ in one thing, with many seeds."""

import math
import shutil
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import torch

import radio_core
from radio_core.devices import choose_device
from radio_core.distill.config import TrainConfig, settings
from radio_core.distill.groups import GroupConfig, StageConfig
from radio_core.distill.recipes import get_recipe
from radio_core.distill.run_folder import METRICS_FILE, read_metrics
from radio_core.distill.step import NonFiniteLossError
from radio_core.distill.trainer import train
from radio_core.models.vit import vit_config
from radio_core.open import open_model
from radio_core.progress import rich_progress
from radio_core.teachers import load_teacher
from radio_eval.results import Json, digest
from radio_eval.runner import Task
from radio_eval.tables.filling import Cell, Filling
from radio_eval.toyworld import ToySizes, toy_tasks

CLIP, DINO = "clip", "dino_v2"
RESOLUTION = 64
"""Side in pixels of the student's input in training."""
SPREADS = 2
"""Standard deviations over the seeds that a difference must exceed to have a direction."""
_BATCH, _LONGEST_WARMUP, _LEAST_STEPS = 32, 50, 10

Outcome = Literal["as in the paper", "within the spread", "not seen here", "not measured"]
Change = Callable[[TrainConfig], TrainConfig]
Values = dict[str, dict[str, dict[int, float]]]
"""Variant -> metric -> seed -> value."""


@dataclass(frozen=True)
class Score:
    """A column with the headline of a task, in percent, on images of `image_size` pixels."""

    title: str
    task: str
    image_size: int = RESOLUTION


@dataclass(frozen=True)
class Logged:
    """A column with a mean over the last fifth of the rows of a training's log.

    Attributes:
        title: heading of the column.
        keys: columns of metrics.jsonl whose mean is taken; a run that lacks one has no value.
        scale: factor, e.g. 100 for percent.
    """

    title: str
    keys: tuple[str, ...]
    scale: float = 1.0

    def read(self, path: Path) -> float | None:
        """The mean in a metrics.jsonl."""
        rows = read_metrics(path)
        last = rows[-max(1, len(rows) // 5) :]
        values: list[float] = [row[key] for row in last for key in self.keys if key in row]
        if not values or len(values) < len(last) * len(self.keys):
            return None
        return self.scale * sum(values) / len(values)


@dataclass(frozen=True)
class Variant:
    """One row: how it changes the common recipe, and the paper's numbers by metric."""

    title: str
    change: Change | None = None
    printed: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Claim:
    """One direction of a table: `higher` - `lower` > `margin`.

    Attributes:
        text: the claim in words.
        source: where the paper makes it.
        metric: a metric of the table.
        higher: variant whose value should be the higher one.
        lower: variant that it is compared with; None compares with 0.
        margin: least difference, in the metric's unit; a negative one says "hardly lower".
    """

    text: str
    source: Literal["caption", "text", "numbers"]
    metric: str
    higher: str
    lower: str | None = None
    margin: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """One table of the paper."""

    name: str
    title: str
    setting: tuple[str, ...]
    metrics: Mapping[str, Score | Logged]
    variants: Mapping[str, Variant]
    claims: tuple[Claim, ...]

    def __post_init__(self) -> None:
        for claim in self.claims:
            assert claim.metric in self.metrics
            assert {claim.higher, claim.lower or claim.higher} <= set(self.variants)
        assert all(set(variant.printed) <= set(self.metrics) for variant in self.variants.values())


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """A claim beside what was measured: higher - lower by seed, and in the paper's numbers."""

    claim: Claim
    differences: Mapping[int, float]
    printed: float | None

    @property
    def summary(self) -> tuple[float, float] | None:
        """Mean and standard deviation (n - 1) of the differences; None before there are two."""
        found = [*self.differences.values()]
        return (statistics.fmean(found), statistics.stdev(found)) if len(found) > 1 else None

    @property
    def outcome(self) -> Outcome:
        """How the mean difference compares with the margin, and with `SPREADS` spreads."""
        if self.summary is None:
            return "not measured"
        (mean, spread), margin = self.summary, self.claim.margin
        # Differences that are equal but for rounding have no spread, and say nothing either.
        if abs(mean - margin) <= SPREADS * spread or math.isclose(mean, margin, abs_tol=1e-9):
            return "within the spread"
        return "as in the paper" if mean > margin else "not seen here"

    @property
    def verdict(self) -> str:
        """The outcome; where the paper's direction does not come out, also what did instead."""
        if self.outcome != "not seen here":
            return self.outcome
        if self.claim.lower is None or self.claim.margin:
            return f"{self.outcome}: not above {self.claim.margin:g}"
        return f"{self.outcome}: the other way round"


@dataclass(frozen=True, kw_only=True)
class AblationOptions:
    """Repeat one of the paper's ablations in the toy world.

    Trains a student for each row of the table and each seed, evaluates it, and says of each of the
    paper's claims whether it comes out, with the spread over the seeds. Writes OUT/tableN.md, .html
    and .json after every student.

    Students, teacher outputs and finished evaluations stay in OUT and are shared by the tables: a
    run that was interrupted, or repeated with more seeds, does only what is missing or has changed.
    """

    out: Path = Path("runs/paper")
    """Folder for everything that is written; run one table at a time there."""
    seeds: int = 3
    """Students of each row: seeds 0 ... n - 1. A seed decides weights, data, crops and order."""
    steps: int = 500
    """Optimizer steps of each student."""
    views: int = 3000
    """Scenes to train on, each with one crop; their teacher outputs are computed once a seed."""
    device: str = "auto"
    """Where models run, such as "cuda:1"; "auto" takes a GPU where there is one."""
    json: Path | None = None
    """Another file for what OUT/tableN.json has."""
    sizes: ToySizes = field(
        default_factory=lambda: ToySizes(
            classification_train=1000, classification_val=1000, dense_val=200, sam_val=1
        )
    )
    """How much of the toy world the evaluations see."""

    def __post_init__(self) -> None:
        if self.seeds < 2:
            raise ValueError(f"--seeds must be at least 2, not {self.seeds}: one has no spread")
        if self.steps < _LEAST_STEPS or self.views < 1:
            raise ValueError(f"--steps must be at least {_LEAST_STEPS} and --views at least 1")


@dataclass(kw_only=True)
class AblationResults:
    """The values of a table, filled student by student."""

    table: Ablation
    values: Values = field(default_factory=dict)
    failures: dict[tuple[str, int], str] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)

    def by_seed(self, variant: str, metric: str) -> dict[int, float]:
        """The values of a cell by seed, in their order."""
        return dict(sorted(self.values.get(variant, {}).get(metric, {}).items()))

    def summary(self, variant: str, metric: str) -> tuple[float, float] | None:
        """Mean and standard deviation (n - 1; 0 of one value); None for an empty cell."""
        values = [*self.by_seed(variant, metric).values()]
        if not values:
            return None
        return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0

    def judgements(self) -> list[Judgement]:
        """Every claim judged, in their order.

        Variants are compared seed by seed: two variants of one seed saw the same crops in the same
        order, so what these change in both alike drops out of the difference.
        """
        return [self.judge(claim) for claim in self.table.claims]

    def judge(self, claim: Claim) -> Judgement:
        """Compare the two variants of a claim."""
        higher, variants = self.by_seed(claim.higher, claim.metric), self.table.variants
        high, low = variants[claim.higher].printed.get(claim.metric), 0.0
        lower: Mapping[int, float] = dict.fromkeys(higher, 0.0)
        if claim.lower is not None:
            lower = self.by_seed(claim.lower, claim.metric)
            low = variants[claim.lower].printed.get(claim.metric, math.nan)
        printed = None if high is None or math.isnan(low) else high - low
        seeds = sorted({*higher} & {*lower})
        differences = {seed: higher[seed] - lower[seed] for seed in seeds}
        return Judgement(claim=claim, differences=differences, printed=printed)


def short_recipe(options: AblationOptions, seed: int, device: str) -> TrainConfig:
    """The toy recipe made short: CLIP and DINOv2, one resolution, and a student of half the cost.

    Variants may change losses and student, but neither data nor teachers nor sizes, so that all of
    one seed read one cache of teacher outputs.
    """
    toy = get_recipe("toy")
    group = GroupConfig(teachers=(CLIP, DINO), batch_size=_BATCH, resolutions=(RESOLUTION,))
    return toy.changed(
        run={
            "out": options.out,
            "seed": seed,
            "checkpoint_every": max(1, options.steps // 4),
            "keep_checkpoints": 1,
        },
        data={"scenes": options.views},
        student={"backbone": vit_config("tiny", embed_dim=96, depth=4)},
        teachers={name: toy.teachers[name] for name in (CLIP, DINO)},
        stages=(StageConfig(steps=options.steps, groups=(group,)),),
        targets={"cached_views": options.views, "cache_dir": options.out / "cache"},
        optim={"warmup_steps": min(_LONGEST_WARMUP, options.steps // 8)},
        engine={"device": device},
    )


def fill_ablation(
    results: AblationResults,
    options: AblationOptions,
    filling: Filling,
    written: Callable[[], object],
) -> None:
    """Train and measure all students, seed by seed: an unfinished table compares all its rows."""
    table, device = results.table, choose_device(options.device)
    with rich_progress(filling.console) as progress:
        tasks = {
            size: toy_tasks(options.out / "data", options.sizes, progress, image_size=size)
            for size in {m.image_size for m in table.metrics.values() if isinstance(m, Score)}
        }
    jobs = [(seed, name) for seed in range(options.seeds) for name in table.variants]
    for number, (seed, name) in enumerate(jobs, start=1):
        variant = table.variants[name]
        label = f"{number} of {len(jobs)}, {variant.title}, seed {seed}"
        config = short_recipe(options, seed, str(device))
        config = config if variant.change is None else variant.change(config)
        identity = training_identity(config)
        folder = options.out / "students" / digest(identity)
        run = config.changed(run={"out": folder, "resume": folder.exists()})
        if not (folder / "student").is_dir():
            filling.forget(folder.name, "training")
        try:
            make = partial(_train, run, label, filling)
            filling.cell(folder.name, "training", identity, make)
        except NonFiniteLossError as error:
            results.failures[name, seed] = str(error)
            continue
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        for metric_name, metric in table.metrics.items():
            if isinstance(metric, Logged):
                value = metric.read(folder / METRICS_FILE)
            else:
                task = tasks[metric.image_size][metric.task]
                whole = {"student": identity, **task.identity()}
                column = f"{metric.task}-{metric.image_size}-{digest(whole)}"
                make = partial(_score, folder / "student", task, metric, label, filling, device)
                value = filling.cell(folder.name, column, whole, make).value
            if value is not None:
                results.values.setdefault(name, {}).setdefault(metric_name, {})[seed] = value
        written()


def training_identity(config: TrainConfig) -> Json:
    """All that decides what a training gives."""
    sources = [teacher.source for teacher in config.teachers.values()]
    teachers = {source: _teacher_weights(source) for source in sources}
    return {"version": radio_core.__version__, "config": settings(config), "teachers": teachers}


@cache
def _teacher_weights(source: str) -> str:
    return load_teacher(source).fingerprint()


def _train(config: TrainConfig, label: str, filling: Filling) -> Cell:
    filling.announce(f"{label}: training")
    result = train(config, filling.console)
    if result.student is None:
        filling.console.print("the same radio paper command goes on from there")
        raise KeyboardInterrupt
    return Cell(result={"steps": result.step})


def _score(
    student: Path, task: Task, metric: Score, label: str, filling: Filling, device: torch.device
) -> Cell:
    filling.announce(f"{label}: {metric.title}")
    return filling.run(task, open_model(str(student), device=device), label)
