"""The one contract of all evaluations: what a task is, and how one is run on a model.

A task is one file: a frozen keyword-only dataclass that derives from `Task`. Its fields are its
parameters and the flags of ``radio eval NAME``, with the docstring behind each as its help::

    @dataclass(frozen=True, kw_only=True)
    class Brightness(Task):
        \"\"\"How much a model's features say of an image's brightness.\"\"\"

        data: Path
        \"\"\"Folder of images.\"\"\"
        bins: int = 8
        \"\"\"Levels of brightness.\"\"\"

        name: ClassVar[str] = "brightness"
        headline: ClassVar[str] = "accuracy"
        aside: ClassVar[frozenset[str]] = frozenset({"data"})

        def data_identity(self) -> Json:
            return {"folder": str(self.data.absolute())}

        def run(self, model: VisionModel, context: Context) -> Iterator[tuple[str, float | None]]:
            files = ImageFiles(self.data)
            for number, index in enumerate(own := context.processes.share(range(len(files)))):
                ...
                context.progress("images", number + 1, len(own))
            yield "accuracy", 12.5

It is found by the name of an entry point of ``radio.evaluators``, or as "module:attribute" of
people's own file: ``radio eval my_file:Brightness --model radio_h --data DIR`` parses the fields,
opens the model with `Task.open_model`, runs the task with `run_task` (under torchrun in every
process), prints the result, and writes it with ``--json`` and ``--report``. In Python it is
``run_task(Brightness(data=...), open_model("radio_h"))``. Tables are lists of tasks and models that
are handed to `run_task`; `Task.identity` says when a result that was kept is still good
(`results.read_result`).
"""

import dataclasses
import platform
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from radio_core.processes import Processes
from radio_core.progress import Progress, silent
from radio_core.registry import Registry
from radio_eval.results import Json, Skipped, plain

if TYPE_CHECKING:
    from radio_eval.report.sections import Section

_NEEDS = {
    "summary": "summary",
    "text": "text tower",
    "sam": "Segment Anything decoder",
    "chat": "language model",
}
_PACKAGES = ("torch", "torchvision", "timm", "transformers", "open_clip_torch", "segment-anything")


@dataclass(kw_only=True)
class Context:
    """What surrounds one run of a task, and takes what it finds out besides its metrics.

    Attributes:
        processes: those that share the work. All run the task, with the same parameters, and all
            must yield the same metrics: a task shares its items (`share`), and gathers what it
            found or sends it from the first to the others.
        progress: listener, called as progress(what, done, total).
        sections: of a report, in their order; None where nobody wants one, at the other processes
            for example. Tasks add to it through `show`.
        skipped: "train images" or the like -> what could not be used, and why.
        parameters: what the task's own parameters became for this model (the size of its images),
            beside or in place of those in the result; JSON types.
        record: all else that the result shall say ("class_iou"); JSON types.
        unscored: why there is no headline although the task ran; "" if there is one.
        notes: remarks for whoever started it, once each.
    """

    processes: Processes = field(default_factory=Processes)
    progress: Progress = silent
    sections: "list[Section] | None" = None
    skipped: dict[str, Skipped] = field(default_factory=dict)
    parameters: Json = field(default_factory=dict)
    record: Json = field(default_factory=dict)
    unscored: str = ""
    notes: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        """Remark something, once."""
        if text not in self.notes:
            self.notes.append(text)

    def show(self, make: "Callable[[], Iterable[Section]]") -> None:
        """Put sections into the report; `make` is called only if there is one."""
        if self.sections is not None:
            self.sections.extend(make())


