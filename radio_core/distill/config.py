"""What a training run is: one typed, validated, serialisable config, in sections.

Losses and balancers are named as `radio_core.registry.Registry` finds them: by an entry point, or
as "module:attribute" of people's own code.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal

import tyro
from torch import Tensor

from radio_core.config_file import to_mapping
from radio_core.distill.balancing import Balancer
from radio_core.distill.groups import GroupConfig, Normalization, StageConfig, TeacherConfig
from radio_core.models.backbone import BackboneConfig
from radio_core.registry import Registry

CacheDtype = Literal["float16", "int8", "float32"]


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """How a run is carried out and where.

    Attributes:
        out: folder of the run: config.yaml, metrics.jsonl, checkpoints/, student/.
        seed: of weights, data order, crops and everything else that is random.
        max_steps: stop after so many steps, without changing the schedule; None for all.
        checkpoint_every: steps between checkpoints.
        keep_checkpoints: older ones are removed.
        log_every: steps between rows of metrics.jsonl.
        resume: go on from the newest checkpoint in `out`.
        override: resume although fields differ that change the result.
        dry_run: print the resolved config and the plan, and stop.
    """

    out: Path = Path("runs/radio")
    seed: int = 0
    max_steps: int | None = None
    checkpoint_every: int = 500
    keep_checkpoints: int = 2
    log_every: int = 10
    resume: bool = False
    override: bool = False
    dry_run: bool = False

    def __post_init__(self) -> None:
        _check_least(1, self, "checkpoint_every", "keep_checkpoints", "log_every")
        _check_least(0, self, "seed")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The images.

    Attributes:
        sources: one or more of "toyworld", a folder of images (searched at any depth),
            "shards:PATTERN[#ending]" (tar archives, on disk or behind http), "hf:PATH_OR_ID
            [@split][#column]" (a Hugging Face dataset), "parquet:PATTERN[#column]", and whatever
            else `radio_core.data.sources` opens.
        weights: how often a sample comes from which of several sources; by default in proportion
            to their numbers of images.
        scenes: toy world only: number of scenes.
        crop_scale: smallest and largest share of an image's area in a random crop.
        cache: folder of the indexes of data and of fetched shards; by default "radio" in the
            user's cache folder.
        cache_gb: what fetched shards may take of it.
        refresh_index: list folders and count shards anew, although that was kept.
    """

    sources: tuple[str, ...] = ("toyworld",)
    weights: tuple[float, ...] = ()
    scenes: int = 6000
    crop_scale: tuple[float, float] = (0.4, 1.0)
    cache: Path | None = None
    cache_gb: float = 50.0
    refresh_index: bool = False

    def __post_init__(self) -> None:
        _check_least(1, self, "scenes")
        if isinstance(self.sources, str) or not self.sources or "" in self.sources:
            raise ValueError(f"data sources must be one or more names, not {self.sources!r}")
        if self.weights and len(self.weights) != len(self.sources):
            raise ValueError(
                f"{len(self.weights)} data weights for {len(self.sources)} sources of data "
                f"({', '.join(self.sources)}): give one for each"
            )
        if self.weights and not (min(self.weights) > 0 and math.isfinite(sum(self.weights))):
            raise ValueError(f"data weights {self.weights} must be positive numbers")
        if not self.cache_gb > 0:
            raise ValueError(f"data cache_gb must be positive, not {self.cache_gb}")
        if not 0 < self.crop_scale[0] <= self.crop_scale[1] <= 1:
            raise ValueError(f"crop_scale {self.crop_scale} must satisfy 0 < low <= high <= 1")


@dataclass(frozen=True, kw_only=True)
class StudentConfig:
    """The network that is trained.

    Attributes:
        backbone: its shape; the number of its summary tokens follows from the teachers.
        init_from: a release, a folder or file of a model, or a hub id to start from: the student
            takes over what fits; None for fresh weights.
        spectral: spectral reparametrisation of its linear layers, folded on save.
        dtype: of the saved weights.
    """

    backbone: BackboneConfig
    init_from: str | None = None
    spectral: bool = False
    dtype: Literal["float32", "float16"] = "float32"


