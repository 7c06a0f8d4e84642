"""The training loop."""

import contextlib
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from types import FrameType

import torch
from rich.console import Console

from radio_core.data.sources import faults
from radio_core.distill.checkpoint import (
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
from radio_core.distill.engine import build_optimizer, set_up_student
from radio_core.distill.model_card import CARD_FILE, model_card
from radio_core.distill.run_folder import MetricsLog, RunFolder
from radio_core.distill.schedule import BatchPlan, Partition, Schedule
from radio_core.distill.step import Distiller, NonFiniteLossError, TrainStep
from radio_core.distill.student import export_student, warm_start
from radio_core.distill.targets import open_targets, view_size
from radio_core.distill.views import Batch, Skipped, Views, open_views
from radio_core.models.spectral import iterate_spectral
from radio_core.processes import Processes, join_processes
from radio_core.progress import rich_progress

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

    Writes config.yaml, metrics.jsonl, checkpoints/ and, at the end, student/ in `config.run.out`.
    Ctrl-C, or a SIGTERM as schedulers send it, saves a checkpoint after the current step and
    returns. Started by torchrun or accelerate, the processes train one student together; rank 0
    writes, and where one process fails all of them end.

    Args:
        config: the run; `radio_core.distill.recipes.get_recipe` has complete ones.
        console: for bars and messages; standard error by default.

    Raises:
        ValueError: the folder is in use, the data cannot be read, the config does not fit.
        NonFiniteLossError: a loss is not finite; the last checkpoint stays intact.
        DiskFullError: there is no space for a checkpoint; the last one stays intact.
        ProcessFailure: a process has failed or gone; the last checkpoint stays intact.
    """

    def advice() -> str:
        found = find_checkpoints(config.run.out / "checkpoints")
        if not found:
            return "There is no checkpoint yet"
        return f"The last good checkpoint is {found[-1].path}: continue with --resume"

    with join_processes(
        config.engine.device,
        config.engine.rank_timeout,
        explained=(ValueError, NonFiniteLossError, DiskFullError),
        advice=advice,
    ) as processes:
        shown = processes.first and (console is None or not console.quiet)
        console = (console or Console(stderr=True)) if shown else Console(quiet=True)
        return _train(config, console, processes)


def _train(config: TrainConfig, console: Console, processes: Processes) -> TrainResult:
    folder = RunFolder(config)
    if config.engine.threads is not None:
        torch.set_num_threads(config.engine.threads)
    views = open_views(config.data, config.run.seed, console)
    targets = open_targets(config, views, console, processes)
    folder.check_data(views.source)
    checkpoint = _newest_checkpoint(folder, processes)
    torch.manual_seed(config.run.seed)
    distiller = Distiller(config, targets.specs)
    if checkpoint is not None:
        load_model(checkpoint, distiller)
        console.print(f"resuming after step {checkpoint.step}")
    distiller.to(targets.device).train()
    processes.gather(None)  # everything fits, for everyone: only now is anything written
    if processes.first:
        folder.claim(views.source)
        folder.add_skipped(faults(views.source))
    if targets.cache is not None:
        everyones = processes.gather(targets.fill_cache(console), patient=True)
        if processes.first:
            folder.add_skipped([entry for skipped in everyones for entry in skipped])
    if checkpoint is None:
        for note in distiller.fit_standardizers(targets.measure(views), processes):
            console.print(note)
        if config.student.init_from is not None:
            # Filling the cache has drawn from it, perhaps not as often in every process.
            torch.manual_seed(config.run.seed)
            source = config.student.init_from
            report = warm_start(distiller.student, distiller.normalizers, source)
            for line in report.lines():
                console.print(line, markup=False)
    set_up_student(distiller.student, config.engine, processes)
    optimizer = build_optimizer(distiller, config.optim.lr, config.optim.weight_decay)
    step = TrainStep(config, distiller, optimizer, targets)
    if checkpoint is not None:
        load_optimizer(checkpoint, distiller, optimizer, step.average)
    if step.statistics and (processes.size > 1 or config.engine.accumulate > 1):
        console.print(
            "note: this student has BatchNorm, which sees one micro-batch of one process at a "
            "time: results depend on accumulate and on the number of processes"
        )
    return _Run(step, folder, views, console).go(checkpoint.step if checkpoint else 0)


def _newest_checkpoint(folder: RunFolder, processes: Processes) -> Checkpoint | None:
    found = find_checkpoints(folder.checkpoints)
    steps = processes.gather(found[-1].step if found else 0)
    if len(set(steps)) > 1:
        raise ValueError(
            f"the processes see different checkpoints in {folder.checkpoints} (steps "
            f"{', '.join(map(str, steps))} by rank): --out must be in a file system that all of "
            "them share"
        )
    return found[-1] if found else None


class _Run:
    """One process's part of a run."""

    def __init__(self, step: TrainStep, folder: RunFolder, views: Views, console: Console) -> None:
        self.config, self.step, self.processes = step.config, step, step.processes
        self.folder, self.views, self.console = folder, views, console
        self.partition = Partition(self.config, self.processes.rank, self.processes.size)
        self.schedule = Schedule(self.config, views.order)

    def go(self, start: int) -> TrainResult:
        """Steps start + 1 … last_step, with checkpoints; then the student."""
        try:
            step, skipped = self._steps(start), self.folder.num_skipped
            if skipped:
                where = self.folder.path / "skipped.jsonl"
                self.console.print(f"{skipped} unreadable files were skipped, listed in {where}")
            if step < self.config.last_step:
                self.console.print(f"interrupted after step {step}; continue with --resume")
                return TrainResult(step, None, skipped)
            self._save(step)
            self._export()
            return TrainResult(step, self.folder.student, skipped)
        except OSError as error:
            if not is_disk_full(error):
                raise
            raise DiskFullError(disk_full_message(self.folder.checkpoints)) from error

    def _steps(self, start: int) -> int:
        """Run the steps and return the number of the last one."""
        config, run, schedule, number = self.config, self.config.run, self.schedule, start
        keep_last = start % run.log_every == 0 or start >= config.last_step
        metrics = MetricsLog(self.folder.path, start, keep_last) if self.processes.first else None
        with _stop_on_interrupt(self.processes) as stop, rich_progress(self.console) as progress:
            began, images = time.monotonic(), 0
            try:
                for plan, batches, idle in self._work(start + 1):
                    number = plan[0].number
                    lr, decay = schedule.learning_rate(number), schedule.weight_decay(number)
                    row = self.step(plan, batches, lr, decay, idle)
                    images += sum(len(whole.views) for whole in plan)
                    speed = images / (time.monotonic() - began)
                    if metrics is not None and (
                        number % run.log_every == 0 or number == config.last_step
                    ):
                        metrics.add(row, speed)
                    info = f"loss {row['loss']:.3f}  {speed:.0f} images/s"
                    progress(f"training\t{info}", number, config.last_step)
                    stopping = self._agree(batches, stop.is_set())
                    if number % run.checkpoint_every == 0 or stopping:
                        self._save(number)
                    if stopping:
                        break
            finally:
                if metrics is not None:
                    metrics.close()
        return number

    def _work(self, first: int) -> Iterator[tuple[tuple[BatchPlan, ...], list[Batch], int]]:
        """For each step: its whole batches, this process's micro-batches, and how many more of
        these another process has where all must run as many."""
        schedule, steps = self.schedule, range(first, self.config.last_step + 1)

        def parts(number: int) -> list[BatchPlan]:
            return self.partition.part(schedule.stage(number), schedule.batches(number))

        loaded = self._load(part for number in steps for part in parts(number))
        for number in steps:
            plan, idle = schedule.batches(number), 0
            batches = [next(loaded) for _ in parts(number)]
            if self.step.gradients.sharded:
                idle = self.partition.passes(schedule.stage(number), plan) - len(batches)
            yield plan, batches, idle

    def _load(self, parts: Iterator[BatchPlan]) -> Iterator[Batch]:
        cache, specs = self.step.targets.cache, self.step.targets.specs
        if cache is not None:
            for part in parts:
                yield Batch(part, cache.images(part.views), [])
        else:
            sized = ((part, view_size(part.group, specs, self.step.shape(part))) for part in parts)
            yield from self.views.loader(sized, self.config.engine.workers)

    def _agree(self, batches: list[Batch], stop: bool) -> bool:
        """Note the unreadable files that any process met; True if any is asked to stop."""
        mine: tuple[bool, list[Skipped]] = (stop, [e for batch in batches for e in batch.skipped])
        messages = self.processes.gather(mine)
        if self.processes.first:
            self.folder.add_skipped([entry for _, entries in messages for entry in entries])
        return any(asked for asked, _ in messages)

    def _save(self, step: int) -> None:
        snapshot = take_snapshot(self.step.distiller, self.step.optimizer, self.step.average)
        if self.processes.first:
            keep = self.config.run.keep_checkpoints
            save_checkpoint(self.folder.checkpoints, step, snapshot, keep)

    def _export(self) -> None:
        """Write the student: the moving average where there is one, else the last weights."""
        config, specs, folder = self.config, self.step.targets.specs, self.folder.student
        snapshot = take_snapshot(self.step.distiller, self.step.optimizer, self.step.average)
        if not self.processes.first:
            return
        distiller = Distiller(config, specs)
        distiller.load_state_dict({**snapshot.model, **snapshot.average})
        if snapshot.average:
            iterate_spectral(distiller, _AVERAGE_ROUNDS)
        student = export_student(distiller.student, distiller.normalizers)
        student.save_pretrained(folder, getattr(torch, config.student.dtype))
        card = model_card(config, student.config, specs, config.last_step)
        (folder / CARD_FILE).write_text(card, encoding="utf-8")


@contextlib.contextmanager
def _stop_on_interrupt(processes: Processes) -> Iterator[Event]:
    """Turn Ctrl-C and SIGTERM into a request to stop after the current step.

    A second Ctrl-C stops at once, unless there are other processes: launchers pass Ctrl-C on to
    each of them, which already had it from the terminal.
    """
    stop = Event()

    def ask(number: int, frame: FrameType | None) -> None:
        if stop.is_set() and number == signal.SIGINT and processes.size == 1:
            raise KeyboardInterrupt
        stop.set()

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
