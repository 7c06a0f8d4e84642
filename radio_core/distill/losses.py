"""The paper's losses: cosine for summaries, cosine + smooth-L1 for features (eq. 2 and 3)."""

import torch.nn.functional as F
from torch import Tensor


def cosine_distance(student: Tensor, teacher: Tensor, dim: int = -1) -> Tensor:
    """Mean of 1 - cos over all vectors along `dim`; a scalar in [0, 2]."""
    return (1 - F.cosine_similarity(student, teacher, dim=dim, eps=1e-6)).mean()


def align_grids(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Bring two feature maps [B, C, h, w] to the larger of both grids, bilinearly.

    Each side is taken from the finer map, so grids of different aspect ratio work too.
    """
    rows = max(student.shape[-2], teacher.shape[-2])
    cols = max(student.shape[-1], teacher.shape[-1])
    return _resize(student, rows, cols), _resize(teacher, rows, cols)


def feature_loss(student: Tensor, teacher: Tensor, alpha: float, beta: float) -> Tensor:
    """L_match of eq. 3 on feature maps [B, C, h, w]: alpha * cosine + beta * smooth-L1."""
    student, teacher = align_grids(student, teacher)
    smooth = F.smooth_l1_loss(student, teacher)
    return alpha * cosine_distance(student, teacher, dim=1) + beta * smooth


def _resize(features: Tensor, rows: int, cols: int) -> Tensor:
    if features.shape[-2:] == (rows, cols):
        return features
    return F.interpolate(features, size=(rows, cols), mode="bilinear", align_corners=False)
