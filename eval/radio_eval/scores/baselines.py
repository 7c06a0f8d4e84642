"""Scores that need no model: what an evaluation gives to somebody who does not look."""

import torch

from radio_eval.coco.instances import CocoInstances
from radio_eval.data import LabelledImages
from radio_eval.sam.miou import score_boxes
from radio_eval.sam.scores import summarise
from radio_eval.segmentation.data import SegmentationImages
from radio_eval.segmentation.metrics import ConfusionMatrix


def chance_accuracy(val: LabelledImages) -> float:
    """Expected accuracy (percent) of a uniform guess among the classes."""
    return 100.0 / len(val.class_names)


def majority_accuracy(train: LabelledImages, val: LabelledImages) -> float:
    """Accuracy (percent) of always answering the class that is most frequent in `train`."""
    answer = train.labels.bincount(minlength=len(train.class_names)).argmax()
    return 100.0 * float((val.labels == answer).double().mean())


def majority_miou(train: SegmentationImages, val: SegmentationImages) -> float:
    """mIoU (percent) of giving every pixel the class that is most frequent in `train`."""
    classes = len(train.class_names)
    counts = torch.zeros(256, dtype=torch.long)
    for index in range(len(train.labels)):
        counts += train.labels[index].flatten().long().bincount(minlength=256)
    answer = int(counts[:classes].argmax())
    confusion = ConfusionMatrix(classes)
    for index in range(len(val.labels)):
        label = val.labels[index]
        confusion.update(torch.full_like(label, answer), label)
    return confusion.scores().miou


def filled_box_miou(coco: CocoInstances) -> float:
    """Mean IoU (percent) of the ground-truth boxes, filled, as masks."""
    value = summarise(score_boxes(coco))["all"]
    if value is None:
        raise ValueError("the COCO split has no annotations")
    return value
