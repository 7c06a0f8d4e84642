"""Score masks against COCO annotations: radio score {sam-miou,coco-segm}."""

import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.console import Console

from radio_core.data.folder import FolderError
from radio_core.data.images import printable
from radio_eval.coco.annotations import CocoAnnotations
from radio_eval.coco.ap import mask_ap, read_scored_masks
from radio_eval.progress import rich_progress
from radio_eval.sam.predictions import missing_predictions, read_predictions, score_predictions
from radio_eval.sam.scores import summarise

Scores = Mapping[str, float | int | None]


@dataclass(frozen=True, kw_only=True)
class MaskScoreOptions(ABC):
    """What every score of masks takes."""

    annotations: Path
    """The truth: an instances_*.json in COCO's format."""
    predictions: Path
    """What is scored."""
    json: Path | None = None
    """File for the scores."""

    @abstractmethod
    def scores(self) -> Scores:
        """Read the files and score; None where there is nothing to score."""

    def read_annotations(self) -> CocoAnnotations:
        """The truth; annotations that cannot be used are counted on stderr."""
        annotations = CocoAnnotations(self.annotations)
        for what, skipped in (
            ("images", annotations.skipped_records),
            ("annotations", annotations.skipped),
        ):
            if skipped:
                account = skipped.to_json()
                reasons = ", ".join(f"{n} {why}" for why, n in account["reasons"].items())
                print(f"skipped {account['count']} broken {what}: {reasons}", file=sys.stderr)
        if annotations.skipped and not annotations.instances_of:
            raise FolderError(f"{printable(self.annotations)} has no annotation that can be used")
        return annotations


@dataclass(frozen=True, kw_only=True)
class SamMiouOptions(MaskScoreOptions):
    """Mean IoU (percent) over annotations, crowds included, as in the evaluation of SAM on COCO.

    Predictions: a JSON list of {"annotation_id", "segmentation": RLE}, compressed or not. Sizes go
    by the annotation's area: up to 32 x 32 small, from 96 x 96 large, limits inclusive on both
    sides.
    """

    missing: Literal["error", "skip", "zero"] = "error"
    """An annotation without a prediction is an error, does not count, or has an IoU of 0."""

    def scores(self) -> Scores:
        """Keys: all, small, medium, large (None for an empty group) and count."""
        annotations = self.read_annotations()
        predictions = read_predictions(self.predictions, annotations)
        missing = {i.annotation_id for i in missing_predictions(annotations, predictions)}
        instances = list(annotations.by_id().values())
        if missing and self.missing == "error":
            raise FolderError(
                f"{len(missing)} of {len(instances)} annotations have no prediction (the first: "
                f"{next(iter(missing))}); --missing skip leaves them out, --missing zero counts "
                "them as 0"
            )
        if self.missing == "skip":
            instances = [i for i in instances if i.annotation_id not in missing]
        scores = []
        with rich_progress(Console(stderr=True)) as progress:
            for score in score_predictions(instances, predictions):
                scores.append(score)
                progress("masks", len(scores), len(instances))
        summary = summarise(scores)
        return {**summary, "count": len(scores)}


@dataclass(frozen=True, kw_only=True)
class CocoSegmOptions(MaskScoreOptions):
    """COCO's average precision and recall of masks (fractions; -1: nothing to find).

    Predictions: a JSON list of {"image_id", "category_id", "segmentation": RLE, "score"}. A "bbox"
    is not looked at, so that areas come from the masks.
    """

    def scores(self) -> Scores:
        """COCO's twelve numbers."""
        annotations = self.read_annotations()
        masks = read_scored_masks(self.predictions, annotations)
        return mask_ap(annotations, annotations.records.keys(), masks)
