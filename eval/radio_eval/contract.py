"""The one contract of all evaluators: they look at a model and yield (metric, value) pairs."""

import dataclasses
import time
from collections.abc import Iterator
from typing import Any, ClassVar, Protocol

from radio_eval.eval_model import EvalModel
from radio_eval.progress import Progress, silent


class Evaluator(Protocol):
    """A task with its data and its parameters, ready to be run on any model.

    Attributes:
        task: name of the column that it fills ("knn", "zero_shot", "linear_seg", "sam_miou").
        headline: the one metric that goes into the table.
        capability: the `EvalModel` field that the task needs.
        parameters: frozen dataclass with everything that decides the result.
    """

    task: ClassVar[str]
    headline: ClassVar[str]
    capability: ClassVar[str]

    @property
    def parameters(self) -> Any:
        """Frozen dataclass of the protocol's parameters; stored beside the result."""

    def __call__(self, model: EvalModel, progress: Progress) -> Iterator[tuple[str, float]]:
        """Yield (metric, value) pairs; accuracies and IoUs are percentages in [0, 100]."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskResult:
    """What one evaluator found out about one model.

    Attributes:
        task: name of the task.
        model: name of the model.
        value: the headline metric, a percentage.
        metrics: every metric that the evaluator yielded.
        parameters: the protocol's parameters as JSON types.
        seconds: wall time of the evaluation.
    """

    task: str
    model: str
    value: float
    metrics: dict[str, float]
    parameters: dict[str, Any]
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """The result as plain JSON types."""
        return dataclasses.asdict(self)


_MISSING = {
    "summary": "summary",
    "features": "spatial features",
    "image_text": "text tower",
    "sam": "Segment Anything decoder",
}


def can_run(evaluator: Evaluator, model: EvalModel) -> bool:
    """Whether the model has what the task needs (a summary, features, text, a SAM)."""
    return getattr(model, evaluator.capability) is not None


def run_evaluator(
    evaluator: Evaluator, model: EvalModel, progress: Progress = silent
) -> TaskResult:
    """Run one evaluator on one model and keep its parameters with the result.

    Raises:
        ValueError: the model lacks what the task needs.
    """
    if not can_run(evaluator, model):
        raise ValueError(
            f"model {model.name!r} cannot be evaluated on {evaluator.task}: "
            f"it has no {_MISSING[evaluator.capability]}"
        )
    start = time.perf_counter()
    metrics = dict(evaluator(model, progress))
    return TaskResult(
        task=evaluator.task,
        model=model.name,
        value=metrics[evaluator.headline],
        metrics=metrics,
        parameters=dataclasses.asdict(evaluator.parameters),
        seconds=round(time.perf_counter() - start, 3),
    )
