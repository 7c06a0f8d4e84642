"""How a cell is made: by what `radio eval TASK` runs, on one model."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from radio_eval.classification.blocks import ClassificationSet
from radio_eval.cli.eval_options import EvalOptions
from radio_eval.contract import Evaluator
from radio_eval.data import file_stamp
from radio_eval.processes import Processes
from radio_eval.progress import Progress
from radio_eval.runner import Context, run_task
from radio_eval.sam.miou import SamEvaluator
from radio_eval.segmentation.data import SegmentationImages
from radio_eval.table1.cells import digest
from radio_eval.table1.llavas import Llavas
from radio_eval.table1.models import Subject
from radio_eval.tasks.vqa import Vqa


class Task(Protocol):
    """What fills a column."""

    def missing(self, subject: Subject) -> str | None:
        """Why the model cannot do the task; None if it can, "" if no more need be said."""
        ...

    def identity(self, subject: Subject) -> dict[str, Any]:
        """What the result depends on: weights, data and protocol, as JSON types.

        Raises:
            ValueError: the data is missing or does not fit.
        """
        ...

    def prepare(self, subject: Subject) -> None:
        """Do what shows its own progress, such as a training."""
        ...

    def run(self, subject: Subject, work: Path, progress: Progress) -> dict[str, Any]:
        """Evaluate.

        Args:
            subject: the model.
            work: folder for what an interrupted evaluation goes on with.
            progress: listener.

        Returns:
            "value" (percent, or None with "note"), and everything else that was found out.
        """
        ...


@dataclass(kw_only=True)
class EvaluatorTask:
    """A task of `radio eval`.

    Attributes:
        capability: the `EvalModel` field that it needs.
        options: (model, folder for its work) -> the options of `radio eval`.
        extra: what else its result depends on.
    """

    capability: str
    options: Callable[[str, Path], EvalOptions]
    extra: Mapping[str, Any] = field(default_factory=dict)
    _protocol: dict[str, Any] | None = None

    def missing(self, subject: Subject) -> str | None:
        """See `Task`."""
        return None if self.capability in subject.capabilities else ""

    def identity(self, subject: Subject) -> dict[str, Any]:
        """See `Task`; the data is read once for all models."""
        if self._protocol is None:
            evaluator = self.options(subject.source, Path()).evaluator()
            self._protocol = {
                "task": evaluator.task,
                "parameters": asdict(evaluator.parameters),
                "data": _data_identity(evaluator),
            }
        return {**subject.identity(), **self._protocol, **self.extra}

    def prepare(self, subject: Subject) -> None:
        """See `Task`; there is nothing."""

    def run(self, subject: Subject, work: Path, progress: Progress) -> dict[str, Any]:
        """See `Task`."""
        return self.options(subject.source, work).run(progress, Processes())


def _data_identity(evaluator: Evaluator) -> dict[str, Any]:
    if isinstance(evaluator, SamEvaluator):
        return {"annotations": evaluator.coco.fingerprint, "limit": evaluator.coco.limit}
    splits = {name: getattr(evaluator, name, None) for name in ("train", "val")}
    return {name: _split_identity(split) for name, split in splits.items() if split is not None}


def _split_identity(split: ClassificationSet | SegmentationImages) -> dict[str, Any]:
    """What the split says of itself, its classes, and of label maps the state of the files."""
    found = {**(split.identity() or {}), "names": digest({"names": split.class_names})}
    if isinstance(split, SegmentationImages):
        paths = (*split.images.paths, *split.labels.paths)
        found["files"] = digest({str(path): file_stamp(path).decode() for path in paths})
    return found


@dataclass(frozen=True, kw_only=True)
class VqaTask:
    """Questions to a LLaVA that has the model for its eyes.

    Attributes:
        task: one of `radio_eval.data.vqa.BENCHMARKS`.
        folder: as `find_vqa_data` takes it.
        llavas: which LLaVA has which eyes.
        batch_size: questions asked at once.
        max_new_tokens: tokens after which an answer is cut off.
    """

    task: str
    folder: Path
    llavas: Llavas
    batch_size: int
    max_new_tokens: int

    def missing(self, subject: Subject) -> str | None:
        """See `Task`."""
        return self.llavas.missing(subject)

    def identity(self, subject: Subject) -> dict[str, Any]:
        """See `Task`."""
        return {**self._task(Path()).identity(), "llava": self.llavas.identity(subject)}

    def prepare(self, subject: Subject) -> None:
        """See `Task`; train or load the LLaVA."""
        self.llavas.answerer(subject)

    def run(self, subject: Subject, work: Path, progress: Progress) -> dict[str, Any]:
        """See `Task`."""
        task = self._task(work / "answers.jsonl")
        result = run_task(task, self.llavas.answerer(subject), Context(progress=progress))
        if result.unscored:
            raise ValueError(f"the answers cannot be scored: {result.unscored}")
        metrics = result.metrics
        headline: dict[str, Any] = {"value": result.value}
        if not task.files.is_labelled:
            note = f"the right answers are not known; the answers are in {task.answers}"
            headline = {"value": None, "note": note}
        elif self.task == "pope":  # the F1 of the popular questions, as in the paper
            headline = {"value": metrics.get("popular.f1"), "note": ""}
            said = {0.0: "no", 100.0: "yes"}.get(metrics.get("popular.yes_ratio") or 0.0)
            if "popular.f1" not in metrics:
                headline["note"] = "the questions of POPE have no popular split"
            elif said:
                headline["note"] = f"every answer to the popular questions is {said}"
        return {**result.to_json(), **headline}

    def _task(self, answers: Path) -> Vqa:
        return Vqa(
            task=self.task,  # type: ignore[arg-type]
            answers=answers,
            data=self.folder,
            batch_size=self.batch_size,
            max_new_tokens=self.max_new_tokens,
        )


@dataclass(frozen=True, kw_only=True)
class NoData:
    """A task that there is no data for; each of its cells fails and says so.

    Attributes:
        flag: that would name the data.
    """

    flag: str

    def missing(self, subject: Subject) -> str | None:
        """See `Task`."""
        return None

    def identity(self, subject: Subject) -> dict[str, Any]:
        """Raise ValueError."""
        raise ValueError(f"no data: name its folder with {self.flag} DIR")

    def prepare(self, subject: Subject) -> None:
        """See `Task`; there is nothing."""

    def run(self, subject: Subject, work: Path, progress: Progress) -> dict[str, Any]:
        """Never called, as `identity` comes first."""
        raise AssertionError(self.flag)
