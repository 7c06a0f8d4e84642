"""Semantic segmentation with a linear head on frozen features, as mmseg trains it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
import tyro

from radio_core.data.images import printable
from radio_core.vision import VisionModel
from radio_eval.data.preprocess import Preprocess
from radio_eval.data.segmentation import IGNORED, SegmentationImages, read_segmentation
from radio_eval.mmseg.pictures import Comparison, palette
from radio_eval.mmseg.probe import LinearProbe
from radio_eval.mmseg.protocol import PROTOCOLS, Augmentation, LinearSegParameters
from radio_eval.results import Json, plain
from radio_eval.runner import Context, Task

if TYPE_CHECKING:
    from radio_eval.report.sections import Section

_NUMBERS = (
    *("iterations", "batch_size", "learning_rate", "weight_decay", "warmup_iterations"),
    *("warmup_start", "poly_power", "scale", "crop", "inference", "stride", "label_stride"),
    *("images_per_forward", "seed"),
)
_SHOWN = 6
"""Val images in a report, the first one and others at equal distances."""


@dataclass(frozen=True, kw_only=True)
class LinearSeg(Task):
    """Linear-probe mIoU of features.

    Data: ADE20K ({images,annotations}/{training,validation}), VOC2012 (JPEGImages,
    SegmentationClass, ImageSets/Segmentation), or {train,val}/{images,masks} with classes.json.

    "mmseg" is the paper's protocol, made for GPUs; "toy" keeps the features of small images of one
    size and takes seconds. Flags that are not given have the protocol's numbers; the config that
    was published beside the paper is --iterations 80000 --crop 518 --inference whole for RADIO.
    Start it with torchrun to share the backbone's work among processes; the result is the same.
    """

    data: Path
    """Folder of the data set."""
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
    workers: int = 2
    """Processes that read and augment images; 0 does it in the main one."""
    out: Path | None = None
    """Folder for the checkpoint of the head, and for pictures. A training that was interrupted
    goes on where it stopped when it is started again."""
    overwrite: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Begin anew where --out holds a checkpoint."""
    save_images: int = 0
    """Write so many pictures of image, labels and prediction to OUT/images."""

    name: ClassVar[str] = "linear_seg"
    title: ClassVar[str] = "Segmentation with a linear head"
    headline: ClassVar[str] = "miou"

    def __post_init__(self) -> None:
        if self.out is None and (self.save_images or self.overwrite):
            raise ValueError("--save-images and --overwrite need --out DIR")
        if self.protocol == "toy" and self.augmentation != Augmentation():
            raise ValueError("the protocol toy has no augmentation; use --protocol mmseg")
        if self.workers < 0 or self.save_images < 0:
            raise ValueError("linear-seg workers and save_images must not be negative")
        _ = self.numbers

    @cached_property
    def numbers(self) -> LinearSegParameters:
        """The protocol's numbers with those of the fields in their place.

        Raises:
            ValueError: numbers that do not go together.
        """
        given = {name: getattr(self, name) for name in _NUMBERS}
        changes: dict[str, Any] = {name: n for name, n in given.items() if n is not None}
        if self.protocol == "mmseg":
            changes["augmentation"] = self.augmentation
            if self.image_size is not None:
                changes["image_size"] = self.image_size
        return PROTOCOLS[self.protocol](**changes)

    @cached_property
    def splits(self) -> tuple[SegmentationImages, SegmentationImages]:
        """Train and val images, read once.

        Raises:
            FolderError: they are missing, or do not fit.
        """
        train, val = (read_segmentation(self.data, s, self.layout) for s in ("train", "val"))
        if train.class_names != val.class_names:
            raise ValueError("train and val images of linear-seg must have the same classes")
        return train, val

    def parameters(self) -> Json:
        """The protocol's numbers."""
        size = {"image_size": self.image_size} if self.protocol == "toy" else {}
        numbers: Json = plain({**asdict(self.numbers), **size})
        return numbers

    def data_identity(self) -> Json:
        """Counts and hashes of both splits."""
        return {name: s.identity() for name, s in zip(("train", "val"), self.splits, strict=True)}

    def run(self, model: VisionModel, context: Context) -> Iterator[tuple[str, float]]:
        """Yield miou, pixel_accuracy, class_accuracy (percent), counts of images, and sizes.

        Raises:
            ValueError: no image could be used, or a checkpoint of another training.
            FolderError: a label map does not fit its image or the classes; the file is named.
        """
        train, val = self.splits
        shown = (place * len(val) // _SHOWN for place in range(_SHOWN))
        p = self.numbers.fitted(model.spec)
        # Only the toy protocol brings images to the model's size; mmseg's has a scale.
        preprocess = Preprocess.of(model, None if self.protocol == "mmseg" else self.image_size)
        outcome = LinearProbe(
            model=model,
            preprocess=preprocess,
            train=train,
            val=val,
            parameters=p,
            processes=context.processes,
            progress=context.progress,
            workers=self.workers,
            out=self.out,
            pictures=self.save_images,
            shown=frozenset() if context.sections is None else frozenset(shown),
            overwrite=self.overwrite,
        ).run()
        scores = outcome.scores
        class_iou = dict(zip(train.class_names, scores.iou_per_class, strict=True))
        context.parameters.update(plain(asdict(p)))
        context.record["class_iou"] = class_iou
        context.skipped["train images"] = outcome.skipped_train
        context.skipped["val images"] = outcome.skipped_val
        context.show(lambda: _sections(val, outcome.comparisons, class_iou))
        yield "miou", scores.miou
        yield "pixel_accuracy", scores.pixel_accuracy
        yield "class_accuracy", scores.class_accuracy
        yield "train_images", float(len(train) - len(outcome.skipped_train))
        yield "val_images", float(len(val) - len(outcome.skipped_val))
        yield "image_size", float(preprocess.size if p.scale is None else min(p.scale))
        if p.crop is not None:
            yield "crop", float(p.crop)
        if p.stride is not None:
            yield "stride", float(p.stride)


def _sections(
    val: SegmentationImages,
    comparisons: Sequence[Comparison],
    class_iou: Mapping[str, float | None],
) -> "list[Section]":
    """Images with their labels and predictions, and the IoU of every class."""
    from radio_eval.report.figures import bars_figure
    from radio_eval.report.sections import Card, Picture, Section

    colours, cards, seen = palette(), [], np.zeros(256, bool)
    for each in comparisons:
        counted = each.label != IGNORED
        share = (each.prediction == each.label)[counted].mean() if counted.any() else None
        words = (
            "no labelled pixels" if share is None else f"{100 * share:.0f} % of the pixels right"
        )
        seen[each.label.ravel()] = seen[each.prediction.ravel()] = True
        cards.append(
            Card(
                title=f"{printable(val.images[each.place].name)} · {words}",
                pictures=[
                    Picture(each.image, "image as the model saw it"),
                    Picture(colours[each.label], "labels"),
                    Picture(colours[each.prediction], "prediction"),
                ],
            )
        )
    css = ["#" + "".join(f"{level:02x}" for level in colour) for colour in colours.tolist()]
    names = {**dict(enumerate(val.class_names)), IGNORED: "ignored"}
    ranked = sorted(
        enumerate(class_iou.items()),
        key=lambda item: -1.0 if item[1][1] is None else item[1][1],
        reverse=True,
    )
    return [
        Section(
            title="Labels and predictions",
            text=f"{len(cards)} of {len(val)} validation images, at equal distances in the order "
            "of their names.",
            legend=[(names[number], css[number]) for number in np.flatnonzero(seen).tolist()],
            cards=cards,
        ),
        Section(
            title="IoU of every class",
            text="In percent, best first, in the colours of the pictures. A dash: the class is "
            "neither in the labels nor predicted.",
            figures=[
                bars_figure([found for _, found in ranked], [css[number] for number, _ in ranked])
            ],
        ),
    ]
