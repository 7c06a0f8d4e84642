"""The training loop."""

import contextlib
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from radio_core.data.folder import ImageFiles
from radio_core.distill.cache import CONFIRM_BYTES, TeacherCache
from radio_core.distill.checkpoints import find_checkpoints, load_checkpoint, save_checkpoint
from radio_core.distill.config import TrainConfig
from radio_core.distill.distiller import Distiller, run_teachers
from radio_core.distill.normalization import FeatureStatistics
from radio_core.distill.run_folder import CACHE_FOLDER, MetricsLog, RunFolder
from radio_core.distill.schedule import Schedule
from radio_core.distill.step import TrainStep, build_optimizer, view_size
from radio_core.distill.views import (
    ViewBatch,
    Views,
    data_identity,
    open_source,
    to_unit,
    view_loader,
)
from radio_core.teachers import Teacher, load_teacher

_STATISTICS_BATCH = 32


@dataclass(frozen=True)
class TrainResult:
    """How a run ended.

    Attributes:
        step: optimizer steps done.
        student: folder of the saved student; None when the run was interrupted.
        skipped: unreadable images met in this process.
    """

    step: int
    student: Path | None
    skipped: int


def train(config: TrainConfig, console: Console | None = None) -> TrainResult:
    """Distil a student as `config` says.

    Writes config.yaml, metrics.jsonl, checkpoints/ and, at the end, student/ in `config.out`.
    Ctrl-C saves a checkpoint after the current step and returns.

    Raises:
        ValueError: the folder is in use, the data cannot be read, the config does not fit.
        NonFiniteLossError: a loss is not finite; the last checkpoint stays intact.
    """
    console = console or Console(stderr=True)
    folder = RunFolder(config)
    run = open_run(config, console)
    torch.manual_seed(config.seed)
    distiller = Distiller(config, {name: t.spec for name, t in run.teachers.items()})
    distiller.to(choose_device(config.device)).train()
    optimizer = build_optimizer(distiller, config)
    checkpoints = find_checkpoints(folder.checkpoints)
    start = 0
    if checkpoints:
        load_checkpoint(checkpoints[-1], distiller, optimizer)
        start = checkpoints[-1].step
        console.print(f"resuming after step {start}")
    folder.claim()  # everything fits: only now is anything written
    if isinstance(run.views.source, ImageFiles):
        folder.add_skipped(list(run.views.source.skipped))
    if run.cache is not None:
        folder.add_skipped(fill_cache(run.cache, console))
    if not checkpoints and config.standardize:
        distiller.fit_standardizers(measure(config, run))
    step = TrainStep(config, distiller, optimizer, run.teachers, run.cache)
    schedule = Schedule(config, len(run.views.source))
    return _Run(step, folder, run.views, console).go(schedule, start)


@dataclass(frozen=True)
class Inputs:
    """What a run reads: its teachers, its views, and the cache of both when it has one."""

    teachers: dict[str, Teacher]
    views: Views
    cache: TeacherCache | None


def open_run(config: TrainConfig, console: Console, confirmed: bool = False) -> Inputs:
    """Open data and teachers of a run; its cache is not filled yet.

    Raises:
        ValueError: the data cannot be read, or the cache would be larger than 10 GB and that was
            not `confirmed`.
    """
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    views = Views(open_source(config.data, config.scenes), config.crop_scale, config.seed)
    device = choose_device(config.device)
    teachers = {name: load_teacher(t.source).to(device) for name, t in config.teachers.items()}
    if config.cached_views == 0:
        return Inputs(teachers, views, None)
    size = max(view_size(g, teachers) for stage in config.stages for g in stage.groups)
    cache = TeacherCache(
        config.cache_dir or config.out / CACHE_FOLDER,
        teachers,
        views,
        config.cached_views,
        size,
        data_identity(config.data, views.source),
    )
    gigabytes = cache.layout.num_bytes / 1e9
    console.print(
        f"teacher outputs of {cache.count} views take {gigabytes:.2f} GB in {cache.folder}"
    )
    if cache.layout.num_bytes > CONFIRM_BYTES and cache.done == 0 and not confirmed:
        raise ValueError(
            f"the teacher cache would take {gigabytes:.1f} GB: fill it first with "
            "`radio cache-teachers RECIPE --yes`, or lower --cached-views"
        )
    return Inputs(teachers, views, cache)


