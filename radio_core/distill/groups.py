"""The parts of a training config: teachers, the groups that they form, and stages of groups."""

import math
from dataclasses import dataclass, field
from typing import Literal

from radio_core.models.backbone import BackboneConfig

Normalization = Literal["none", "standard", "global", "phi_s"]
Size = tuple[int, int]
"""(height, width) in pixels, or (rows, columns) of a grid."""

MAX_ASPECT = 8.0
"""Most elongated input that a group may ask for."""


@dataclass(frozen=True, kw_only=True)
class TeacherConfig:
    """One teacher of a run; the key in `TrainConfig.teachers` names the student's adaptor.

    Attributes:
        source: what `radio_core.load_teacher` takes, e.g. "toy-clip".
        summary_weight: factor of the summary loss (paper: 1 for CLIP and DINOv2, 0 for SAM).
        feature_weight: factor of the feature loss; 0 leaves the features unsupervised.
        summary_loss: "cosine", "mse", "l1", "smooth_l1" (quadratic below 1), or another name.
        feature_loss: also "mixed", alpha * cosine + beta * smooth-L1 (paper eq. 3).
        normalization: of this teacher's features; None for the run's.
        summary_normalization: of this teacher's summary.
        upsample: the student's feature head gives a map this many times finer than its grid.
    """

    source: str
    summary_weight: float = 1.0
    feature_weight: float = 1.0
    summary_loss: str = "cosine"
    feature_loss: str = "mixed"
    normalization: Normalization | None = None
    summary_normalization: Normalization = "none"
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
        resolutions: sides in pixels of the student's input; a step draws one.
        rate: share of the steps of its stage, relative to the other groups; where every step
            runs all groups, the weight of its gradient.
        rank_share: where every step runs all groups, its share of the processes, relative to the
            other groups; None for `rate` (the paper). No result depends on it.
        window_sizes: attention windows in patches to draw from; empty for global attention only.
        window_probability: share of the steps that use a window, of those whose shape is tiled by
            one of `window_sizes`.
        teacher_sizes: teacher -> side in pixels of its input in this group, where that is not its
            own; the teacher must take several sizes.
        mosaics: teacher -> k: k x k images of the batch are tiled into one input of that teacher,
            and its features are compared tile by tile.
        max_aspect: a step draws height : width within [1 / max_aspect, max_aspect], at about the
            area of the resolution's square; 1 for squares only.
    """

    teachers: tuple[str, ...]
    batch_size: int
    resolutions: tuple[int, ...]
    rate: float = 1.0
    rank_share: float | None = None
    window_sizes: tuple[int, ...] = ()
    window_probability: float = 0.0
    teacher_sizes: dict[str, int] = field(default_factory=dict, hash=False)
    mosaics: dict[str, int] = field(default_factory=dict, hash=False)
    max_aspect: float = 1.0

    def __post_init__(self) -> None:
        if not self.teachers:
            raise ValueError("a group needs at least one teacher")
        share = 1 if self.rank_share is None else self.rank_share
        for is_wrong, what in (
            (not self.resolutions or min(self.resolutions) < 1, "resolutions must be positive"),
            (self.batch_size < 1 or self.rate <= 0, "batch_size and rate must be positive"),
            (share <= 0, "rank_share must be positive"),
            (not 0 <= self.window_probability <= 1, "window_probability must be in [0, 1]"),
            (min(self.window_sizes, default=1) < 1, "window_sizes must be positive"),
            (not 1 <= self.max_aspect <= MAX_ASPECT, f"max_aspect must be in [1, {MAX_ASPECT}]"),
        ):
            if is_wrong:
                raise ValueError(f"group {self.name}: {what}")
        for name, least in (("teacher_sizes", 1), ("mosaics", 2)):
            for teacher, value in getattr(self, name).items():
                if teacher not in self.teachers:
                    raise ValueError(
                        f"group {self.name}: {name}: {teacher!r} is not a teacher of the group; "
                        f"known: {', '.join(self.teachers)}"
                    )
                if value < least:
                    raise ValueError(
                        f"group {self.name}: {name}: {teacher} must be at least {least}, "
                        f"not {value}"
                    )
        for teacher, side in self.mosaics.items():
            if self.batch_size % side**2:
                raise ValueError(
                    f"group {self.name}: mosaics: batch_size {self.batch_size} is not a multiple "
                    f"of the {side**2} images in a mosaic of teacher {teacher}"
                )

    @property
    def name(self) -> str:
        """Teachers and resolutions, e.g. "clip+dino_v2@64" or "sam@96,128"."""
        return f"{'+'.join(self.teachers)}@{','.join(map(str, self.resolutions))}"

    def shapes(self, step: int, resolution: int | None = None) -> list[Size]:
        """Every (height, width) in pixels that a step of the group can have, from wide to tall.

        Args:
            step: both sides are multiples of it.
            resolution: only those with about the area of this side's square.
        """
        found: list[Size] = []
        for side in self.resolutions if resolution is None else (resolution,):
            cells = side // step
            tall = {(cells, cells)}
            for rows in range(cells + 1, math.floor(cells * self.max_aspect) + 1):
                cols = max(round(cells * cells / rows), 1)
                if rows <= cols * self.max_aspect:
                    tall.add((rows, cols))
            grids = tall | {(cols, rows) for rows, cols in tall}
            ordered = sorted(grids, key=lambda grid: grid[0] / grid[1])
            found += [(rows * step, cols * step) for rows, cols in ordered]
        return found

    def check_student(self, student: BackboneConfig) -> None:
        """Refuse resolutions and windows that the student cannot take.

        Raises:
            ValueError: naming the nearest resolution, or the window that tiles no grid.
        """
        step, patch = student.resolution_step, student.patch_size
        for resolution in self.resolutions:
            if resolution % step:
                what = "patch size" if step == patch else "resolution step"
                nearest = max(round(resolution / step), 1) * step
                raise ValueError(
                    f"group {self.name}: resolution {resolution} is not a multiple of the "
                    f"student's {what} {step}; nearest: {nearest}"
                )
        if self.window_sizes and not student.supports_windows:
            raise ValueError(
                f"group {self.name}: window_sizes are for students with a windowed mode; this one "
                f"({student.type}) has none: leave them empty"
            )
        shapes = self.shapes(step)
        for window in self.window_sizes:
            if not any(tiles(window, size, patch) for size in shapes):
                grids = [" x ".join(str(side // patch) for side in size) for size in shapes]
                raise ValueError(
                    f"group {self.name}: windows of {window} patches tile no grid of the group "
                    f"({', '.join(dict.fromkeys(grids))})"
                )


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """A stretch of the run with fixed groups.

    Attributes:
        steps: optimizer steps.
        groups: the groups of teachers.
        groups_per_step: "one" draws a group by rate at each step. "all" runs every group at each
            step; the gradient is then sum_g r_g G_g / sum_g r_g, where G_g is the gradient of the
            mean loss over group g's batch and r_g its rate. That is the average over processes
            of paper section 4, where a group has processes in proportion to its rate.
        lr: peak learning rate of this stage; None for the run's.
        weight_decay: of this stage; None for the run's.
    """

    steps: int
    groups: tuple[GroupConfig, ...]
    groups_per_step: Literal["one", "all"] = "one"
    lr: float | None = None
    weight_decay: float | None = None

    def __post_init__(self) -> None:
        if self.steps < 1 or not self.groups:
            raise ValueError("a stage needs at least one step and one group")
        if self.lr is not None and not self.lr > 0:
            raise ValueError(f"the lr of a stage must be positive, not {self.lr}")
        if self.weight_decay is not None and self.weight_decay < 0:
            raise ValueError(f"weight_decay must not be negative, but it is {self.weight_decay}")

    @property
    def all_groups(self) -> bool:
        """True where every step runs all groups."""
        return self.groups_per_step == "all"


def tiles(window: int, size: Size, patch_size: int) -> bool:
    """True if windows of so many patches tile an image of (height, width) pixels."""
    return all(side // patch_size % window == 0 for side in size)
