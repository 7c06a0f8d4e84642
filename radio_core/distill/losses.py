"""The paper's losses: cosine for summaries, cosine + smooth-L1 for features (eq. 2 and 3).

Every loss is a mean over all values, or with `per_sample` over each sample's own: [B].
"""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from radio_core.distill.group_config import FeatureLoss, SummaryLoss

_BY_VALUE: dict[str, Callable[..., Tensor]] = {
    "mse": F.mse_loss,
    "l1": F.l1_loss,
    "smooth_l1": F.smooth_l1_loss,
}


def cosine_distance(
    student: Tensor, teacher: Tensor, dim: int = -1, per_sample: bool = False
) -> Tensor:
    """Mean of 1 - cos over all vectors along `dim`; in [0, 2]."""
    return _mean(1 - F.cosine_similarity(student, teacher, dim=dim, eps=1e-6), per_sample)


def distance(
    kind: SummaryLoss, student: Tensor, teacher: Tensor, dim: int = -1, per_sample: bool = False
) -> Tensor:
    """One of the plain losses between outputs of the same shape.

    Args:
        kind: "cosine", "mse", "l1" or "smooth_l1" (quadratic below 1, linear above).
        student: [B, ...].
        teacher: same shape.
        dim: where the vectors lie, for the cosine.
        per_sample: see the module.
    """
    if kind == "cosine":
        return cosine_distance(student, teacher, dim, per_sample)
    loss = _BY_VALUE[kind]
    if per_sample:
        return _mean(loss(student, teacher, reduction="none"), per_sample)
    return loss(student, teacher)


def align_grids(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Bring two feature maps [B, C, h, w] to the larger of both grids, bilinearly.

    Each side is taken from the finer map, so grids of different aspect ratio work too.
    """
    rows = max(student.shape[-2], teacher.shape[-2])
    cols = max(student.shape[-1], teacher.shape[-1])
    return _resize(student, rows, cols), _resize(teacher, rows, cols)


def feature_loss(
    student: Tensor,
    teacher: Tensor,
    alpha: float,
    beta: float,
    kind: FeatureLoss = "mixed",
    per_sample: bool = False,
) -> Tensor:
    """Loss between feature maps [B, C, h, w], brought to the same grid first.

    Args:
        student: the head's map.
        teacher: its target.
        alpha: weight of the cosine distance in "mixed".
        beta: weight of smooth-L1 in "mixed".
        kind: "mixed" is L_match of eq. 3, alpha * cosine + beta * smooth-L1.
        per_sample: see the module.
    """
    student, teacher = align_grids(student, teacher)
    if kind != "mixed":
        return distance(kind, student, teacher, 1, per_sample)
    smooth = distance("smooth_l1", student, teacher, 1, per_sample)
    return alpha * cosine_distance(student, teacher, 1, per_sample) + beta * smooth


def _mean(values: Tensor, per_sample: bool) -> Tensor:
    return values.reshape(len(values), -1).mean(dim=1) if per_sample else values.mean()


def _resize(features: Tensor, rows: int, cols: int) -> Tensor:
    if features.shape[-2:] == (rows, cols):
        return features
    return F.interpolate(features, size=(rows, cols), mode="bilinear", align_corners=False)
