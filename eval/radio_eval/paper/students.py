"""Train the students of the tables and measure them, each thing once."""

import dataclasses
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

import radio_core
from radio_core.config_file import to_mapping
from radio_core.distill.config import RUN_CONTROL, TrainConfig
from radio_core.distill.run_folder import METRICS_FILE, read_metrics
from radio_core.distill.trainer import train
from radio_core.models import RadioModel
from radio_core.models.fingerprint import weights_fingerprint
from radio_core.teachers import load_teacher
from radio_eval.contract import Evaluator, run_evaluator
from radio_eval.models import from_radio
from radio_eval.paper.definitions import Logged, Metric, Score
from radio_eval.progress import rich_progress
from radio_eval.table1.cells import Cell, CellStore, digest
from radio_eval.toyworld import ToyData

_TRAINING = "training"


@dataclass(frozen=True, kw_only=True)
class Student:
    """A training that is done.

    Attributes:
        name: hash of all that decides its result.
        folder: of the run.
        identity: what the hash is of, as JSON types.
    """

    name: str
    folder: Path
    identity: Mapping[str, Any]


class Students:
    """Students and their scores in a folder.

    Args:
        out: of all tables; students are in "students", finished work in "cells".
        data: evaluation sets.
        device: where models are evaluated.
        console: for bars.
        announce: hears what is done next.
    """

    def __init__(
        self,
        out: Path,
        data: ToyData,
        device: torch.device,
        console: Console,
        announce: Callable[[str], None],
    ) -> None:
        self._out, self._data, self._device = out, data, device
        self._console, self._announce = console, announce
        self._cells = CellStore(out / "cells")
        self._evaluators: dict[str, Evaluator] = {e.task: e for e in data.evaluators()}
        self._teachers: dict[str, str] = {}

    def get(self, config: TrainConfig) -> Student:
        """The student that a config trains; trained now unless it is there.

        Args:
            config: whose `out` does not matter.

        Raises:
            KeyboardInterrupt: the user stopped the training; the next call continues it.
        """
        identity = self._identity(config)
        name = digest(identity)
        student = Student(name=name, folder=self._out / "students" / name, identity=identity)
        done = self._cells.read(name, _TRAINING, identity)
        if done is None or not (student.folder / "student").is_dir():
            self._announce("training")
            run = dataclasses.replace(config, out=student.folder, resume=student.folder.exists())
            result = train(run, self._console)
            if result.student is None:
                self._console.print("the same radio paper command goes on from there")
                raise KeyboardInterrupt
            cell = Cell(result={"steps": result.step}, identity=identity)
            self._cells.write(name, _TRAINING, cell)
            shutil.rmtree(student.folder / "checkpoints", ignore_errors=True)
        return student

    def measure(self, student: Student, metric: Metric) -> float | None:
        """What a student has in a column; None where its log has no such numbers."""
        if isinstance(metric, Logged):
            return _mean_of_log(student.folder / METRICS_FILE, metric)
        parameters = dataclasses.asdict(self._evaluators[metric.task].parameters)
        identity = {
            "student": student.identity,
            "metric": dataclasses.asdict(metric),
            "parameters": parameters,
            "sizes": dataclasses.asdict(self._data.sizes),
        }
        column = f"{metric.task}-{metric.image_size}-{digest(identity)}"
        cell = self._cells.read(student.name, column, identity)
        if cell is None:
            self._announce(metric.title)
            cell = self._evaluate(student, metric, identity)
            self._cells.write(student.name, column, cell)
        return cell.value

    def _evaluate(self, student: Student, metric: Score, identity: Mapping[str, Any]) -> Cell:
        radio = RadioModel.from_pretrained(student.folder / "student").to(self._device)
        model = from_radio(radio, student.name).resized(metric.image_size)
        with rich_progress(self._console) as progress:
            result = run_evaluator(self._evaluators[metric.task], model, progress)
        return Cell(value=result.value, result=result.to_json(), identity=identity)

    def _identity(self, config: TrainConfig) -> dict[str, Any]:
        """All that decides what a training gives."""
        fields = {k: v for k, v in to_mapping(config).items() if k not in RUN_CONTROL}
        teachers = [teacher.source for teacher in config.teachers.values()]
        for source in teachers:
            if source not in self._teachers:
                self._teachers[source] = weights_fingerprint(load_teacher(source))
        return {
            "version": radio_core.__version__,
            "config": fields,
            "teachers": {source: self._teachers[source] for source in teachers},
        }


def _mean_of_log(path: Path, metric: Logged) -> float | None:
    rows = read_metrics(path)
    last = rows[-max(1, len(rows) // 5) :]
    values: list[float] = [row[key] for row in last for key in metric.keys if key in row]
    if not values or len(values) < len(last) * len(metric.keys):
        return None
    return metric.scale * sum(values) / len(values)
