"""The teachers' side of a step: which ones, at which sizes, run or read from the cache."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from rich.console import Console
from torch import Tensor

from radio_core.distill.balancing import kept_teachers
from radio_core.distill.cache import CHUNK_BYTES, CONFIRM_BYTES, TeacherCache
from radio_core.distill.config import TrainConfig
from radio_core.distill.engine import autocast
from radio_core.distill.groups import GroupConfig, Size
from radio_core.distill.normalization import FeatureStatistics, OutputStatistics
from radio_core.distill.schedule import BatchPlan, Partition, StepShape
from radio_core.distill.views import Skipped, Views, to_unit
from radio_core.models.backbone import BackboneConfig
from radio_core.processes import Processes
from radio_core.progress import rich_progress
from radio_core.teachers import load_teacher
from radio_core.teachers.base import Teacher
from radio_core.vision import ModelSpec, Output

CACHE_FOLDER = "cache"
"""Of stored outputs, in the run's folder unless the config names another place."""

_STATISTICS_BATCH = 32


@dataclass
class Targets:
    """Gives the outputs of a batch's teachers.

    Attributes:
        config: the run.
        teachers: those that this process runs.
        specs: what is known of all teachers of the run, in the order of the config.
        cache: of views and teacher outputs, when the run has one; the teachers then do not run.
        device: where they run.
        processes: that share a run.
    """

    config: TrainConfig
    teachers: dict[str, Teacher]
    specs: dict[str, ModelSpec]
    cache: TeacherCache | None
    device: torch.device
    processes: Processes

    def __call__(self, batch: BatchPlan, views: Tensor, shape: StepShape) -> dict[str, Output]:
        """Outputs of the group's teachers on a batch or a part of it; dropped ones are missing.

        Args:
            batch: of one group.
            views: [B, 3, H, W] uint8, RGB.
            shape: of the student's input.
        """
        config, group = self.config, batch.group
        names = kept_teachers(
            group.teachers,
            config.loss.teacher_dropping,
            config.run.seed,
            batch.number,
            batch.index,
        )
        if self.cache is not None:
            return self.cache.outputs(batch.views, names, self.device)
        self.bring(names)
        views, outputs = views.to(self.device), {}
        for name in names:
            teacher, side = self.teachers[name], group.mosaics.get(name, 1)
            size = teacher_size(group, name, teacher.spec, shape)
            with autocast(config.engine, self.device):
                if side == 1:
                    outputs[name] = teacher(to_unit(views), size)
                else:
                    # Several views share an input, and none of them has its summary (RADIOv2.5).
                    tiles = to_unit(views, (size[0] // side, size[1] // side))
                    features = teacher(tile(tiles, side), size).features
                    outputs[name] = Output(None, untile(features, side))
        return outputs

    def bring(self, names: Sequence[str]) -> None:
        """Have the named teachers on the device; with `offload` the others make room first."""
        if self.config.targets.offload:
            for name, teacher in self.teachers.items():
                if name not in names:
                    teacher.to("cpu")
            for name in names:
                self.teachers[name].to(self.device)

    def fill_cache(self, console: Console, part: tuple[int, int] | None = None) -> list[Skipped]:
        """Fill the cache, or part (r, n) of it, and say how exact it is.

        Args:
            console: for a progress bar, and for messages.
            part: by default this process's.

        Returns:
            (path, reason) of unreadable files.
        """
        assert self.cache is not None
        part = part or (self.processes.rank, self.processes.size)
        with rich_progress(console) as progress:
            skipped = self.cache.fill(progress, part=part, workers=self.config.engine.workers)
        stored = f"stored features in {self.config.targets.cache_dtype}"
        for name, error in self.cache.errors().items():
            console.print(f"{name}: {stored} have an {error}", markup=False)
        return skipped

    def measure(self, views: Views) -> dict[str, FeatureStatistics]:
        """Statistics of the outputs that are normalised, over the first views.

        The processes that run a teacher share the views; sums are added up over all processes.
        """
        config, cache, rank = self.config, self.cache, self.processes.rank
        statistics = OutputStatistics(config, self.specs)
        if not statistics.by_output:
            return {}
        partition = Partition(config, rank, self.processes.size)
        holders = {name: partition.holders(name) for name in self.specs}
        side = view_side(config, self.specs)
        count = config.targets.statistics_views
        count = count if cache is None else min(count, cache.count)
        for turn, first in enumerate(range(0, count, _STATISTICS_BATCH)):
            mine = [n for n, held in holders.items() if held[turn % len(held)] == rank]
            if not mine:
                continue
            ids = tuple(range(first, min(first + _STATISTICS_BATCH, count)))
            if cache is not None:
                statistics.update(cache.outputs(ids, mine), ids)
                continue
            images = to_unit(torch.stack([views[(view, (side, side))][0] for view in ids]))
            for name in mine:
                self._measure_one(name, images, ids, statistics)
        statistics.reduce(self.processes)
        return statistics.by_output

    def _measure_one(
        self, name: str, images: Tensor, ids: tuple[int, ...], statistics: OutputStatistics
    ) -> None:
        """Add what a teacher says, in parts of which the features take a bounded memory."""
        self.bring((name,))
        spec = self.specs[name]
        groups = [group for group in self.config.groups if name in group.teachers]
        side = groups[-1].teacher_sizes.get(name, spec.input_size)  # as at the end of training
        part = max(1, CHUNK_BYTES // (4 * spec.feature_dim * (side // spec.patch_size) ** 2))
        for first in range(0, len(ids), part):
            chosen = slice(first, min(first + part, len(ids)))
            with autocast(self.config.engine, self.device):
                output = self.teachers[name](images[chosen].to(self.device), (side, side))
            statistics.update({name: output}, ids[chosen])


def open_targets(
    config: TrainConfig,
    views: Views,
    console: Console,
    processes: Processes | None = None,
    confirmed: bool = False,
) -> Targets:
    """Open the teachers of a run; its cache is not filled yet.

    Each of several processes loads only the teachers of its groups. With a cache it loads all,
    because their weights are part of the cache's key.

    Raises:
        ValueError: a teacher cannot be opened or does not fit its group, or the cache would be
            larger than 10 GB and that was not `confirmed`.
    """
    processes = processes or Processes()
    device, cached = processes.device(config.engine.device), config.targets.cached_views > 0
    mine = (
        config.teachers if cached else Partition(config, processes.rank, processes.size).teachers()
    )
    resting = torch.device("cpu") if config.targets.offload and not cached else device
    teachers = {name: load_teacher(config.teachers[name].source).to(resting) for name in mine}
    known = processes.gather({name: teacher.spec for name, teacher in teachers.items()})
    merged = {name: spec for specs in known for name, spec in specs.items()}
    specs = {name: merged[name] for name in config.teachers}
    for group in config.groups:
        check_teachers(group, specs)
    targets = Targets(config, teachers, specs, None, device, processes)
    if cached:
        folder = config.targets.cache_dir or config.run.out / CACHE_FOLDER
        largest = max(max(group.resolutions) for group in config.groups)
        cache = targets.cache = TeacherCache(
            folder, config.targets, teachers, views, view_side(config, specs), largest
        )
        console.print(cache.describe(), markup=False)
        if cache.num_bytes > CONFIRM_BYTES and cache.done == 0 and not confirmed:
            raise ValueError(
                f"the teacher cache would take {cache.num_bytes / 1e9:.1f} GB: fill it first with "
                "`radio cache-teachers RECIPE --yes`, or make it smaller with "
                "--targets.cached-views, --targets.cache-dtype int8 or --targets.cache-downsample 2"
            )
    return targets


def tile(images: Tensor, side: int) -> Tensor:
    """Put side x side consecutive images into one picture, row by row.

    Args:
        images: [B, C, h, w], B a multiple of side**2.
        side: k, tiles along each edge of a picture.

    Returns:
        [B / k**2, C, k * h, k * w].

    Raises:
        ValueError: B is not a multiple of side**2.
    """
    if len(images) % side**2:
        raise ValueError(
            f"{len(images)} images do not fill mosaics of {side} x {side}: the batch size must be "
            f"a multiple of {side**2}"
        )
    tiles = images.unflatten(0, (-1, side, side))  # [P, k, k, C, h, w]
    pictures: Tensor = tiles.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)
    return pictures


def untile(features: Tensor, side: int) -> Tensor:
    """The tiles of the feature maps of mosaics, in the order of the images; inverse of `tile`.

    Args:
        features: [P, F, k * h, k * w].
        side: k.

    Returns:
        [P * k**2, F, h, w].
    """
    grid = features.unflatten(3, (side, -1)).unflatten(2, (side, -1))  # [P, F, k, h, k, w]
    tiles: Tensor = grid.permute(0, 2, 4, 1, 3, 5).flatten(0, 2)
    return tiles


def teacher_size(group: GroupConfig, name: str, spec: ModelSpec, shape: StepShape) -> Size:
    """(height, width) in pixels of a teacher's input at a step.

    The square of the group's `teacher_sizes`, or else the teacher's own. A flexible teacher takes
    the student's aspect ratio instead of the square, at about the same area.
    """
    side = group.teacher_sizes.get(name, spec.input_size)
    if shape.height == shape.width or not spec.flexible:
        return side, side
    unit = math.lcm(spec.step, spec.patch_size * group.mosaics.get(name, 1))
    stretch = math.sqrt(shape.height / shape.width)
    rows, cols = (max(round(side * factor / unit), 1) for factor in (stretch, 1 / stretch))
    return rows * unit, cols * unit


def view_size(group: GroupConfig, specs: Mapping[str, ModelSpec], shape: StepShape) -> Size:
    """(height, width) at which the crops of a step are read: enough for everyone in the group.

    They have the student's aspect ratio; a teacher that takes squares gets them squeezed, and one
    with mosaics sees a crop as a tile.
    """
    needed = [shape.height]
    for name in group.teachers:
        tiles = group.mosaics.get(name, 1)
        rows, cols = (side // tiles for side in teacher_size(group, name, specs[name], shape))
        needed += [rows, _ceil_div(cols * shape.height, shape.width)]
    return max(needed), _ceil_div(max(needed) * shape.width, shape.height)


def largest_view(
    group: GroupConfig, specs: Mapping[str, ModelSpec], student: BackboneConfig
) -> Size:
    """The largest height and the largest width that `view_size` gives for a group."""
    shapes = [StepShape(*size) for size in group.shapes(student.resolution_step)]
    heights, widths = zip(*(view_size(group, specs, shape) for shape in shapes), strict=True)
    return max(heights), max(widths)


def view_side(config: TrainConfig, specs: Mapping[str, ModelSpec]) -> int:
    """Side in pixels of crops that are enough for every group: of the cache, and of statistics."""
    student = config.student.backbone
    return max(max(largest_view(group, specs, student)) for group in config.groups)


def check_teachers(group: GroupConfig, specs: Mapping[str, ModelSpec]) -> None:
    """Refuse input sizes and mosaics that a teacher cannot take.

    Raises:
        ValueError: naming the teacher, the field and what would fit.
    """
    for name in group.teachers:
        spec, tiles = specs[name], group.mosaics.get(name, 1)
        side = group.teacher_sizes.get(name, spec.input_size)
        try:
            spec.checked_size((side, side))
        except ValueError as error:
            raise ValueError(f"group {group.name}: teacher_sizes: {error}") from error
        if side % (spec.patch_size * tiles):
            raise ValueError(
                f"group {group.name}: mosaics: {tiles} x {tiles} tiles do not divide the grid of "
                f"{side // spec.patch_size} patches that teacher {name} makes of {side} pixels"
            )


def _ceil_div(value: int, divisor: int) -> int:
    return -(-value // divisor)
