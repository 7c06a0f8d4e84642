"""Score files of predictions, without a model: masks, label maps and answers to questions."""

import json
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from radio_core.data.folder import FolderError
from radio_core.data.images import printable
from radio_core.progress import rich_progress
from radio_eval.data.answers import read_answers, read_lines
from radio_eval.data.coco import CocoAnnotations, read_predictions, read_results
from radio_eval.data.coco_masks import decode_mask
from radio_eval.data.segmentation import IGNORED, pair_label_maps, read_label_map
from radio_eval.results import Json, write_whole
from radio_eval.scores.masks import mask_ap, mask_iou, mean_iou
from radio_eval.scores.segmentation import ConfusionMatrix
from radio_eval.scores.vqa_benchmarks import Gqa, Pope, ScienceQa, TextVqa, Vqav2

_MOST_CLASSES = 4096
"""Every pair of classes is counted."""


@dataclass(frozen=True, kw_only=True)
class ScoreOptions(ABC):
    """What every score takes."""

    json: Path | None = None
    """File for the scores."""

    @abstractmethod
    def scores(self) -> Json:
        """Read the files and return the scores by name; None for an empty group."""

    def tell(self) -> int:
        """Print the scores, write them where that is wanted, and return the exit code."""
        scores = self.scores()
        for name, value in scores.items():
            print(f"{name}: {_shown(value)}")
        if self.json is not None:
            write_whole(self.json, json.dumps(scores, indent=2) + "\n")
        return 0


def _shown(value: float | int | Mapping[str, Any] | Sequence[float | None] | None) -> str:
    if value is None:
        return "-"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_shown(part)}" for name, part in value.items())
    if isinstance(value, Sequence):
        return ", ".join(_shown(part) for part in value)
    return str(value) if isinstance(value, int) else f"{value:.4f}"


@dataclass(frozen=True, kw_only=True)
class CocoSegmOptions(ScoreOptions):
    """COCO's average precision and recall of masks (fractions; -1: nothing to find).

    Predictions: a JSON list of {"image_id", "category_id", "segmentation": RLE, "score"}. A "bbox"
    is not looked at, so that areas come from the masks.
    """

    annotations: Path
    """The truth: an instances_*.json in COCO's format."""
    predictions: Path
    """What is scored."""

    def scores(self) -> Json:
        """See `ScoreOptions`."""
        annotations = _read_annotations(self.annotations)
        results = read_results(self.predictions, annotations)
        return mask_ap(annotations.to_json(), results, annotations.records)


@dataclass(frozen=True, kw_only=True)
class SamMiouOptions(ScoreOptions):
    """Mean IoU (percent) over annotations, crowds included, as in the evaluation of SAM on COCO.

    Predictions: a JSON list of {"annotation_id", "segmentation": RLE}, compressed or not. Sizes go
    by the annotation's area: up to 32 x 32 small, from 96 x 96 large, limits inclusive on both
    sides.
    """

    annotations: Path
    """The truth: an instances_*.json in COCO's format."""
    predictions: Path
    """What is scored."""
    missing: Literal["error", "skip", "zero"] = "error"
    """An annotation without a prediction is an error, does not count, or has an IoU of 0."""

    def scores(self) -> Json:
        """See `ScoreOptions`."""
        annotations = _read_annotations(self.annotations)
        predictions = read_predictions(self.predictions, annotations)
        instances = annotations.by_id()
        missing = [number for number in instances if number not in predictions]
        if missing and self.missing == "error":
            raise FolderError(
                f"{len(missing)} of {len(instances)} annotations have no prediction (the first: "
                f"{missing[0]}); --missing skip leaves them out, --missing zero counts them as 0"
            )
        scores: list[tuple[float, float]] = []
        with rich_progress() as progress:
            for done, (number, instance) in enumerate(instances.items(), start=1):
                if number in predictions:
                    iou = mask_iou(decode_mask(predictions[number]), instance.mask)
                    scores.append((instance.area, iou))
                elif self.missing == "zero":
                    scores.append((instance.area, 0.0))
                progress("masks", done, len(instances))
        return {**mean_iou(scores), "count": len(scores)}


def _read_annotations(path: Path) -> CocoAnnotations:
    """The truth; annotations that cannot be used are counted on stderr."""
    annotations = CocoAnnotations(path)
    for what, skipped in (
        ("images", annotations.skipped_records),
        ("annotations", annotations.skipped),
    ):
        if skipped:
            reasons = ", ".join(f"{n} {why}" for why, n in skipped.to_json()["reasons"].items())
            print(f"skipped {len(skipped)} broken {what}: {reasons}", file=sys.stderr)
    if annotations.skipped and not annotations.instances_of:
        raise FolderError(f"{printable(path)} has no annotation that can be used")
    return annotations