@dataclass(frozen=True, kw_only=True)
class Task(ABC):
    """A task with its parameters, ready to be run on any number of models.

    What is read of the data is best kept in a `functools.cached_property`: it is read once, when it
    is needed first, and is there for the next model.

    Attributes:
        name: of its results and columns ("knn", "zero_shot", "linear_seg", "sam_miou").
        title: for people; the name if empty.
        headline: the metric that goes into tables.
        needs: what a model must have: "summary", "text", "sam", "chat".
        aside: fields that do not decide the result: places of files, sizes of batches, threads.
    """

    name: ClassVar[str]
    headline: ClassVar[str]
    title: ClassVar[str] = ""
    needs: ClassVar[frozenset[str]] = frozenset()
    aside: ClassVar[frozenset[str]] = frozenset()

    @abstractmethod
    def run(self, model: Any, context: Context) -> Iterator[tuple[str, float | None]]:
        """Evaluate a model, and yield (metric, value) pairs.

        Accuracies and IoUs are percentages in [0, 100]; None is a metric without anything to
        measure. Counts and sizes are yielded too ("val_images", "image_size").

        Args:
            model: what `open_model` gives, a `radio_core.vision.VisionModel` unless the task says
                otherwise.
            context: see there.

        Raises:
            ValueError: the data is missing, or does not fit; the message names the fix.
        """

    def open_model(self, source: str, device: torch.device) -> Any:
        """Open the model that ``--model`` names, for this task.

        Args:
            source: as `radio_core.open.open_model` takes it, unless the task says otherwise.
            device: where it shall run.
        """
        from radio_core.open import open_model

        return open_model(source, device=device)

    def data_identity(self) -> Json:
        """What tells the data from other data, as JSON types; read, but nothing is computed.

        Raises:
            ValueError: the data is missing, or does not fit.
        """
        return {}

    def parameters(self) -> Json:
        """The fields that decide the result, as JSON types."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        kept: Json = plain(
            {n: _as_json(value) for n, value in fields.items() if n not in self.aside}
        )
        return kept

    def identity(self) -> Json:
        """All that decides the result besides the model; raises as `data_identity`."""
        return {"task": self.name, "parameters": self.parameters(), "data": self.data_identity()}

    def lacks(self, model: Any) -> str:
        """What the model lacks that the task needs, for people; "" if it can be run."""
        spec = model.spec
        lacking = [
            words
            for need, words in _NEEDS.items()
            if need in self.needs
            and (spec.summary_dim is None if need == "summary" else not getattr(spec, need, False))
        ]
        return ", ".join(lacking)

    def tell(self, result: "TaskResult") -> None:
        """Print a result: its parameters and metrics, a line each."""
        for name, value in result.parameters.items():
            if value in (None, ""):
                continue
            text = str(value)
            print(f"{name}: {text if len(text) <= 200 else text[:200] + ' ...'}")
        for name, number in result.metrics.items():
            print(f"{name}: " + ("-" if number is None else f"{number:.2f}"))


TASKS: Registry[type[Task]] = Registry("radio.evaluators", "task")


@dataclass(frozen=True, kw_only=True)
class TaskResult:
    """What one task found out about one model.

    Attributes:
        task: name of the task.
        model: name of the model.
        value: the headline metric; None where there is none, as `unscored` says.
        metrics: every metric that the task yielded.
        parameters: those of the protocol, as JSON types, and what they became for this model.
        seconds: wall time.
        skipped: what could not be used, as `Skipped.to_json` has it.
        record: "data", and all else that the task told of itself.
        processes: how many shared the work.
        unscored: why there is no value; "" if there is one.
    """

    task: str
    model: str
    value: float | None
    metrics: dict[str, float | None]
    parameters: Json
    seconds: float
    skipped: dict[str, Json] = field(default_factory=dict)
    record: Json = field(default_factory=dict)
    processes: int = 1
    unscored: str = ""

    def to_json(self) -> Json:
        """The result as plain JSON types; what is in `record` stands beside the rest."""
        content = dataclasses.asdict(self)
        record = content.pop("record")
        if not content["unscored"]:
            del content["unscored"]
        return {**content, **record}


def run_task(task: Task, model: Any, context: Context | None = None) -> TaskResult:
    """Run one task on one model.

    Args:
        task: with its parameters.
        model: as the task takes it; see `Task.run`.
        context: of this run alone; by default one process, in silence.

    Raises:
        ValueError: the model lacks what the task needs, or what the task raises.
    """
    context = context or Context()
    if lacking := task.lacks(model):
        raise ValueError(
            f"model {model.spec.name!r} cannot be evaluated on {task.name}: it has no {lacking}"
        )
    start = time.perf_counter()
    metrics = dict(task.run(model, context))
    return TaskResult(
        task=task.name,
        model=model.spec.name,
        value=metrics.get(task.headline),
        metrics=metrics,
        parameters={**task.parameters(), **plain(context.parameters)},
        seconds=round(time.perf_counter() - start, 3),
        skipped={what: skipped.to_json() for what, skipped in context.skipped.items()},
        record={"data": task.data_identity(), **plain(context.record)},
        processes=context.processes.size,
        unscored=context.unscored,
    )


def installed_versions() -> dict[str, str]:
    """Versions of Python and of the libraries that decide numbers, as far as they are installed."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _as_json(value: Any) -> Any:
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value  # type: ignore[arg-type]
