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

from radio_core.data.sources import faults
from radio_core.distill.checkpoints import (
    Checkpoint,
    DiskFullError,
    disk_full_message,
    find_checkpoints,
    is_disk_full,
    load_model,
    load_optimizer,
    save_checkpoint,
    take_snapshot,
)
from radio_core.distill.config import TrainConfig
from radio_core.distill.distiller import Distiller
from radio_core.distill.execution import set_up_student
from radio_core.distill.inputs import (
    Inputs,
    choose_device,
    fill_cache,
    measure,
    open_run,
    progress_bar,
)
from radio_core.distill.model_card import write_model_card
from radio_core.distill.partition import Partition
from radio_core.distill.run_folder import MetricsLog, RunFolder
from radio_core.distill.schedule import Schedule, Step
from radio_core.distill.shapes import view_size
from radio_core.distill.step import NonFiniteLossError, TrainStep, build_optimizer
from radio_core.distill.views import ViewBatch, view_loader
from radio_core.distill.warm_start import warm_start
from radio_core.models.spectral import iterate_spectral
from radio_core.processes import Processes, join_processes

_AVERAGE_ROUNDS = 32  # of power iteration, for averaged weights: u and v are those of the last ones


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
    Ctrl-C, or a SIGTERM as schedulers send it, saves a checkpoint after the current step and
    returns. Started by torchrun or accelerate, the processes train one student together; rank 0
    writes, and where one process fails all of them end.

    Raises:
        ValueError: the folder is in use, the data cannot be read, the config does not fit.
        NonFiniteLossError: a loss is not finite; the last checkpoint stays intact.
        DiskFullError: there is no space for a checkpoint; the last one stays intact.
        ProcessFailure: a process has failed or gone; the last checkpoint stays intact.
    """
    with join_processes(
        config.device,
        config.rank_timeout,
        explained=(ValueError, NonFiniteLossError, DiskFullError),
        advice=lambda: _advice(config),
    ) as ranks:
        shown = ranks.first and (console is None or not console.quiet)
        return _train(
            config, (console or Console(stderr=True)) if shown else Console(quiet=True), ranks
        )


def _advice(config: TrainConfig) -> str:
    found = find_checkpoints(config.out / "checkpoints")
    if not found:
        return "There is no checkpoint yet"
    return f"The last good checkpoint is {found[-1].path}: continue with --resume"


def _train(config: TrainConfig, console: Console, ranks: Processes) -> TrainResult:
    folder = RunFolder(config)
    run = open_run(config, console, ranks=ranks)
    folder.check_data(run.views.source)
    checkpoint = _newest_checkpoint(folder, ranks)
    torch.manual_seed(config.seed)
    distiller = Distiller(config, run.specs)
    if checkpoint is not None:
        load_model(checkpoint, distiller)
        console.print(f"resuming after step {checkpoint.step}")
    distiller.to(choose_device(config.device)).train()
    ranks.gather(None)  # everything fits, for everyone: only now is anything written
    if ranks.first:
        folder.claim(run.views.source)
        folder.add_skipped(faults(run.views.source))
    if run.cache is not None:
        part = (ranks.rank, ranks.size)
        skipped = fill_cache(run.cache, console, part, config.workers)
        everyones = [entry for each in ranks.gather(skipped, patient=True) for entry in each]
        folder.add_skipped(everyones if ranks.first else [])
    if checkpoint is None:
        for note in distiller.fit_standardizers(measure(config, run, ranks)):
            console.print(note)
        if config.init_from is not None:
            # Filling the cache has drawn from it, perhaps not as often in every process.
            torch.manual_seed(config.seed)
            for line in warm_start(distiller, config.init_from).lines():
                console.print(line, markup=False)
    set_up_student(distiller.student, config, ranks)
    optimizer = build_optimizer(distiller, config)
    step = TrainStep(config, distiller, optimizer, run.teachers, run.cache, ranks)
    if checkpoint is not None:
        load_optimizer(checkpoint, distiller, optimizer, step.average)
    if step.statistics and (ranks.size > 1 or config.accumulate > 1):
        console.print(
            "note: this student has BatchNorm, which sees one micro-batch of one process at a "
            "time: results depend on accumulate and on the number of processes"
        )
    return _Run(step, folder, run, console, ranks).go(checkpoint.step if checkpoint else 0)


def _newest_checkpoint(folder: RunFolder, ranks: Processes) -> Checkpoint | None:
    found = find_checkpoints(folder.checkpoints)
    steps = ranks.gather(found[-1].step if found else 0)
    if len(set(steps)) > 1:
        raise ValueError(
            f"the processes see different checkpoints in {folder.checkpoints} (steps "
            f"{', '.join(map(str, steps))} by rank): --out must be in a file system that all of "
            "them share"
        )
    return found[-1] if found else None


class _Run:
    """One process's part of a run."""

    def __init__(
        self, step: TrainStep, folder: RunFolder, run: Inputs, console: Console, ranks: Processes
    ) -> None:
        self.config, self.step, self.ranks = step.config, step, ranks
        self.folder, self.run, self.console = folder, run, console
        self.partition = Partition(self.config, ranks.rank, ranks.size)

    def go(self, start: int) -> TrainResult:
        """Steps start + 1 … last_step, with checkpoints; then the student."""
        try:
            return self._finish(self._steps(start))
        except OSError as error:
            if not is_disk_full(error):
                raise
            raise DiskFullError(disk_full_message(self.folder.checkpoints)) from error

    def _steps(self, start: int) -> int:
        """Run the steps and return the number of the last one."""
        config, number = self.config, start
        schedule = Schedule(config, self.run.views.order)
        keep_last = start % config.log_every == 0 or start >= config.last_step
        metrics = MetricsLog(self.folder.path, start, keep_last) if self.ranks.first else None
        with _stop_on_interrupt(self.ranks) as stop, progress_bar(self.console) as progress:
            bar = progress.add_task("training", total=config.last_step, completed=start, info="")
            began, images = time.monotonic(), 0
            try:
                for plan, batches, idle in self._work(schedule, start + 1):
                    number = plan[0].number
                    self.step.set_weight_decay(schedule.weight_decay(number))
                    row = self.step(plan, batches, schedule.learning_rate(number), idle)
                    images += sum(len(whole.views) for whole in plan)
                    speed = images / (time.monotonic() - began)
                    logged = number % config.log_every == 0 or number == config.last_step
                    if metrics is not None and logged:
                        metrics.add(row, speed)
                    info = f"loss {row['loss']:.3f}  {speed:.0f} images/s"
                    progress.update(bar, completed=number, info=info)
                    stopping = self._agree(batches, bool(stop))
                    if number % config.checkpoint_every == 0 or stopping:
                        self._save(number)
                    if stopping:
                        break
            finally:
                if metrics is not None:
                    metrics.close()
        return number

    def _agree(self, batches: list[ViewBatch], stop: bool) -> bool:
        """Note the unreadable files that any process met; whether any is asked to stop."""
        skipped = [entry for batch in batches for entry in batch.skipped]
        messages = self.ranks.gather((stop, skipped))
        if self.ranks.first:
            self.folder.add_skipped([entry for _, entries in messages for entry in entries])
        return any(asked for asked, _ in messages)

    def _finish(self, step: int) -> TrainResult:
        if self.folder.num_skipped:
            count, where = self.folder.num_skipped, self.folder.path / "skipped.jsonl"
            self.console.print(f"{count} unreadable files were skipped, listed in {where}")
        if step < self.config.last_step:
            self.console.print(f"interrupted after step {step}; continue with --resume")
            return TrainResult(step, None, self.folder.num_skipped)
        self._save(step)
        self._export()
        return TrainResult(step, self.folder.student, self.folder.num_skipped)

    def _save(self, step: int) -> None:
        snapshot = take_snapshot(self.step.distiller, self.step.optimizer, self.step.average)
        if self.ranks.first:
            save_checkpoint(self.folder.checkpoints, step, snapshot, self.config.keep_checkpoints)

    def _export(self) -> None:
        """Write the student: the moving average where there is one, else the last weights."""
        snapshot = take_snapshot(self.step.distiller, self.step.optimizer, self.step.average)
        if not self.ranks.first:
            return
        distiller = Distiller(self.config, self.run.specs)
        distiller.load_state_dict({**snapshot.model, **snapshot.average})
        if snapshot.average:
            iterate_spectral(distiller, _AVERAGE_ROUNDS)
        student = distiller.export_student()
        student.save_pretrained(self.folder.student, getattr(torch, self.config.student_dtype))
        done = self.config.last_step
        write_model_card(self.folder.student, self.config, student.config, self.run.specs, done)

    def _work(
        self, schedule: Schedule, first: int
    ) -> Iterator[tuple[tuple[Step, ...], list[ViewBatch], int]]:
        """For each step: its whole batches, this process's micro-batches, and how many more of
        these another process has where all must run as many."""
        numbers = range(first, self.config.last_step + 1)
        parts = (part for number in numbers for part in self._parts(schedule, number))
        loaded = self._batches(parts)
        for number in numbers:
            plan, idle = schedule.batches(number), 0
            batches = [next(loaded) for _ in self._parts(schedule, number)]
            if self.step.gradients.sharded:
                idle = self.partition.passes(schedule.stage(number), plan) - len(batches)
            yield plan, batches, idle

    def _parts(self, schedule: Schedule, number: int) -> list[Step]:
        return self.partition.part(schedule.stage(number), schedule.batches(number))

    def _batches(self, parts: Iterator[Step]) -> Iterator[ViewBatch]:
        cache, specs = self.step.cache, self.run.specs
        if cache is not None:
            for part in parts:
                yield ViewBatch(part, cache.images(part.views), [])
        else:
            sized = ((s, view_size(s.group, specs, self.step.shape(s))) for s in parts)
            yield from view_loader(self.run.views, sized, self.config.workers)


class _Stop:
    """True once the user has asked to stop."""

    asked = False

    def __bool__(self) -> bool:
        return self.asked


@contextlib.contextmanager
def _stop_on_interrupt(ranks: Processes) -> Iterator[_Stop]:
    """Turn Ctrl-C and SIGTERM into a request to stop after the current step.

    A second Ctrl-C stops at once, unless there are other processes: launchers pass Ctrl-C on to
    each of them, which already had it from the terminal.
    """
    stop = _Stop()

    def ask(number: int, frame: FrameType | None) -> None:
        if stop.asked and number == signal.SIGINT and ranks.size == 1:
            raise KeyboardInterrupt
        stop.asked = True

    signals = (signal.SIGINT, signal.SIGTERM)
    try:
        previous = {number: signal.signal(number, ask) for number in signals}
    except ValueError:  # not the main thread: signals are somebody else's business there
        yield stop
        return
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
