"""The losses between outputs of student and teacher, entry points of `radio.losses`.

Each is called as loss(student, teacher, section) with outputs of the same shape [B, D] or
[B, C, h, w], channels in dimension 1, and gives the mean over the samples as a scalar.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from radio_core.distill.config import Loss, LossConfig


def cosine(student: Tensor, teacher: Tensor, section: LossConfig) -> Tensor:
    """Mean of 1 - cos over all vectors (paper eq. 2); in [0, 2]."""
    return (1 - F.cosine_similarity(student, teacher, dim=1, eps=1e-6)).mean()


def mse(student: Tensor, teacher: Tensor, section: LossConfig) -> Tensor:
    """Mean squared error."""
    return F.mse_loss(student, teacher)


def l1(student: Tensor, teacher: Tensor, section: LossConfig) -> Tensor:
    """Mean absolute error."""
    return F.l1_loss(student, teacher)


def smooth_l1(student: Tensor, teacher: Tensor, section: LossConfig) -> Tensor:
    """Quadratic below 1, linear above."""
    return F.smooth_l1_loss(student, teacher)


def mixed(student: Tensor, teacher: Tensor, section: LossConfig) -> Tensor:
    """L_match of the paper's eq. 3: alpha * cosine distance + beta * smooth-L1."""
    smooth = smooth_l1(student, teacher, section)
    return section.alpha * cosine(student, teacher, section) + section.beta * smooth


def compare(
    loss: Loss, student: Tensor, teacher: Tensor, section: LossConfig, per_sample: bool = False
) -> Tensor:
    """A loss between two summaries [B, D], or feature maps, which are brought to one grid first.

    Args:
        loss: the function.
        student: [B, D], or [B, C, h, w].
        teacher: the same, but for h and w.
        section: for the loss.
        per_sample: give [B], the loss of each sample, instead of a scalar.
    """
    if student.ndim == 4:
        student, teacher = align_grids(student, teacher)
    if not per_sample:
        return loss(student, teacher, section)

    def of_one(ours: Tensor, theirs: Tensor) -> Tensor:
        return loss(ours[None], theirs[None], section)

    losses: Tensor = torch.vmap(of_one)(student, teacher)
    return losses


def align_grids(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Bring two feature maps [B, C, h, w] to the larger of both grids, bilinearly.

    Each side is taken from the finer map, so grids of different aspect ratio work too.
    """
    shapes = student.shape[-2:], teacher.shape[-2:]
    grid = tuple(max(sides) for sides in zip(*shapes, strict=True))
    ours, theirs = (
        maps
        if maps.shape[-2:] == grid
        else F.interpolate(maps, size=grid, mode="bilinear", align_corners=False)
        for maps in (student, teacher)
    )
    return ours, theirs
