"""The paper's losses against numbers worked out by hand and by numpy."""

import numpy as np
import pytest
import torch

from radio_core.distill.config import LOSSES, LossConfig
from radio_core.distill.losses import align_grids, compare, cosine, mixed

SECTION = LossConfig()


def test_cosine_distance_by_hand() -> None:
    student = torch.tensor([[1.0, 0.0], [1.0, 1.0], [-2.0, 0.0]])
    teacher = torch.tensor([[3.0, 0.0], [0.0, 5.0], [1.0, 0.0]])
    wanted = (0 + (1 - 2**-0.5) + 2) / 3
    assert cosine(student, teacher, SECTION).item() == pytest.approx(wanted, abs=1e-6)


def test_a_zero_vector_stays_finite() -> None:
    student = torch.zeros(1, 4, requires_grad=True)
    loss = cosine(student, torch.ones(1, 4), SECTION)
    loss.backward()
    assert loss.item() == pytest.approx(1.0)
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_feature_loss_is_a_weighted_sum_of_cosine_and_smooth_l1() -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.normal(0, 2, (2, 3, 4, 5)) for _ in range(2))
    cosines = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    gap = np.abs(a - b)
    smooth = np.where(gap < 1, 0.5 * gap**2, gap - 0.5).mean()
    student, teacher = torch.from_numpy(a), torch.from_numpy(b)
    for alpha, beta in ((0.9, 0.1), (1.0, 0.0), (0.0, 2.0)):
        section = LossConfig(alpha=alpha, beta=beta)
        wanted = alpha * (1 - cosines).mean() + beta * smooth
        assert compare(mixed, student, teacher, section).item() == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [
        ("cosine", [1 - 8.5 / (5 * 3.25**0.5), 1.0]),
        ("mse", [(9 + 2.25) / 2, (0.25 + 0) / 2]),
        ("l1", [(3 + 1.5) / 2, 0.5 / 2]),
        ("smooth_l1", [(2.5 + 1.0) / 2, 0.125 / 2]),
    ],
)
def test_plain_losses_by_hand_and_by_sample(kind: str, wanted: list[float]) -> None:
    student = torch.tensor([[4.0, 3.0], [0.5, 0.0]])
    teacher = torch.tensor([[1.0, 1.5], [0.0, 0.0]])
    by_sample = compare(LOSSES.load(kind), student, teacher, SECTION, per_sample=True)
    assert by_sample.tolist() == pytest.approx(wanted)
    assert compare(LOSSES.load(kind), student, teacher, SECTION).item() == pytest.approx(
        sum(wanted) / 2
    )


@pytest.mark.parametrize("kind", ["mixed", "cosine", "mse", "l1", "smooth_l1"])
def test_feature_losses_of_samples_are_those_of_batches_of_one(kind: str) -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(3, 4, 5, 5), torch.randn(3, 4, 2, 7)
    loss = LOSSES.load(kind)
    by_sample = compare(loss, student, teacher, SECTION, per_sample=True)
    alone = [compare(loss, student[i : i + 1], teacher[i : i + 1], SECTION) for i in range(3)]
    torch.testing.assert_close(by_sample, torch.stack(alone))
    whole = compare(loss, student, teacher, SECTION)
    torch.testing.assert_close(by_sample.mean(), whole)


@pytest.mark.parametrize(
    ("student", "teacher", "wanted"),
    [
        ((4, 4), (8, 8), (8, 8)),
        ((8, 8), (5, 5), (8, 8)),
        ((3, 6), (6, 12), (6, 12)),
        ((4, 9), (7, 3), (7, 9)),
        ((4, 6), (4, 6), (4, 6)),
    ],
)
def test_both_grids_become_the_larger_one(
    student: tuple[int, int], teacher: tuple[int, int], wanted: tuple[int, int]
) -> None:
    ours, theirs = align_grids(torch.rand(2, 3, *student), torch.rand(2, 3, *teacher))
    assert ours.shape == theirs.shape == (2, 3, *wanted)


def test_the_finer_map_is_left_alone_and_the_coarser_is_interpolated_bilinearly() -> None:
    coarse = torch.tensor([0.0, 4.0]).reshape(1, 1, 1, 2)
    fine = torch.rand(1, 1, 1, 4)
    stretched, same = align_grids(coarse, fine)
    assert same is fine
    # Sampled at -0.25, 0.25, 0.75 and 1.25 of the two pixels, clamped at the ends.
    assert stretched.flatten().tolist() == pytest.approx([0.0, 1.0, 3.0, 4.0])


@pytest.mark.parametrize("grids", [(3, 6), (6, 3)])
def test_gradients_reach_every_student_cell(grids: tuple[int, int]) -> None:
    student = torch.randn(2, 4, grids[0], grids[0], requires_grad=True)
    compare(mixed, student, torch.randn(2, 4, grids[1], grids[1]), SECTION).backward()
    assert student.grad is not None
    assert (student.grad.abs().sum(dim=1) > 0).all()


def test_maps_of_one_region_on_any_grids_agree_after_alignment() -> None:
    def centres(rows: int, cols: int) -> torch.Tensor:
        y = (torch.arange(rows) + 0.5) / rows
        x = (torch.arange(cols) + 0.5) / cols
        return torch.stack([y[:, None].expand(rows, cols), x.expand(rows, cols)])[None]

    for student, teacher in (((6, 12), (4, 9)), ((6, 12), (8, 8)), ((12, 6), (24, 12))):
        one, other = align_grids(centres(*student), centres(*teacher))
        assert one.shape == other.shape
        inside = (..., slice(3, -3), slice(3, -3))  # at the edges a coarse map ends half a cell in
        torch.testing.assert_close(one[inside], other[inside], atol=1e-5, rtol=0)