class _Run:
    """One process's part of a run."""

    def __init__(self, step: TrainStep, folder: RunFolder, views: Views, console: Console) -> None:
        self.config, self.step = step.config, step
        self.folder, self.views, self.console = folder, views, console

    def go(self, schedule: Schedule, start: int) -> TrainResult:
        """Steps start + 1 … last_step, with checkpoints; then the student."""
        config, step = self.config, start
        keep_last = start % config.log_every == 0 or start >= config.last_step
        metrics = MetricsLog(self.folder.path, start, keep_last)
        with _stop_on_interrupt() as stop, _progress(self.console) as progress:
            bar = progress.add_task("training", total=config.last_step, completed=start, info="")
            began, images = time.monotonic(), 0
            try:
                for batch in self._batches(schedule, start + 1):
                    self.folder.add_skipped(batch.skipped)
                    row = self.step(batch, schedule.learning_rate(batch.step.number))
                    step, images = batch.step.number, images + len(batch.step.views)
                    speed = images / (time.monotonic() - began)
                    if step % config.log_every == 0 or step == config.last_step:
                        metrics.add(row, speed)
                    info = f"loss {row['loss']:.3f}  {speed:.0f} images/s"
                    progress.update(bar, completed=step, info=info)
                    if step % config.checkpoint_every == 0 or stop:
                        self._save(step)
                    if stop:
                        break
            finally:
                metrics.close()
        return self._finish(step)

    def _finish(self, step: int) -> TrainResult:
        if self.folder.num_skipped:
            count, where = self.folder.num_skipped, self.folder.path / "skipped.jsonl"
            self.console.print(f"{count} unreadable files were skipped, listed in {where}")
        if step < self.config.last_step:
            self.console.print(f"interrupted after step {step}; continue with --resume")
            return TrainResult(step, None, self.folder.num_skipped)
        self._save(step)
        student = self.step.distiller.export_student()
        student.save_pretrained(self.folder.student, getattr(torch, self.config.student_dtype))
        return TrainResult(step, self.folder.student, self.folder.num_skipped)

    def _save(self, step: int) -> None:
        folder, keep = self.folder.checkpoints, self.config.keep_checkpoints
        save_checkpoint(folder, step, self.step.distiller, self.step.optimizer, keep)

    def _batches(self, schedule: Schedule, first: int) -> Iterator[ViewBatch]:
        steps = (schedule.step(number) for number in range(first, self.config.last_step + 1))
        cache, teachers = self.step.cache, self.step.teachers
        if cache is not None:
            for step in steps:
                yield ViewBatch(step, cache.images(step.views), [])
        else:
            sized = ((step, view_size(step.group, teachers)) for step in steps)
            yield from view_loader(self.views, sized, self.config.workers)


def choose_device(name: str) -> torch.device:
    """ "auto" is the GPU where there is one."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def fill_cache(cache: TeacherCache, console: Console) -> list[tuple[str, str]]:
    """Fill a cache under a progress bar; returns (path, reason) of unreadable files."""
    with _progress(console) as progress:
        done = cache.done
        bar = progress.add_task("teachers", total=cache.count, completed=done, info="")
        return cache.fill(lambda done, _count: progress.update(bar, completed=done))


def measure(config: TrainConfig, run: Inputs) -> dict[str, FeatureStatistics]:
    """Per-channel statistics of every teacher's features over the first views."""
    teachers, cache = run.teachers, run.cache
    names = tuple(teachers)
    statistics = {name: FeatureStatistics(teachers[name].spec.feature_dim) for name in names}
    size = max(teacher.spec.input_size for teacher in teachers.values())
    count = config.statistics_views if cache is None else min(config.statistics_views, cache.count)
    for first in range(0, count, _STATISTICS_BATCH):
        ids = tuple(range(first, min(first + _STATISTICS_BATCH, count)))
        if cache is not None:
            outputs = cache.outputs(ids, names)
        else:
            images = torch.stack([run.views[(view, size)][0] for view in ids])
            device = teachers[names[0]].mean.device
            outputs = run_teachers(teachers, names, to_unit(images.to(device)))
        for name, output in outputs.items():
            statistics[name].update(output.features)
    return statistics


def _progress(console: Console) -> Progress:
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


class _Stop:
    """True once the user has asked to stop."""

    asked = False

    def __bool__(self) -> bool:
        return self.asked


@contextlib.contextmanager
def _stop_on_interrupt() -> Iterator[_Stop]:
    """Turn the first Ctrl-C into a request to stop after the current step."""
    stop = _Stop()

    def ask(number: int, frame: FrameType | None) -> None:
        if stop.asked:
            raise KeyboardInterrupt
        stop.asked = True

    try:
        previous = signal.signal(signal.SIGINT, ask)
    except ValueError:  # not the main thread: Ctrl-C is somebody else's business there
        yield stop
        return
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, previous)
