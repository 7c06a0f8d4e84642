"""The toy world's evaluation sets, exported once and read like any other data."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from radio_core.data.toyworld.export import MANIFEST, export
from radio_eval.coco.instances import CocoInstances
from radio_eval.contract import Evaluator
from radio_eval.data import (
    KeptImages,
    LabelledImages,
    read_classification,
    read_templates,
)
from radio_eval.knn import KnnEvaluator
from radio_eval.linear_seg.evaluator import LinearSegEvaluator
from radio_eval.linear_seg.protocol import toy_protocol
from radio_eval.progress import Progress
from radio_eval.sam.miou import SamEvaluator
from radio_eval.segmentation.data import SegmentationImages, read_ade
from radio_eval.zero_shot import ZeroShotEvaluator, ZeroShotParameters


@dataclass(frozen=True, kw_only=True)
class ToySizes:
    """How much of the toy world an evaluation sees.

    Attributes:
        classification_train: images that kNN compares with.
        classification_val: images that kNN and zero-shot classify.
        dense_train: images that the segmentation head learns from.
        dense_val: images for segmentation.
        sam_val: images for SAM, at most `dense_val`.
        head_iterations: optimizer steps of the segmentation head.
        seed: the world.
    """

    classification_train: int = 800
    classification_val: int = 500
    dense_train: int = 400
    dense_val: int = 120
    sam_val: int = 100
    head_iterations: int = 400
    seed: int = 0

    def __post_init__(self) -> None:
        for name in (
            "classification_train",
            "classification_val",
            "dense_train",
            "dense_val",
            "sam_val",
            "head_iterations",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class ToyData:
    """The evaluation sets, their images kept in memory once decoded."""

    classification_train: LabelledImages
    classification_val: LabelledImages
    templates: tuple[str, ...]
    dense_train: SegmentationImages
    dense_val: SegmentationImages
    coco: CocoInstances
    sizes: ToySizes

    def evaluators(self) -> list[Evaluator]:
        """The four tasks; segmentation by the quick protocol of `toy_protocol`."""
        return [
            ZeroShotEvaluator(
                val=self.classification_val,
                parameters=ZeroShotParameters(templates=self.templates),
            ),
            KnnEvaluator(train=self.classification_train, val=self.classification_val),
            LinearSegEvaluator(
                train=self.dense_train,
                val=self.dense_val,
                parameters=toy_protocol(iterations=self.sizes.head_iterations),
            ),
            SamEvaluator(coco=self.coco),
        ]


def prepare_toy_data(root: Path, sizes: ToySizes, progress: Progress) -> ToyData:
    """Export what is not there yet, and read it.

    Args:
        root: folder for the exports; complete ones of the same sizes are used again.
        sizes: how much.
        progress: listener.
    """
    classes, dense = root / "classification", root / "dense"
    _export_once(
        classes,
        ("classification",),
        (sizes.classification_train, sizes.classification_val),
        sizes.seed,
        progress,
    )
    _export_once(
        dense,
        ("segmentation", "coco"),
        (sizes.dense_train, sizes.dense_val),
        sizes.seed,
        progress,
    )
    templates = read_templates(classes / "classification")
    if templates is None:
        raise ValueError(f"{classes} has no templates.json; remove the folder and run again")
    train, val = (read_classification(classes / "classification", s) for s in ("train", "val"))
    dense_train, dense_val = (read_ade(dense / "segmentation", s) for s in ("train", "val"))
    return ToyData(
        classification_train=dataclasses.replace(train, images=KeptImages(train.images)),
        classification_val=dataclasses.replace(val, images=KeptImages(val.images)),
        templates=templates,
        dense_train=dense_train.keep(),
        dense_val=dense_val.keep(),
        coco=CocoInstances(dense / "coco", "val2017", sizes.sam_val),
        sizes=sizes,
    )


def _export_once(
    out: Path, parts: tuple[str, ...], counts: tuple[int, int], seed: int, progress: Progress
) -> None:
    train, val = counts
    wanted = {"seed": seed, "train": train, "val": val, "parts": sorted(parts), "complete": True}
    manifest = out / MANIFEST
    if manifest.is_file():
        found = json.loads(manifest.read_text(encoding="utf-8"))
        if {**found, "parts": sorted(found.get("parts", []))} == wanted:
            return
    export(
        out,
        train,
        val,
        seed=seed,
        parts=parts,
        overwrite=manifest.is_file(),
        progress=lambda _, done, total: progress(
            f"toy scenes: {', '.join(parts)}", done, total or 0
        ),
    )