@dataclass(frozen=True, kw_only=True)
class TargetsConfig:
    """What the student is to imitate: the teachers' outputs, as they are stored and normalised.

    Attributes:
        cached_views: fixed crops whose teacher outputs are computed once; 0 runs the teachers
            on fresh crops at every step.
        cache_dtype: how features are stored: "int8" has one scale and one offset for each channel
            of a view, half the bytes of "float16". Summaries are float16 beside both.
        cache_downsample: features are averaged over squares of so many cells before they are
            stored; 1 for all of them.
        cache_dir: where cached outputs live; by default in the run's folder.
        normalization: what the loss sees of teacher features: "standard" gives each channel zero
            mean and unit variance, "global" zero mean and one scale for all of them, "phi_s" a
            rotation besides, after which all have unit variance. The inverse is folded into the
            saved heads.
        statistics_views: views that the statistics are taken from.
        offload: keep teachers in CPU memory while another group has its turn.
    """

    cached_views: int = 0
    cache_dtype: CacheDtype = "float16"
    cache_downsample: int = 1
    cache_dir: Path | None = None
    normalization: Normalization = "standard"
    statistics_views: int = 512
    offload: bool = False

    def __post_init__(self) -> None:
        _check_least(0, self, "cached_views")
        _check_least(1, self, "statistics_views")
        if not 1 <= self.cache_downsample <= 16:
            raise ValueError(f"cache_downsample must be from 1 to 16, not {self.cache_downsample}")


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """How the losses of all teachers come together.

    Attributes:
        balancing: weights of the loss terms against each other (paper 3.4.1): "naive" takes the
            teachers' fixed weights alone; "uncertainty", "ada_loss" and "amtml_kd" have weights
            of their own besides, which are logged; or another name.
        teacher_dropping: probability of leaving out each teacher of a group at a step; one always
            stays.
        alpha: weight of the cosine distance in feature_loss "mixed" (paper eq. 3).
        beta: weight of smooth-L1 in feature_loss "mixed" (paper eq. 3).
    """

    balancing: str = "naive"
    teacher_dropping: float = 0.0
    alpha: float = 0.9
    beta: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.teacher_dropping < 1:
            raise ValueError(f"teacher_dropping must be in [0, 1), not {self.teacher_dropping}")
        if min(self.alpha, self.beta) < 0 or max(self.alpha, self.beta) == 0:
            raise ValueError("alpha and beta must not be negative, nor both zero")


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW, its schedule, and the average of the weights.

    Attributes:
        lr: peak learning rate.
        weight_decay: of matrices; vectors and biases have none.
        warmup_steps: linear rise of the learning rate before the cosine decay.
        clip_grad: largest gradient norm.
        ema: decay of the moving average of the weights, e.g. 0.9999; the saved student is then
            the average. None for no average.
    """

    lr: float = 1e-3
    weight_decay: float = 0.02
    warmup_steps: int = 100
    clip_grad: float = 1.0
    ema: float | None = None

    def __post_init__(self) -> None:
        _check_least(0, self, "weight_decay", "warmup_steps")
        if not self.lr > 0 or not self.clip_grad > 0:
            raise ValueError("lr and clip_grad must be positive")
        if self.ema is not None and not 0 < self.ema < 1:
            raise ValueError(f"ema must be between 0 and 1, e.g. 0.9999, not {self.ema}")


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """How the networks are executed; apart from `precision`, no result is meant to depend on it.

    Attributes:
        device: "auto" takes a GPU where there is one.
        precision: "bf16" is automatic mixed precision on a GPU, of the student and of teachers
            that run beside it; a cache is filled in float32.
        accumulate: micro-batches that each batch of a process is cut into, to save memory; the
            gradient is that of the whole batch.
        activation_checkpointing: recompute the blocks in the backward pass, to save memory.
        compile: torch.compile the student's blocks.
        parallel: with several processes, "ddp" keeps the whole student in each of them, "fsdp"
            shards its weights and the optimizer's state over them.
        rank_timeout: seconds after which a process that does not answer ends the run.
        workers: processes that read and crop images; 0 for none.
        threads: CPU threads of torch; None leaves its default.
    """

    device: str = "auto"
    precision: Literal["fp32", "bf16"] = "fp32"
    accumulate: int = 1
    activation_checkpointing: bool = False
    compile: bool = False
    parallel: Literal["ddp", "fsdp"] = "ddp"
    rank_timeout: int = 600
    workers: int = 0
    threads: int | None = None

    def __post_init__(self) -> None:
        _check_least(1, self, "accumulate", "rank_timeout")
        _check_least(0, self, "workers")
        if self.threads is not None:
            _check_least(1, self, "threads")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A whole training run.

    Attributes:
        recipe: name of the recipe that it came from.
        run: folder, seed, length, checkpoints.
        data: the images.
        student: the network.
        teachers: adaptor name -> teacher.
        stages: run one after the other.
        targets: the teachers' outputs.
        loss: how losses come together.
        optim: optimizer and schedule.
        engine: devices, precision, processes.
    """

    recipe: str = ""
    run: tyro.conf.OmitArgPrefixes[RunConfig] = field(default_factory=RunConfig)
    data: DataConfig = field(default_factory=DataConfig)
    student: StudentConfig
    teachers: dict[str, TeacherConfig]
    stages: tuple[StageConfig, ...]
    targets: TargetsConfig = field(default_factory=TargetsConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)

    def __post_init__(self) -> None:
        for group in self.groups:
            self._check_group(group)
        taught = {name for group in self.groups for name in group.teachers}
        idle = [name for name in self.teachers if name not in taught]
        if idle:
            raise ValueError(
                f"teacher {idle[0]!r} is in no group of any stage: its heads would stay untrained"
            )
        for teacher in self.teachers.values():
            LOSSES.load(teacher.summary_loss)
            LOSSES.load(teacher.feature_loss)
        balancer = BALANCERS.load(self.loss.balancing)
        if all(len(group.teachers) == 1 for group in self.groups):
            if self.loss.teacher_dropping > 0:
                raise ValueError("teacher_dropping has no effect: no group has two teachers")
            if balancer.between_teachers:
                raise ValueError(
                    f'balancing "{self.loss.balancing}" weighs the teachers of a group, but no '
                    'group has two; use "naive", "uncertainty" or "ada_loss"'
                )
        steps = self.run.max_steps
        if steps is not None and not 1 <= steps <= self.total_steps:
            raise ValueError(
                f"max_steps must be in 1 … {self.total_steps} (the steps of this recipe), not "
                f"{steps}; lengthen the recipe with --stages.N.steps"
            )

    def _check_group(self, group: GroupConfig) -> None:
        unknown = [name for name in group.teachers if name not in self.teachers]
        if unknown:
            raise ValueError(
                f"group {group.name}: unknown teacher {unknown[0]!r}; "
                f"known: {', '.join(self.teachers)}"
            )
        group.check_student(self.student.backbone)
        asked = {
            "teacher_sizes": bool(group.teacher_sizes),
            "mosaics": bool(group.mosaics),
            "max_aspect": group.max_aspect > 1,
        }
        for name, is_asked in asked.items():
            if self.targets.cached_views and is_asked:
                raise ValueError(
                    f"group {group.name}: {name} needs teachers that run at every step, but the "
                    "cache holds their outputs on fixed squares: set cached_views to 0"
                )
        for name in group.mosaics:
            if self.teachers[name].summary_weight > 0:
                raise ValueError(
                    f"group {group.name}: mosaics: the summary of a mosaic means nothing: set "
                    f"summary_weight of teacher {name} to 0"
                )

    @property
    def groups(self) -> list[GroupConfig]:
        """The groups of all stages."""
        return [group for stage in self.stages for group in stage.groups]

    @property
    def total_steps(self) -> int:
        """Length of the schedule."""
        return sum(stage.steps for stage in self.stages)

    @property
    def last_step(self) -> int:
        """Where the run ends: `max_steps` or the end of the schedule."""
        return self.total_steps if self.run.max_steps is None else self.run.max_steps

    def changed(self, **changes: Any) -> "TrainConfig":
        """A copy with other values.

        Args:
            changes: field -> value; for a section also its changed fields, as in
                `changed(run={"seed": 1}, optim={"lr": 1e-4})`.
        """
        values = {}
        for name, value in changes.items():
            section = getattr(self, name)
            merge = is_dataclass(section) and not is_dataclass(value)
            values[name] = replace(section, **value) if merge else value
        return replace(self, **values)


