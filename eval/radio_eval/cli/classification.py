"""The tasks `radio eval knn` and `zero-shot`: how well summaries tell classes apart."""

import dataclasses
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from torch import Tensor

from radio_core.devices import choose_device
from radio_eval.classification.blocks import ClassificationSet
from radio_eval.classification.layouts import Layout, read_split, read_train_and_val
from radio_eval.cli.eval_options import EvalOptions, own_device
from radio_eval.coco.annotations import Skipped
from radio_eval.contract import run_evaluator
from radio_eval.data import read_templates
from radio_eval.eval_model import CentreCrop, EvalModel
from radio_eval.knn import KnnEvaluator, KnnParameters, KnnPredictions
from radio_eval.models import load_eval_model
from radio_eval.processes import Processes
from radio_eval.progress import Progress
from radio_eval.report.sections import Show
from radio_eval.summaries.extract import Extraction, Precision, StoredDtype
from radio_eval.summaries.store import StoredSummaries
from radio_eval.zero_shot import ZeroShotEvaluator, ZeroShotParameters, openai_templates

DEFAULT_CACHE = Path("runs/cache")
Switch = Annotated[bool, tyro.conf.FlagCreatePairsOff]

_SHOWN = 10
"""Unreadable files that are named on the screen; the result file names all."""
_DINOV2_SIZE, _DINOV2_RESIZE = 224, 256


@dataclass(frozen=True, kw_only=True)
class ClassificationOptions(EvalOptions):
    """What both tasks take."""

    adaptor: str = ""
    """Adaptor of a RADIO model whose summary is used; the backbone's for kNN, and the first with a
    text tower for zero-shot, if none is named."""
    image_size: int | None = None
    """Side in pixels to which images are brought (the shortest one), rounded to a multiple of the
    model's step; the model's own by default."""
    preprocess: Literal["auto", "radio", "center-crop", "dinov2"] = "auto"
    """How: "radio" scales the shortest edge and keeps the shape, "center-crop" also cuts out the
    middle square as open_clip does, "dinov2" does so after a resize to 8/7 of the size (256, 224).
    "auto" is "radio" for RADIO, and what its own library does for any other model."""
    layout: Layout = "auto"
    """"folders" (SPLIT/CLASS/*.jpg), "webdataset" (*SPLIT*.tar with .jpg and .cls); "auto" for what
    is there."""
    imagenet_labels: Switch = False
    """Tar shards hold ImageNet-1k's labels, so that they need no classnames.json."""
    batch_size: int = 16
    """Images a forward pass."""
    threads: int = 4
    """Threads that read and resize images while the model works."""
    device: str = "auto"
    """Where the model runs, such as "cuda:1"; "auto" takes a GPU where there is one."""
    amp: Precision = "float32"
    """Precision of the model (autocast). The protocol's is float32."""
    cache: Path = DEFAULT_CACHE
    """Folder where summaries are kept: the same model on the same data is not computed again, and
    an interrupted run goes on. Processes on several machines need one that all of them see."""
    cache_dtype: StoredDtype = "float32"
    """Of the summaries on disk; float16 takes half the space."""
    no_cache: Switch = False
    """Forget the summaries."""
    block_size: int = 2048
    """Images a file of the cache; an interrupted run repeats at most one file a process."""

    def load_model(self) -> EvalModel:
        """Load the model, to be fed with images of the wanted size and shape."""
        return self._load(choose_device(self.device, self.model))

    def _load(self, device: torch.device) -> EvalModel:
        model = load_eval_model(self.model, device=device, adaptor=self.adaptor)
        size = self.image_size
        if size is None and self.preprocess == "dinov2" and not model.square:
            size = _DINOV2_SIZE
        if size is not None:
            model = model.resized(size)
        if self.preprocess == "auto":
            return model
        crops = {
            "radio": None,
            "center-crop": CentreCrop(size=model.image_size, resize=model.image_size),
            "dinov2": CentreCrop(size=_DINOV2_SIZE, resize=_DINOV2_RESIZE).scaled(model.image_size),
        }
        return dataclasses.replace(model, crop=crops[self.preprocess])

    def extraction(self, processes: Processes) -> Extraction:
        """How summaries are computed and kept."""
        return Extraction(
            batch_size=self.batch_size,
            threads=self.threads,
            precision=self.amp,
            stored_dtype=self.cache_dtype,
            block_size=self.block_size,
            cache=None if self.no_cache else self.cache,
            processes=processes,
        )

    def evaluate(
        self,
        evaluator: KnnEvaluator | ZeroShotEvaluator,
        splits: Mapping[str, ClassificationSet],
        progress: Progress,
        processes: Processes,
    ) -> dict[str, Any]:
        """Evaluate with all processes, and return the result as JSON types.

        Args:
            evaluator: of the task.
            splits: its data by name, for the record.
            progress: listener.
            processes: those that were started together.
        """
        model = self._load(own_device(self.device, processes, self.model))
        evaluator = dataclasses.replace(evaluator, extraction=self.extraction(processes))
        result = run_evaluator(evaluator, model, progress).to_json()
        parameters = {
            **result["parameters"],
            "adaptor": self.adaptor or None,
            **evaluator.extraction.parameters(model),
        }
        if processes.is_first:
            self._say(model)
            _name_files(evaluator.skipped)
        return {
            **result,
            "parameters": parameters,
            "data": {name: data.identity() for name, data in splits.items()},
            "cache": None if self.no_cache else str(self.cache),
            "skipped": {what: _account(each) for what, each in evaluator.skipped.items()},
            "processes": processes.count,
        }

    def _say(self, model: EvalModel) -> None:
        """Say where the summaries are, and if images have another size than what was asked for."""
        if not self.no_cache:
            print(f"summaries are kept in {self.cache} (--no-cache forgets them)", file=sys.stderr)
        if self.image_size not in (None, model.image_size):
            print(
                f"images have {model.image_size} pixels instead of {self.image_size}: a multiple "
                f"of the model's step, {model.resize_step}",
                file=sys.stderr,
            )


