"""Scores that need no model: what an evaluation gives to somebody who does not look."""

import torch

from radio_eval.data.classification import ClassificationSet
from radio_eval.data.coco import CocoInstances
from radio_eval.data.segmentation import SegmentationImages
from radio_eval.scores.masks import box_mask, mask_iou
from radio_eval.scores.segmentation import ConfusionMatrix


def majority_accuracy(train: ClassificationSet, val: ClassificationSet) -> float:
    """Accuracy (percent) of always answering the class that is most frequent in `train`."""
    asked, truth = (
        torch.tensor([item.label for block in split.blocks(4096) for item in block.items()])
        for split in (train, val)
    )
    return 100.0 * float((truth == asked.bincount().argmax()).double().mean())


def majority_miou(train: SegmentationImages, val: SegmentationImages) -> float:
    """mIoU (percent) of giving every pixel the class that is most frequent in `train`."""
    classes = len(train.class_names)
    counts = torch.zeros(256, dtype=torch.long)
    for index in range(len(train)):
        counts += train.label(index).flatten().long().bincount(minlength=256)
    answer = int(counts[:classes].argmax())
    confusion = ConfusionMatrix(classes)
    for index in range(len(val)):
        label = val.label(index)
        confusion.update(torch.full_like(label, answer), label)
    return confusion.scores().miou


def filled_box_miou(coco: CocoInstances) -> float:
    """Mean IoU (percent) of the ground-truth boxes, filled, as masks."""
    instances = [each for image_id in coco.image_ids for each in coco.instances(image_id)]
    if not instances:
        raise ValueError("the COCO split has no annotations")
    masks = [(each, each.mask) for each in instances]
    ious = [mask_iou(box_mask(each.box, *mask.shape), mask) for each, mask in masks]
    return sum(ious) / len(ious)
