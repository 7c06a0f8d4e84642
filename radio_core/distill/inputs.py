"""What a run reads: its data, its teachers and the cache of their outputs."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from radio_core.data.sources import ImageSource, data_identity, open_source
from radio_core.data.storage import GIGABYTE, Storage, cache_folder
from radio_core.distill.cache import CHUNK_BYTES, CONFIRM_BYTES, TeacherCache
from radio_core.distill.config import TrainConfig
from radio_core.distill.execution import autocast
from radio_core.distill.normalization import FeatureStatistics, OutputStatistics
from radio_core.distill.partition import Partition
from radio_core.distill.run_folder import CACHE_FOLDER
from radio_core.distill.shapes import check_teachers, largest_view
from radio_core.distill.teacher_bench import TeacherBench
from radio_core.distill.views import Views, to_unit
from radio_core.processes import Processes
from radio_core.teachers import Teacher, load_teacher
from radio_core.vision import ModelSpec

_STATISTICS_BATCH = 32


@dataclass(frozen=True)
class Inputs:
    """What a run reads.

    Attributes:
        teachers: those that this process runs.
        specs: what is known of all teachers of the run, in the order of the config.
        views: the crops.
        cache: of views and teacher outputs, when the run has one.
    """

    teachers: dict[str, Teacher]
    specs: dict[str, ModelSpec]
    views: Views
    cache: TeacherCache | None


def open_run(
    config: TrainConfig,
    console: Console,
    confirmed: bool = False,
    ranks: Processes | None = None,
) -> Inputs:
    """Open data and teachers of a run; its cache is not filled yet.

    Each of several processes loads only the teachers of its groups. With a cache it loads all,
    because their weights are part of the cache's key.

    Raises:
        ValueError: the data cannot be read, or the cache would be larger than 10 GB and that was
            not `confirmed`.
    """
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    views = Views(open_data(config, console), config.crop_scale, config.seed)
    device = choose_device(config.device)
    ranks = ranks or Processes()
    mine = Partition(config, ranks.rank, ranks.size).teachers()
    offload = config.offload_teachers and not config.cached_views
    resting = torch.device("cpu") if offload else device
    teachers = {
        name: load_teacher(teacher.source).to(resting)
        for name, teacher in config.teachers.items()
        if name in mine or config.cached_views
    }
    known = ranks.gather({name: teacher.spec for name, teacher in teachers.items()})
    merged = {name: spec for specs in known for name, spec in specs.items()}
    specs = {name: merged[name] for name in config.teachers}
    groups = [group for stage in config.stages for group in stage.groups]
    for group in groups:
        check_teachers(group, specs)
    if config.cached_views == 0:
        return Inputs(teachers, specs, views, None)
    cache = TeacherCache(
        config.cache_dir or config.out / CACHE_FOLDER,
        teachers,
        views,
        config.cached_views,
        _view_side(config, specs),
        data_identity(views.source),
        image_size=max(max(group.resolutions) for group in groups),
        dtype=config.cache_dtype,
        downsample=config.cache_downsample,
    )
    console.print(cache.describe(), markup=False)
    if cache.num_bytes > CONFIRM_BYTES and cache.done == 0 and not confirmed:
        raise ValueError(
            f"the teacher cache would take {cache.num_bytes / 1e9:.1f} GB: fill it first with "
            "`radio cache-teachers RECIPE --yes`, or make it smaller with --cached-views, "
            "--cache-dtype int8 or --cache-downsample 2"
        )
    return Inputs(teachers, specs, views, cache)


def open_data(config: TrainConfig, console: Console) -> ImageSource:
    """Open the images of a run; tells of kept indexes, and of long listings how far they are.

    Raises:
        ValueError: as `radio_core.data.sources.open_source`.
    """
    with contextlib.ExitStack() as stack:
        bars: dict[str, TaskID] = {}
        progress = progress_bar(console)

        def report(what: str, done: int, total: int | None) -> None:
            if not bars:
                stack.enter_context(progress)
            if what not in bars:
                bars[what] = progress.add_task(what, total=total, info="")
            progress.update(bars[what], completed=done, total=total)

        storage = Storage(
            config.data_cache or cache_folder(),
            int(config.data_cache_gb * GIGABYTE),
            config.refresh_index,
            lambda message: console.print(message, markup=False, highlight=False),
            report,
        )
        return open_source(config.data, config.data_weights, scenes=config.scenes, storage=storage)


def choose_device(name: str) -> torch.device:
    """ "auto" is the GPU where there is one."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def fill_cache(
    cache: TeacherCache, console: Console, part: tuple[int, int] = (0, 1), workers: int = 0
) -> list[tuple[str, str]]:
    """Fill a cache, or part (r, n) of it, under a progress bar, and say how exact it is.

    Returns:
        (path, reason) of unreadable files.
    """
    with progress_bar(console) as progress:
        bar = progress.add_task("teachers", total=cache.count, completed=cache.done, info="")
        skipped = cache.fill(
            lambda done, _count: progress.update(bar, completed=done), part=part, workers=workers
        )
    for name, error in cache.errors().items():
        console.print(f"{name}: stored features in {cache.dtype} have an {error}", markup=False)
    return skipped