@dataclass(frozen=True, kw_only=True)
class KnnOptions(ClassificationOptions):
    """kNN accuracy of summaries.

    Data: {train,val}/CLASS/*.jpg, such as ImageNet's folders, or WebDataset shards *train*.tar and
    *val*.tar; classnames.json {CLASS: name} lists the classes where a split lacks some. Start it
    with torchrun to share the work among processes; the result is the same.
    """

    k: int = 20
    """Neighbours that vote."""
    temperature: float = 0.07
    """A neighbour votes with exp(similarity / temperature)."""

    def evaluator(self) -> KnnEvaluator:
        """Read both splits."""
        train, val = read_train_and_val(
            self.data, self.layout, imagenet_labels=self.imagenet_labels
        )
        parameters = KnnParameters(k=self.k, temperature=self.temperature)
        return KnnEvaluator(train=train, val=val, parameters=parameters)

    def run(
        self, progress: Progress, processes: Processes, show: Show | None = None
    ) -> dict[str, Any]:
        """Evaluate, and return the result as JSON types; see `EvalOptions.run`."""
        evaluator = self.evaluator()
        splits = {"train": evaluator.train, "val": evaluator.val}
        if show is not None:
            observer = partial(_show_knn, show, evaluator)
            evaluator = dataclasses.replace(evaluator, observer=observer)
        return self.evaluate(evaluator, splits, progress, processes)


@dataclass(frozen=True, kw_only=True)
class ZeroShotOptions(ClassificationOptions):
    """Zero-shot accuracy of a model whose images and texts share a space.

    Data: val/CLASS/*.jpg or WebDataset shards *val*.tar, classnames.json {CLASS: name} (open_clip's
    names for ImageNet's own folders without it), templates.json (a list of sentences with "{}",
    OpenAI's 80 without it). Start it with torchrun to share the work; the result is the same.
    """

    def evaluator(self) -> ZeroShotEvaluator:
        """Read the validation split and the sentences."""
        val = read_split(
            self.data, "val", self.layout, imagenet_labels=self.imagenet_labels, readable=True
        )
        templates = read_templates(self.data) or openai_templates()
        return ZeroShotEvaluator(val=val, parameters=ZeroShotParameters(templates=templates))

    def run(
        self, progress: Progress, processes: Processes, show: Show | None = None
    ) -> dict[str, Any]:
        """Evaluate, and return the result as JSON types; see `EvalOptions.run`."""
        evaluator = self.evaluator()
        splits = {"val": evaluator.val}
        if show is not None:
            observer = partial(_show_zero_shot, show, evaluator)
            evaluator = dataclasses.replace(evaluator, observer=observer)
        return self.evaluate(evaluator, splits, progress, processes)


def _show_knn(
    show: Show,
    evaluator: KnnEvaluator,
    train: StoredSummaries,
    val: StoredSummaries,
    found: KnnPredictions,
) -> None:
    del show, evaluator, train, val, found


def _show_zero_shot(
    show: Show, evaluator: ZeroShotEvaluator, val: StoredSummaries, best: Tensor
) -> None:
    del show, evaluator, val, best


def _account(reasons: Mapping[str, str]) -> dict[str, Any]:
    skipped = Skipped()
    for path, reason in reasons.items():
        skipped.add(path, reason)
    return skipped.to_json()


def _name_files(skipped: Mapping[str, Mapping[str, str]]) -> None:
    """Name the first images that could not be read."""
    files = [item for each in skipped.values() for item in each.items()]
    for path, reason in files[:_SHOWN]:
        print(f"skipped {path}: {reason}", file=sys.stderr)
