"""Semantic segmentation with a linear head on frozen features (mmseg's linear probe)."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from radio_eval.data import Collected, LabelMaps, SegmentationImages, collect
from radio_eval.eval_model import EvalModel, need
from radio_eval.progress import Progress
from radio_eval.segmentation_metrics import ConfusionMatrix, SegmentationScores


@dataclass(frozen=True, kw_only=True)
class LinearSegParameters:
    """Parameters of the linear probe.

    Features are computed once and kept, so the mmseg augmentations (random resize, crop, flip,
    photometric distortion) are off and every image is seen whole, in training and in test.

    Attributes:
        iterations: optimizer steps.
        batch_size: images a step.
        learning_rate: of AdamW, at the end of the warm-up.
        weight_decay: of AdamW.
        warmup_iterations: steps of the linear warm-up.
        warmup_start: learning rate of the first step.
        label_stride: the training loss sees every n-th label pixel of each side; 1 is mmseg's.
        ignore_index: label of pixels that count nowhere.
        seed: of the head's initialisation and the order of the images.
        features_per_batch: images a forward pass of the backbone.
        augmentation: what is done to train images; "none" because features are cached.
        inference: "whole" images, not sliding windows.
    """

    iterations: int = 1000
    batch_size: int = 16
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    warmup_iterations: int = 50
    warmup_start: float = 1e-6
    label_stride: int = 1
    ignore_index: int = 255
    seed: int = 0
    features_per_batch: int = 16
    augmentation: str = "none"
    inference: str = "whole"

    def __post_init__(self) -> None:
        for name in ("iterations", "batch_size", "label_stride", "features_per_batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"linear-seg parameter {name} must be at least 1")
        if (self.augmentation, self.inference) != ("none", "whole"):
            raise ValueError("linear-seg knows augmentation 'none' and inference 'whole' only")


def learning_rate_at(step: int, parameters: LinearSegParameters) -> float:
    """Linear warm-up, then polynomial decay of power 1 to 0 at the last step."""
    p = parameters
    if step < p.warmup_iterations:
        share = step / p.warmup_iterations
        return p.warmup_start + (p.learning_rate - p.warmup_start) * share
    return p.learning_rate * (p.iterations - step) / max(1, p.iterations - p.warmup_iterations)


def make_head(channels: int, num_classes: int) -> nn.Sequential:
    """BatchNorm and a 1x1 convolution with bias: features [B, C, h, w] -> logits [B, K, h, w]."""
    classifier = nn.Conv2d(channels, num_classes, kernel_size=1)
    nn.init.normal_(classifier.weight, std=0.01)
    if classifier.bias is not None:
        nn.init.zeros_(classifier.bias)
    return nn.Sequential(nn.BatchNorm2d(channels), classifier)


def pixel_loss(logits: Tensor, labels: Tensor, ignore_index: int = 255) -> Tensor:
    """Cross entropy summed over labelled pixels, divided by all pixels, ignored ones included.

    Args:
        logits: [B, K, h, w], upsampled bilinearly to the labels.
        labels: [B, H, W] int64 in [0, K) or `ignore_index`.
    """
    upsampled = F.interpolate(logits, size=labels.shape[-2:], mode="bilinear", align_corners=False)
    total = F.cross_entropy(upsampled, labels, ignore_index=ignore_index, reduction="sum")
    return total / labels.numel()


def train_head(
    features: Collected,
    labels: LabelMaps,
    num_classes: int,
    parameters: LinearSegParameters,
    progress: Progress,
) -> nn.Sequential:
    """Train the linear head on kept features.

    Args:
        features: per used image [C, h, w], all of one shape.
        labels: label maps [H, W], all of one shape, by image number.
        num_classes: K.
        parameters: the protocol.
        progress: listener.

    Returns:
        The head in eval mode.

    Raises:
        ValueError: no train images, or images of several sizes.
    """
    p = parameters
    inputs = features.stack()  # [N, C, h, w]
    stride = slice(p.label_stride // 2, None, p.label_stride)
    targets = torch.stack([labels[i][stride, stride] for i in features.indices])  # [N, H, W]
    generator = torch.Generator().manual_seed(p.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(p.seed)
        head = make_head(inputs.shape[1], num_classes)
    optimizer = torch.optim.AdamW(head.parameters(), p.learning_rate, weight_decay=p.weight_decay)
    order = torch.empty(0, dtype=torch.long)
    for step in range(p.iterations):
        if len(order) < p.batch_size:
            order = torch.cat([order, torch.randperm(len(inputs), generator=generator)])
        batch, order = order[: p.batch_size], order[p.batch_size :]
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(step, p)
        optimizer.zero_grad(set_to_none=True)
        pixel_loss(head(inputs[batch]), targets[batch].long(), p.ignore_index).backward()
        optimizer.step()
        progress("linear-seg head", step + 1, p.iterations)
    return head.eval()


@torch.no_grad()
def score_head(
    head: nn.Module, features: Collected, labels: LabelMaps, num_classes: int, ignore_index: int
) -> SegmentationScores:
    """Scores of a head: logits are brought to each original label map before the argmax."""
    confusion = ConfusionMatrix(num_classes, ignore_index)
    for feature, index in zip(features.outputs, features.indices.tolist(), strict=True):
        label = labels[index]
        logits = F.interpolate(
            head(feature[None]), size=label.shape[-2:], mode="bilinear", align_corners=False
        )
        confusion.update(logits[0].argmax(dim=0), label)
    return confusion.scores()


@dataclass(frozen=True, kw_only=True)
class LinearSegEvaluator:
    """Linear-probe mIoU (percent) of a model's spatial features."""

    train: SegmentationImages
    val: SegmentationImages
    parameters: LinearSegParameters = LinearSegParameters()
    task: ClassVar[str] = "linear_seg"
    headline: ClassVar[str] = "miou"
    capability: ClassVar[str] = "features"

    def __call__(self, model: EvalModel, progress: Progress) -> Iterator[tuple[str, float]]:
        """Yield miou, pixel_accuracy, class_accuracy (percent) and the used image counts."""
        p = self.parameters
        encode = need(model.features, model, "features", self.task)
        train, val = (
            collect(
                encode,
                model,
                images,
                p.features_per_batch,
                progress,
                f"linear-seg {split} images",
                whole=True,
            )
            for split, images in (("train", self.train.images), ("val", self.val.images))
        )
        classes = len(self.train.class_names)
        head = train_head(train, self.train.labels, classes, p, progress)
        scores = score_head(head, val, self.val.labels, classes, p.ignore_index)
        yield "miou", scores.miou
        yield "pixel_accuracy", scores.pixel_accuracy
        yield "class_accuracy", scores.class_accuracy
        yield "train_images", float(len(train.indices))
        yield "val_images", float(len(val.indices))
        yield "image_size", float(model.image_size)
