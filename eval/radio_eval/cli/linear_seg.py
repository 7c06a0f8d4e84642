"""The task `radio eval linear-seg`: a linear head on frozen features, as mmseg trains it."""

import dataclasses
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro

from radio_core.cli import UsageError
from radio_core.devices import choose_device
from radio_eval.cli.eval_options import EvalOptions, own_device
from radio_eval.contract import run_evaluator
from radio_eval.eval_model import EvalModel
from radio_eval.linear_seg.evaluator import LinearSegEvaluator
from radio_eval.linear_seg.protocol import PROTOCOLS, LinearSegParameters
from radio_eval.linear_seg.train import CHECKPOINT_FILE
from radio_eval.linear_seg.transforms import Augmentation
from radio_eval.models import load_eval_model
from radio_eval.processes import Processes
from radio_eval.progress import Progress
from radio_eval.report.sections import Show
from radio_eval.report.segmentation import linear_seg_sections, shown_images
from radio_eval.segmentation.data import read_segmentation

_PARAMETERS = (
    *("iterations", "batch_size", "learning_rate", "weight_decay", "warmup_iterations"),
    *("warmup_start", "poly_power", "scale", "crop", "inference", "stride", "label_stride"),
    *("images_per_forward", "seed"),
)
_SHOWN = 10
"""Unreadable files that are named on the screen; the result file names all."""


@dataclass(frozen=True, kw_only=True)
class LinearSegOptions(EvalOptions):
    """Linear-probe mIoU of features.

    Data: ADE20K ({images,annotations}/{training,validation}), VOC2012 (JPEGImages,
    SegmentationClass, ImageSets/Segmentation), or {train,val}/{images,masks} with classes.json.

    "mmseg" is the paper's protocol, made for GPUs; "toy" keeps the features of small images of one
    size and takes seconds. Flags that are not given have the protocol's numbers; the config that
    was published beside the paper is --iterations 80000 --crop 518 --inference whole for RADIO.
    Start it with torchrun to share the backbone's work among processes; the result is the same.
    """

    protocol: Literal["mmseg", "toy"] = "mmseg"
    """The numbers that the flags below change."""
    iterations: int | None = None
    """Optimizer steps of the head: 160000 (mmseg; the published config has 80000), 400 (toy)."""
    image_size: int | None = None
    """Shorter side in pixels to which images are brought, and side of the crops: 512 (mmseg), the
    model's own (toy)."""
    scale: tuple[int, int] | None = None
    """Most pixels of the longer and of the shorter side: 4 and 1 times the image size (mmseg)."""
    crop: int | None = None
    """Side in pixels of train crops and windows: the image size (mmseg), rounded up to what the
    model takes."""
    inference: Literal["slide", "whole"] | None = None
    """Sliding windows whose logits are averaged (mmseg), or whole images (toy)."""
    stride: int | None = None
    """Pixels between neighbouring windows: two thirds of the crop."""
    batch_size: int | None = None
    """Images a step: 16."""
    learning_rate: float | None = None
    """Of AdamW, after the warm-up: 0.001 (mmseg), 0.01 (toy)."""
    weight_decay: float | None = None
    """Of AdamW: 0."""
    warmup_iterations: int | None = None
    """Steps of linear warm-up: 1500 (mmseg), 50 (toy), at most a tenth of the iterations."""
    warmup_start: float | None = None
    """Learning rate of the first step: 0.000001."""
    poly_power: float | None = None
    """Of the decay to 0 after the warm-up: 1."""
    label_stride: int | None = None
    """The training loss sees every n-th label pixel of each side: 1 (mmseg), 4 (toy)."""
    augmentation: Augmentation = field(default_factory=Augmentation)
    """Of train images (mmseg)."""
    images_per_forward: int | None = None
    """Images or windows that the backbone sees at once: 4 (mmseg), 16 (toy)."""
    seed: int | None = None
    """Of the head, the order of the images and the augmentation: 0."""
    layout: Literal["auto", "ade20k", "voc2012", "folders"] = "auto"
    """Layout of the data; told from the folders by default."""
    device: str = "auto"
    """Where the model runs, such as "cuda:1"; "auto" takes a GPU where there is one."""
    workers: int = 2
    """Processes that read and augment images; 0 does it in the main one."""
    out: Path | None = None
    """Folder for the checkpoint of the head, and for pictures. A training that was interrupted
    goes on where it stopped when it is started again."""
    overwrite: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Begin anew where --out holds a checkpoint."""
    save_images: int = 0
    """Write so many pictures of image, labels and prediction to OUT/images."""

    def __post_init__(self) -> None:
        if self.out is None and (self.save_images or self.overwrite):
            raise UsageError("--save-images and --overwrite need --out DIR")
        if self.protocol == "toy" and self.augmentation != Augmentation():
            raise UsageError("the protocol toy has no augmentation; use --protocol mmseg")

    def parameters(self) -> LinearSegParameters:
        """The protocol's numbers with those of the flags in their place.

        Raises:
            ValueError: numbers that do not go together.
        """
        given = {name: getattr(self, name) for name in _PARAMETERS}
        changes: dict[str, Any] = {name: n for name, n in given.items() if n is not None}
        if self.protocol == "mmseg":
            changes["augmentation"] = self.augmentation
            if self.image_size is not None:
                changes["image_size"] = self.image_size
        return PROTOCOLS[self.protocol](**changes)

    def evaluator(self) -> LinearSegEvaluator:
        """Read both splits."""
        return LinearSegEvaluator(
            train=read_segmentation(self.data, "train", self.layout),
            val=read_segmentation(self.data, "val", self.layout),
            parameters=self.parameters(),
            workers=self.workers,
            out=self.out,
            pictures=self.save_images,
        )

    def load_model(self) -> EvalModel:
        """Load the model; the protocol toy feeds it images of `image_size`."""
        return self._load(choose_device(self.device, self.model))

    def _load(self, device: torch.device) -> EvalModel:
        model = load_eval_model(self.model, device=device)
        if self.protocol == "toy" and self.image_size is not None:
            return model.resized(self.image_size)
        return model

    def run(
        self, progress: Progress, processes: Processes, show: Show | None = None
    ) -> dict[str, Any]:
        """Evaluate with all processes, and return the result as JSON types."""
        evaluator = self.evaluator()
        model = self._load(own_device(self.device, processes, self.model))
        evaluator = dataclasses.replace(
            evaluator,
            processes=processes,
            parameters=evaluator.parameters.fitted(model),
            shown=frozenset() if self.report is None else shown_images(len(evaluator.val)),
        )
        if self.overwrite and self.out is not None and processes.is_first:
            (self.out / CHECKPOINT_FILE).unlink(missing_ok=True)
        processes.wait()
        result = run_evaluator(evaluator, model, progress).to_json()
        skipped = evaluator.skipped()
        if processes.is_first:
            _name_files(skipped)
        if show is not None:
            show(linear_seg_sections(evaluator))
        return {
            **result,
            "data": {"train": evaluator.train.identity(), "val": evaluator.val.identity()},
            "class_iou": evaluator.class_iou,
            "skipped": skipped,
            "processes": processes.count,
        }


def _name_files(skipped: dict[str, Any]) -> None:
    """Name the first files that could not be read."""
    files = [item for account in skipped.values() for item in account["each"].items()]
    for path, reason in files[:_SHOWN]:
        print(f"skipped {path}: {reason}", file=sys.stderr)