@dataclass(frozen=True, kw_only=True)
class SegMiouOptions(ScoreOptions):
    """Semantic segmentation as mmseg scores it (percent): files are paired by their stems.

    Both folders hold PNGs with one channel (8 or 16 bits, or a palette), whose pixel values are
    class numbers. Where the label is ignored, the prediction may hold anything.
    """

    predictions: Path
    """Folder of predicted label maps, with classes from 0 on."""
    labels: Path
    """Folder of true label maps."""
    num_classes: int
    """Number of classes, after the shift if there is one."""
    ignore_index: int = IGNORED
    """Label of the pixels that count nowhere, as it is stored."""
    reduce_zero_label: bool = False
    """Shift the labels, not the predictions: 0 is ignored, 1 becomes class 0 (ADE20K)."""

    def scores(self) -> Json:
        """See `ScoreOptions`."""
        if not 1 <= self.num_classes <= _MOST_CLASSES:
            raise ValueError(f"num_classes {self.num_classes} must be from 1 to {_MOST_CLASSES}")
        confusion = ConfusionMatrix(self.num_classes, self.ignore_index)
        pairs = pair_label_maps(self.predictions, self.labels)
        with rich_progress() as progress:
            for done, (prediction, label) in enumerate(pairs, start=1):
                predicted, truth = read_label_map(prediction), read_label_map(label)
                ignored = truth == self.ignore_index
                if self.reduce_zero_label:
                    ignored, truth = ignored | (truth == 0), truth - 1
                try:
                    confusion.update(predicted, truth, ignored)
                except ValueError as error:
                    raise FolderError(f"{prediction} against {label}: {error}") from error
                progress("label maps", done, len(pairs))
        found = confusion.scores()
        return {
            "mIoU": found.miou,
            "aAcc": found.pixel_accuracy,
            "mAcc": found.class_accuracy,
            "IoU_per_class": list(found.iou_per_class),
        }


@dataclass(frozen=True, kw_only=True)
class AnswersOptions(ScoreOptions):
    """What every score of answers takes; all are percentages."""

    answers: Path
    """LLaVA's answers, one JSON object a line with question_id, prompt and text."""


@dataclass(frozen=True, kw_only=True)
class GqaOptions(AnswersOptions):
    """GQA: exact equality after lower case and without full stops at the end."""

    questions: Path
    """GQA's questions with answers (testdev_balanced_questions.json)."""

    def scores(self) -> Json:
        """See `ScoreOptions`."""
        return Gqa(self.questions).score(read_answers(self.answers))


@dataclass(frozen=True, kw_only=True)
class TextVqaOptions(AnswersOptions):
    """TextVQA: soft accuracy against ten people's answers, all normalised."""

    annotations: Path
    """TextVQA's annotations (TextVQA_0.5.1_val.json)."""

    def scores(self) -> Json:
        """See `ScoreOptions`."""
        return TextVqa(self.annotations).score(read_answers(self.answers))


@dataclass(frozen=True, kw_only=True)
class PopeOptions(AnswersOptions):
    """POPE: yes or no, labels and answers paired line by line."""

    questions: Path
    """POPE's labels of one split (coco_pope_random.json)."""
    llava_questions: Path | None = None
    """LLaVA's question lines (llava_pope_test.jsonl), if the answers are to all splits at once."""

    def scores(self) -> Json:
        """See `ScoreOptions`."""
        splits: dict[str, str] | None = None
        if self.llava_questions is not None:
            lines = (line for _, line in read_lines(self.llava_questions))
            splits = {str(x.get("question_id")): str(x.get("category")) for x in lines}
        benchmark = Pope(self.questions) if splits is None else Pope(self.questions, splits=splits)
        scores: Json = benchmark.score(read_answers(self.answers))
        return next(iter(scores.get("splits", {}).values()), scores)


@dataclass(frozen=True, kw_only=True)
class Vqav2Options(AnswersOptions):
    """VQAv2: the official evaluator on what goes to the server (normalised, '' for missing)."""

    questions: Path
    """VQAv2's questions, or LLaVA's question lines for them (.jsonl)."""
    annotations: Path | None = None
    """VQAv2's annotations; not needed to write a submission."""
    submission: Path | None = None
    """File to write for the evaluation server EvalAI."""
    normalise: bool = True
    """Normalise the answers first, as LLaVA does before it uploads."""

    def __post_init__(self) -> None:
        if self.annotations is None and self.submission is None:
            raise ValueError("nothing to do: name --annotations, --submission or both")

    def scores(self) -> Json:
        """See `ScoreOptions`."""
        answers = read_answers(self.answers)
        benchmark = Vqav2(self.questions, self.annotations, normalise=self.normalise)
        scores = benchmark.score(answers)
        if self.submission is not None:
            write_whole(self.submission, json.dumps(benchmark.submission(answers)))
        return scores


@dataclass(frozen=True, kw_only=True)
class ScienceQaOptions(AnswersOptions):
    """ScienceQA: the letter of the right choice; a missing answer is wrong."""

    problems: Path
    """ScienceQA's problems.json."""
    splits: Path
    """ScienceQA's pid_splits.json."""
    split: str = "test"
    """Name of a list in it."""

    def scores(self) -> Json:
        """See `ScoreOptions`."""
        benchmark = ScienceQa(self.problems, self.splits, self.split)
        return benchmark.score(read_answers(self.answers))


def coco_segm(options: CocoSegmOptions) -> int:
    """Score masks of objects by COCO's average precision and recall."""
    return options.tell()


def sam_miou(options: SamMiouOptions) -> int:
    """Score a mask for each annotation by mean IoU, as Segment Anything is evaluated on COCO."""
    return options.tell()


def seg_miou(options: SegMiouOptions) -> int:
    """Score label maps by mean IoU and accuracy, as mmseg does."""
    return options.tell()


def gqa(options: GqaOptions) -> int:
    """Score answers to GQA's questions."""
    return options.tell()


def textvqa(options: TextVqaOptions) -> int:
    """Score answers to TextVQA's questions."""
    return options.tell()


def pope(options: PopeOptions) -> int:
    """Score answers to one split of POPE."""
    return options.tell()


def vqav2(options: Vqav2Options) -> int:
    """Score answers to VQAv2's questions, or write them for the evaluation server."""
    return options.tell()


def scienceqa(options: ScienceQaOptions) -> int:
    """Score answers to ScienceQA's questions."""
    return options.tell()
