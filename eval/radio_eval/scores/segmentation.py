"""Intersection over union of label maps, summed over a whole data set as mmseg does."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class SegmentationScores:
    """Percentages, rounded to 2 decimals.

    Attributes:
        miou: mean IoU over the classes that occur in labels or predictions.
        pixel_accuracy: share of labelled pixels that are right ("aAcc").
        class_accuracy: mean recall over the classes that occur in labels ("mAcc").
        iou_per_class: IoU of each class; None for a class in neither labels nor predictions.
    """

    miou: float
    pixel_accuracy: float
    class_accuracy: float
    iou_per_class: tuple[float | None, ...]


class ConfusionMatrix:
    """Counts (label, prediction) pairs of pixels over a data set.

    Args:
        num_classes: number of classes C.
        ignore_index: label of the pixels that count nowhere.
    """

    def __init__(self, num_classes: int, ignore_index: int = 255) -> None:
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.counts = torch.zeros(num_classes, num_classes, dtype=torch.long)  # [label, pred]

    def update(self, prediction: Tensor, label: Tensor, ignored: Tensor | None = None) -> None:
        """Add integer maps of equal shape; predictions lie in [0, C).

        Where `ignored` (bool) pixels count nowhere; by default where the label is `ignore_index`.

        Raises:
            ValueError: shapes differ, or a value lies outside [0, C) and is not ignored.
        """
        if prediction.shape != label.shape:
            raise ValueError(
                f"prediction {tuple(prediction.shape)} and label {tuple(label.shape)} "
                "differ in size"
            )
        keep = label != self.ignore_index if ignored is None else ~ignored
        pred, true = prediction[keep].long(), label[keep].long()
        besides = f" and {self.ignore_index} (ignored)"
        for name, values, also in (("prediction", pred, ""), ("label", true, besides)):
            outside = values[(values < 0) | (values >= self.num_classes)]
            if outside.numel():
                raise ValueError(
                    f"{name} holds class {int(outside.max())}; "
                    f"valid are 0 to {self.num_classes - 1}{also}"
                )
        cells = torch.bincount(true * self.num_classes + pred, minlength=self.num_classes**2)
        self.counts += cells.view(self.num_classes, self.num_classes).cpu()

    def scores(self) -> SegmentationScores:
        """The scores of everything added so far.

        Raises:
            ValueError: no labelled pixel was added.
        """
        counts = self.counts.double()
        if not counts.any():
            raise ValueError("no pixel is labelled: there is nothing to score")
        hits, labelled, predicted = counts.diag(), counts.sum(1), counts.sum(0)
        iou = 100 * hits / (labelled + predicted - hits)  # nan for an absent class
        accuracy = 100 * hits / labelled
        return SegmentationScores(
            miou=round(float(iou.nanmean()), 2),
            pixel_accuracy=round(float(100 * hits.sum() / labelled.sum()), 2),
            class_accuracy=round(float(accuracy.nanmean()), 2),
            iou_per_class=tuple(
                None if value != value else round(value, 4) for value in iou.tolist()
            ),
        )
