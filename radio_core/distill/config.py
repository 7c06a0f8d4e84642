"""What a training run is: one typed, validated, serialisable config."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from radio_core.models.vit import ViTConfig


@dataclass(frozen=True, kw_only=True)
class TeacherConfig:
    """One teacher of a run; the key in `TrainConfig.teachers` names the student's adaptor.

    Attributes:
        source: what `radio_core.teachers.load_teacher` takes, e.g. "toy-clip".
        summary_weight: factor of the summary loss (paper: 1 for CLIP and DINOv2, 0 for SAM).
        feature_weight: factor of the feature loss.
        upsample: the student's feature head gives a map this many times finer than its grid.
    """

    source: str
    summary_weight: float = 1.0
    feature_weight: float = 1.0
    upsample: int = 1

    def __post_init__(self) -> None:
        weights = (self.summary_weight, self.feature_weight)
        if min(weights) < 0 or max(weights) == 0:
            raise ValueError(
                f"teacher {self.source}: loss weights must not be negative, nor both zero"
            )


@dataclass(frozen=True, kw_only=True)
class GroupConfig:
    """Teachers that see the same batch (paper section 4, "rank/teacher partitioning").

    Attributes:
        teachers: adaptor names.
        batch_size: images a step.
        resolution: side in pixels of the student's input.
        rate: share of the steps of its stage, relative to the other groups.
        window_sizes: attention windows in patches to draw from; empty for global attention only.
        window_probability: share of the steps that use a window.
    """

    teachers: tuple[str, ...]
    batch_size: int
    resolution: int
    rate: float = 1.0
    window_sizes: tuple[int, ...] = ()
    window_probability: float = 0.0

    def __post_init__(self) -> None:
        if not self.teachers:
            raise ValueError("a group needs at least one teacher")
        if self.batch_size < 1 or self.rate <= 0:
            raise ValueError(f"group {self.name}: batch_size and rate must be positive")
        if not 0 <= self.window_probability <= 1:
            raise ValueError(f"group {self.name}: window_probability must be in [0, 1]")

    @property
    def name(self) -> str:
        """Teachers and resolution, e.g. "clip+dino_v2@64"."""
        return f"{'+'.join(self.teachers)}@{self.resolution}"


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """A stretch of the run with fixed groups.

    Attributes:
        steps: optimizer steps.
        groups: each step draws one of them by its rate.
    """

    steps: int
    groups: tuple[GroupConfig, ...]

    def __post_init__(self) -> None:
        if self.steps < 1 or not self.groups:
            raise ValueError("a stage needs at least one step and one group")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A whole training run.

    Attributes:
        recipe: name of the recipe that it came from.
        out: folder of the run: config.yaml, metrics.jsonl, checkpoints/, student/.
        data: "toyworld", or a folder of images (searched recursively).
        scenes: toy world only: number of scenes.
        crop_scale: smallest and largest share of an image's area in a random crop.
        student: shape of the student; its class tokens follow from the teachers.
        spectral: spectral reparametrisation of the student's linear layers, folded on save.
        teachers: adaptor name -> teacher.
        stages: run one after the other.
        cached_views: fixed crops whose teacher outputs are computed once; 0 runs the teachers
            on fresh crops at every step.
        cache_dir: where cached outputs live; by default in `out`.
        standardize: bring teacher features to zero mean and unit variance per channel for the
            loss; the inverse is folded into the saved heads.
        statistics_views: views that the statistics are taken from.
        alpha: weight of the cosine distance in the feature loss (paper eq. 3).
        beta: weight of smooth-L1 in the feature loss (paper eq. 3).
        lr: peak learning rate of AdamW.
        weight_decay: of matrices; vectors and biases have none.
        warmup_steps: linear rise of the learning rate before the cosine decay.
        clip_grad: largest gradient norm.
        max_steps: stop after so many steps, without changing the schedule; None for all.
        seed: of weights, data order, crops and everything else that is random.
        checkpoint_every: steps between checkpoints.
        keep_checkpoints: older ones are removed.
        log_every: steps between rows of metrics.jsonl.
        workers: processes that read and crop images; 0 for none.
        threads: CPU threads of torch; None leaves its default.
        device: "auto" takes a GPU where there is one.
        precision: "bf16" is automatic mixed precision on a GPU.
        student_dtype: of the saved student's weights.
        resume: go on from the newest checkpoint in `out`.
        override: resume although other fields than run control differ.
        dry_run: print the resolved config and the plan, and stop.
    """

    recipe: str = ""
    out: Path = Path("runs/radio")
    data: str = "toyworld"
    scenes: int = 6000
    crop_scale: tuple[float, float] = (0.4, 1.0)
    student: ViTConfig
    spectral: bool = False
    teachers: dict[str, TeacherConfig]
    stages: tuple[StageConfig, ...]
    cached_views: int = 0
    cache_dir: Path | None = None
    standardize: bool = True
    statistics_views: int = 512
    alpha: float = 0.9
    beta: float = 0.1
    lr: float = 1e-3
    weight_decay: float = 0.02
    warmup_steps: int = 100
    clip_grad: float = 1.0
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
        positive = ("scenes", "checkpoint_every", "keep_checkpoints", "log_every")
        for name in (*positive, "statistics_views"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.max_steps is not None and not 1 <= self.max_steps <= self.total_steps:
            raise ValueError(
                f"max_steps must be in 1 … {self.total_steps} (the steps of this recipe), not "
                f"{self.max_steps}; lengthen the recipe with --stages.N.steps"
            )
        for name in ("cached_views", "warmup_steps", "seed", "workers", "weight_decay"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, but it is {getattr(self, name)}")
        if not self.lr > 0 or not self.clip_grad > 0:
            raise ValueError("lr and clip_grad must be positive")
        if min(self.alpha, self.beta) < 0 or max(self.alpha, self.beta) == 0:
            raise ValueError("alpha and beta must not be negative, nor both zero")
        if not 0 < self.crop_scale[0] <= self.crop_scale[1] <= 1:
            raise ValueError(f"crop_scale {self.crop_scale} must satisfy 0 < low <= high <= 1")
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"threads must be at least 1, not {self.threads}")

    def _check_group(self, group: GroupConfig) -> None:
        unknown = [name for name in group.teachers if name not in self.teachers]
        if unknown:
            raise ValueError(
                f"group {group.name}: unknown teacher {unknown[0]!r}; "
                f"known: {', '.join(self.teachers)}"
            )
        patch = self.student.patch_size
        if group.resolution % patch:
            nearest = max(round(group.resolution / patch), 1) * patch
            raise ValueError(
                f"group {group.name}: resolution {group.resolution} is not a multiple of the "
                f"student's patch size {patch}; nearest: {nearest}"
            )
        for window in group.window_sizes:
            if group.resolution // patch % window:
                raise ValueError(
                    f"group {group.name}: windows of {window} patches do not tile a grid of "
                    f"{group.resolution // patch}"
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
)
