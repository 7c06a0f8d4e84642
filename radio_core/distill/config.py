"""What a training run is: one typed, validated, serialisable config."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from radio_core.distill.group_config import (
    Balancing,
    GroupConfig,
    Normalization,
    StageConfig,
    TeacherConfig,
)
from radio_core.distill.shapes import check_cacheable, check_student
from radio_core.models.backbone import BackboneConfig

__all__ = [
    "RUN_CONTROL",
    "CacheDtype",
    "GroupConfig",
    "StageConfig",
    "TeacherConfig",
    "TrainConfig",
]

CacheDtype = Literal["float16", "int8", "float32"]


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A whole training run.

    Attributes:
        recipe: name of the recipe that it came from.
        out: folder of the run: config.yaml, metrics.jsonl, checkpoints/, student/.
        data: one or more of "toyworld", a folder of images (searched at any depth),
            "shards:PATTERN[#ending]" (tar archives, on disk or behind http), "hf:PATH_OR_ID
            [@split][#column]" (a Hugging Face dataset) and "parquet:PATTERN[#column]".
        data_weights: how often a sample comes from which of several sources; by default in
            proportion to their numbers of images.
        data_cache: folder of the indexes of data and of fetched shards; by default "radio" in the
            user's cache folder.
        data_cache_gb: what fetched shards may take of it.
        refresh_index: list folders and count shards anew, although that was kept.
        scenes: toy world only: number of scenes.
        crop_scale: smallest and largest share of an image's area in a random crop.
        student: shape of the student; its class tokens follow from the teachers.
        init_from: a release, a folder or file of a model, or a hub id to start from: the student
            takes over what fits; None for fresh weights.
        spectral: spectral reparametrisation of the student's linear layers, folded on save.
        teachers: adaptor name -> teacher.
        stages: run one after the other.
        cached_views: fixed crops whose teacher outputs are computed once; 0 runs the teachers
            on fresh crops at every step.
        cache_dtype: how features are stored: "int8" has one scale and one offset for each channel
            of a view, half the bytes of "float16". Summaries are float16 beside both.
        cache_downsample: features are averaged over squares of so many cells before they are
            stored; 1 for all of them.
        cache_dir: where cached outputs live; by default in `out`.
        balancing: how the losses of all teachers are weighed against each other (paper 3.4.1):
            "naive" by the teachers' fixed weights alone; "uncertainty", "ada_loss" and "amtml_kd"
            by weights of their own besides, which are logged.
        teacher_dropping: probability of leaving out each teacher of a group at a step; one always
            stays.
        normalization: what the loss sees of teacher features: "standard" gives each channel zero
            mean and unit variance, "global" zero mean and one scale for all of them, "phi_s" a
            rotation besides, after which all have unit variance. The inverse is folded into the
            saved heads.
        statistics_views: views that the statistics are taken from.
        alpha: weight of the cosine distance in feature_loss "mixed" (paper eq. 3).
        beta: weight of smooth-L1 in feature_loss "mixed" (paper eq. 3).
        lr: peak learning rate of AdamW.
        weight_decay: of matrices; vectors and biases have none.
        warmup_steps: linear rise of the learning rate before the cosine decay.
        clip_grad: largest gradient norm.
        accumulate: micro-batches that each batch of a process is cut into, to save memory; the
            gradient is that of the whole batch.
        ema: decay of the moving average of the weights, e.g. 0.9999; the saved student is then
            the average. None for no average.
        activation_checkpointing: recompute the blocks in the backward pass, to save memory.
        compile: torch.compile the student's blocks.
        parallel: with several processes, "ddp" keeps the whole student in each of them, "fsdp"
            shards its weights and the optimizer's state over them.
        offload_teachers: keep teachers in CPU memory while another group has its turn.
        rank_timeout: seconds after which a process that does not answer ends the run.
        max_steps: stop after so many steps, without changing the schedule; None for all.
        seed: of weights, data order, crops and everything else that is random.
        checkpoint_every: steps between checkpoints.
        keep_checkpoints: older ones are removed.
        log_every: steps between rows of metrics.jsonl.
        workers: processes that read and crop images; 0 for none.
        threads: CPU threads of torch; None leaves its default.
        device: "auto" takes a GPU where there is one.
        precision: "bf16" is automatic mixed precision on a GPU, of the student and of teachers
            that run beside it; a cache is filled in float32.
        student_dtype: of the saved student's weights.
        resume: go on from the newest checkpoint in `out`.
        override: resume although other fields than run control differ.
        dry_run: print the resolved config and the plan, and stop.
    """

    recipe: str = ""
    out: Path = Path("runs/radio")
    data: tuple[str, ...] = ("toyworld",)
    data_weights: tuple[float, ...] = ()
    data_cache: Path | None = None
    data_cache_gb: float = 50.0
    refresh_index: bool = False
    scenes: int = 6000
    crop_scale: tuple[float, float] = (0.4, 1.0)
    student: BackboneConfig
    init_from: str | None = None
    spectral: bool = False
    teachers: dict[str, TeacherConfig]
    stages: tuple[StageConfig, ...]
    cached_views: int = 0
    cache_dtype: CacheDtype = "float16"
    cache_downsample: int = 1
    cache_dir: Path | None = None
    balancing: Balancing = "naive"
    teacher_dropping: float = 0.0
    normalization: Normalization = "standard"
    statistics_views: int = 512
    alpha: float = 0.9
    beta: float = 0.1
    lr: float = 1e-3
    weight_decay: float = 0.02
    warmup_steps: int = 100
    clip_grad: float = 1.0
    accumulate: int = 1
    ema: float | None = None
    activation_checkpointing: bool = False
    compile: bool = False
    parallel: Literal["ddp", "fsdp"] = "ddp"
    offload_teachers: bool = False
    rank_timeout: int = 600
    max_steps: int | None = None
    seed: int = 0
    checkpoint_every: int = 500
    keep_checkpoints: int = 2
    log_every: int = 10
    workers: int = 0
    threads: int | None = None
    device: str = "auto"
    precision: Literal["fp32", "bf16"] = "fp32"
    student_dtype: Literal["float32", "float16"] = "float32"
    resume: bool = False
    override: bool = False
    dry_run: bool = False

    def __post_init__(self) -> None:
        for stage in self.stages:
            for group in stage.groups:
                self._check_group(group)
        taught = {name for stage in self.stages for g in stage.groups for name in g.teachers}
        idle = [name for name in self.teachers if name not in taught]
        if idle:
            raise ValueError(
                f"teacher {idle[0]!r} is in no group of any stage: its heads would stay untrained"
            )
        positive = ("scenes", "checkpoint_every", "keep_checkpoints", "log_every", "accumulate")
        for name in (*positive, "statistics_views", "rank_timeout"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.max_steps is not None and not 1 <= self.max_steps <= self.total_steps:
            raise ValueError(
                f"max_steps must be in 1 … {self.total_steps} (the steps of this recipe), not "
                f"{self.max_steps}; lengthen the recipe with --stages.N.steps"
            )
        if not 1 <= self.cache_downsample <= 16:
            raise ValueError(f"cache_downsample must be from 1 to 16, not {self.cache_downsample}")
        for name in ("cached_views", "warmup_steps", "seed", "workers", "weight_decay"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, but it is {getattr(self, name)}")
        if not self.lr > 0 or not self.clip_grad > 0:
            raise ValueError("lr and clip_grad must be positive")
        if self.ema is not None and not 0 < self.ema < 1:
            raise ValueError(f"ema must be between 0 and 1, e.g. 0.9999, not {self.ema}")
        self._check_teacher_choice()
        if min(self.alpha, self.beta) < 0 or max(self.alpha, self.beta) == 0:
            raise ValueError("alpha and beta must not be negative, nor both zero")
        self._check_data()
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"threads must be at least 1, not {self.threads}")

    def _check_data(self) -> None:
        if isinstance(self.data, str) or not self.data or "" in self.data:
            raise ValueError(f"data must be one or more names of sources, not {self.data!r}")
        if self.data_weights and len(self.data_weights) != len(self.data):
            raise ValueError(
                f"{len(self.data_weights)} data_weights for {len(self.data)} sources of data "
                f"({', '.join(self.data)}): give one for each"
            )
        if self.data_weights and not (
            min(self.data_weights) > 0 and math.isfinite(sum(self.data_weights))
        ):
            raise ValueError(f"data_weights {self.data_weights} must be positive numbers")
        if not self.data_cache_gb > 0:
            raise ValueError(f"data_cache_gb must be positive, not {self.data_cache_gb}")
        if not 0 < self.crop_scale[0] <= self.crop_scale[1] <= 1:
            raise ValueError(f"crop_scale {self.crop_scale} must satisfy 0 < low <= high <= 1")

    def _check_teacher_choice(self) -> None:
        """Refuse what would choose among teachers where there is never more than one."""
        if not 0 <= self.teacher_dropping < 1:
            raise ValueError(f"teacher_dropping must be in [0, 1), not {self.teacher_dropping}")
        alone = all(len(g.teachers) == 1 for stage in self.stages for g in stage.groups)
        if alone and self.teacher_dropping > 0:
            raise ValueError("teacher_dropping has no effect: no group has two teachers")
        if alone and self.balancing == "amtml_kd":
            raise ValueError(
                'balancing "amtml_kd" weighs the teachers of a group, but no group has two; '
                'use "naive", "uncertainty" or "ada_loss"'
            )

    def _check_group(self, group: GroupConfig) -> None:
        unknown = [name for name in group.teachers if name not in self.teachers]
        if unknown:
            raise ValueError(
                f"group {group.name}: unknown teacher {unknown[0]!r}; "
                f"known: {', '.join(self.teachers)}"
            )
        check_student(group, self.student)
        if group.window_sizes and not self.student.supports_windows:
            raise ValueError(
                f"group {group.name}: window_sizes are for students with a windowed mode; this one "
                f"({self.student.type}) has none: leave them empty"
            )
        if self.cached_views:
            check_cacheable(group)
        for name in group.mosaics:
            if self.teachers[name].summary_weight > 0:
                raise ValueError(
                    f"group {group.name}: mosaics: the summary of a mosaic means nothing: set "
                    f"summary_weight of teacher {name} to 0"
                )

    @property
    def total_steps(self) -> int:
        """Length of the schedule."""
        return sum(stage.steps for stage in self.stages)

    @property
    def last_step(self) -> int:
        """Where the run ends: `max_steps` or the end of the schedule."""
        return self.total_steps if self.max_steps is None else self.max_steps


# Fields that say how a run is carried out, not what it computes: free to change on --resume.
RUN_CONTROL = frozenset(
    {"out", "cache_dir", "max_steps", "checkpoint_every", "keep_checkpoints", "log_every"}
    | {"workers", "threads", "device", "student_dtype", "resume", "override", "dry_run"}
    | {"data_cache", "data_cache_gb", "refresh_index"}
    | {"accumulate", "activation_checkpointing", "compile", "parallel", "offload_teachers"}
    | {"rank_timeout"}
)