Loss = Callable[[Tensor, Tensor, LossConfig], Tensor]
"""Called as loss(student, teacher, section) with outputs of one shape, [B, D] or [B, C, h, w];
gives a scalar, the mean over the samples."""
LOSSES: Registry[Loss] = Registry("radio.losses", "loss")
BALANCERS: Registry[type[Balancer]] = Registry("radio.balancers", "balancer")

RUN_CONTROL = frozenset(
    {f"run.{f.name}" for f in fields(RunConfig)} - {"run.seed"}
    | {f"engine.{f.name}" for f in fields(EngineConfig)} - {"engine.precision"}
    | {"data.cache", "data.cache_gb", "data.refresh_index", "student.dtype"}
    | {"targets.cache_dir", "targets.offload"}
)
"""Fields that say how a run is carried out, not what it computes: free to change on --resume."""


def settings(config: TrainConfig) -> dict[str, Any]:
    """The fields that decide about the result, as plain values."""
    plain: dict[str, Any] = to_mapping(config)
    for name in RUN_CONTROL:
        section, _, field_name = name.partition(".")
        del plain[section][field_name]
    return plain


def _check_least(least: int, section: object, *names: str) -> None:
    for name in names:
        value = getattr(section, name)
        if value < least:
            what = f"be at least {least}" if least else "not be negative"
            raise ValueError(f"{name} must {what}, but it is {value}")
