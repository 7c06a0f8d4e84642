"""Evaluate a model: radio eval {knn,zero-shot,linear-seg,sam-coco,vqa} --model M --data DIR."""

import dataclasses
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from radio_core.commands import UsageError, parse
from radio_core.data.folder import FolderError
from radio_eval.commands import vqa
from radio_eval.commands.eval_options import EvalOptions
from radio_eval.commands.sam_coco import SamCocoOptions
from radio_eval.contract import Evaluator
from radio_eval.data import read_ade, read_classification, read_templates
from radio_eval.eval_model import EvalModel
from radio_eval.knn import KnnEvaluator, KnnParameters
from radio_eval.linear_seg import LinearSegEvaluator, LinearSegParameters
from radio_eval.models import load_eval_model
from radio_eval.progress import Progress, rich_progress, silent
from radio_eval.report.results import installed_versions
from radio_eval.sam_processes import Processes, launched_processes
from radio_eval.zero_shot import ZeroShotEvaluator, ZeroShotParameters, openai_templates


@dataclass(frozen=True, kw_only=True)
class ImageOptions(EvalOptions):
    """What the evaluations that resize images themselves take."""

    image_size: int | None = None
    """Side in pixels to which images are brought (the shortest one); the model's own by default."""

    def load_model(self) -> EvalModel:
        """Load the model, to be fed with images of the wanted size."""
        model = load_eval_model(self.model)
        if self.image_size is None:
            return model
        return dataclasses.replace(model, image_size=self.image_size)


@dataclass(frozen=True, kw_only=True)
class KnnOptions(ImageOptions):
    """kNN accuracy of summaries. Data: {train,val}/CLASS/*.png and classnames.json."""

    k: int = 20
    """Neighbours that vote."""
    temperature: float = 0.07
    """A neighbour votes with exp(similarity / temperature)."""
    batch_size: int = 16
    """Images a forward pass."""

    def evaluator(self) -> Evaluator:
        """Read both splits."""
        parameters = KnnParameters(
            k=self.k, temperature=self.temperature, batch_size=self.batch_size
        )
        train = read_classification(self.data, "train")
        val = read_classification(self.data, "val")
        if train.class_names != val.class_names:
            raise FolderError(
                f"the class folders of {self.data}/train and {self.data}/val differ; "
                "add a classnames.json that lists all of them"
            )
        return KnnEvaluator(train=train, val=val, parameters=parameters)


@dataclass(frozen=True, kw_only=True)
class ZeroShotOptions(ImageOptions):
    """Zero-shot accuracy. Data: val/CLASS/*.png, classnames.json, templates.json (optional)."""

    batch_size: int = 16
    """Images a forward pass."""

    def evaluator(self) -> Evaluator:
        """Read the validation split and the sentences (OpenAI's 80 by default)."""
        val = read_classification(self.data, "val")
        templates = read_templates(self.data) or openai_templates()
        parameters = ZeroShotParameters(templates=templates, batch_size=self.batch_size)
        return ZeroShotEvaluator(val=val, parameters=parameters)


@dataclass(frozen=True, kw_only=True)
class LinearSegOptions(ImageOptions):
    """Linear-probe mIoU of features. Data: the ADE20K layout with classes.json."""

    iterations: int = 1000
    """Optimizer steps of the head."""
    batch_size: int = 16
    """Images a step."""
    learning_rate: float = 1e-3
    """Of AdamW, after the warm-up."""
    warmup_iterations: int = 50
    """Steps of linear warm-up."""
    label_stride: int = 1
    """The training loss sees every n-th label pixel of each side."""
    seed: int = 0
    """Of the head and of the order of the images."""

    def evaluator(self) -> Evaluator:
        """Read both splits."""
        parameters = LinearSegParameters(
            iterations=self.iterations,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            warmup_iterations=self.warmup_iterations,
            label_stride=self.label_stride,
            seed=self.seed,
        )
        return LinearSegEvaluator(
            train=read_ade(self.data, "train"),
            val=read_ade(self.data, "val"),
            parameters=parameters,
        )


TASKS: dict[str, type[EvalOptions]] = {
    "knn": KnnOptions,
    "zero-shot": ZeroShotOptions,
    "linear-seg": LinearSegOptions,
    "sam-coco": SamCocoOptions,
}
VQA = "vqa"
"""The task that asks a LLaVA; `radio llava eval` is the same."""


def main(argv: Sequence[str]) -> int:
    """Run `radio eval TASK ...`; returns the exit code."""
    usage = f"radio eval {{{','.join((*TASKS, VQA))}}} --model M --data DIR [--json FILE]"
    if not argv or argv[0] in ("-h", "--help"):
        print(f"usage: {usage}\n\n'radio eval TASK --help' lists a task's options.")
        return 0 if argv else 2
    task, *rest = argv
    if task == VQA:
        return vqa.main(rest)
    if task not in TASKS:
        raise UsageError(f"unknown task {task!r}; known: {', '.join((*TASKS, VQA))}")
    options = parse(TASKS[task], rest, prog=f"radio eval {task}")
    with launched_processes() as processes, _progress_of(processes) as progress:
        result = options.run(progress, processes)
    if processes.is_first:
        _report(result, options.json)
    return 0


@contextmanager
def _progress_of(processes: Processes) -> Iterator[Progress]:
    """A progress bar at the first process, none at the others."""
    if not processes.is_first:
        yield silent
        return
    with rich_progress(Console(stderr=True)) as progress:
        yield progress


def _report(result: Mapping[str, Any], file: Path | None) -> None:
    """Print the metrics, and write everything."""
    for name, value in result["metrics"].items():
        print(f"{name}: {value:.2f}")
    for what, account in result.get("skipped", {}).items():
        if account["count"]:
            reasons = ", ".join(f"{count} {why}" for why, count in account["reasons"].items())
            print(f"skipped {account['count']} {what}: {reasons}", file=sys.stderr)
    if file is not None:
        content = {**result, "versions": installed_versions()}
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