def _view_side(config: TrainConfig, specs: dict[str, ModelSpec]) -> int:
    """Side in pixels of crops that are enough for every group: of the cache, and of statistics."""
    groups = [group for stage in config.stages for group in stage.groups]
    return max(max(largest_view(group, specs, config.student)) for group in groups)


def _trained_side(config: TrainConfig, name: str, spec: ModelSpec) -> int:
    """Side in pixels at which a teacher sees images at the end of training."""
    groups = [group for stage in config.stages for group in stage.groups]
    sides = [g.teacher_sizes.get(name, spec.input_size) for g in groups if name in g.teachers]
    return sides[-1] if sides else spec.input_size


def _parts(count: int, spec: ModelSpec, side: int) -> Iterator[slice]:
    """Parts of a batch of which a teacher's features take a bounded amount of memory."""
    size = max(1, CHUNK_BYTES // (4 * spec.feature_dim * (side // spec.patch_size) ** 2))
    for first in range(0, count, size):
        yield slice(first, min(first + size, count))


def measure(
    config: TrainConfig, run: Inputs, ranks: Processes | None = None
) -> dict[str, FeatureStatistics]:
    """Statistics of the teacher outputs that are normalised, over the first views.

    The processes that run a teacher share the views; the sums are added up over all processes.
    """
    ranks, cache = ranks or Processes(), run.cache
    statistics = OutputStatistics(config, run.specs)
    if not statistics.by_output:
        return {}
    partition = Partition(config, ranks.rank, ranks.size)
    holders = {name: partition.holders(name) for name in run.specs}
    bench = TeacherBench(run.teachers, choose_device(config.device), config.offload_teachers)
    size = _view_side(config, run.specs)
    count = config.statistics_views if cache is None else min(config.statistics_views, cache.count)
    for turn, first in enumerate(range(0, count, _STATISTICS_BATCH)):
        mine = [n for n, held in holders.items() if held[turn % len(held)] == ranks.rank]
        if not mine:
            continue
        ids = tuple(range(first, min(first + _STATISTICS_BATCH, count)))
        if cache is not None:
            statistics.update(cache.outputs(ids, tuple(mine)), ids)
            continue
        images = to_unit(torch.stack([run.views[(view, size)][0] for view in ids]))
        for name in mine:
            (teacher,) = bench.take((name,)).values()
            side = _trained_side(config, name, teacher.spec)
            for part in _parts(len(ids), teacher.spec, side):
                with autocast(config, bench.device):
                    output = teacher(images[part].to(bench.device), (side, side))
                statistics.update({name: output}, ids[part])
    statistics.all_reduce()
    return statistics.by_output


def progress_bar(console: Console) -> Progress:
    """A bar with counts, times and a column {info} of free text."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[info]}"),
        console=console,
    )
