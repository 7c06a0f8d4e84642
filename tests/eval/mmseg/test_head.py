"""The probe's numbers, its head's loss and learning rate, and the counts of its scores."""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F

from radio_core.vision import ModelSpec
from radio_eval.mmseg import head
from radio_eval.mmseg.head import backward_pixel_loss, learning_rate_at, pixel_loss
from radio_eval.mmseg.protocol import LinearSegParameters, mmseg_protocol
from radio_eval.scores.segmentation import ConfusionMatrix


def test_the_papers_numbers_are_the_defaults() -> None:
    p = LinearSegParameters()
    assert p == mmseg_protocol()
    assert (p.iterations, p.batch_size, p.learning_rate, p.weight_decay) == (160_000, 16, 1e-3, 0)
    assert (p.scale, p.crop, p.stride, p.inference) == ((2048, 512), 512, 341, "slide")
    assert p.warmup_iterations == 1500
    assert mmseg_protocol(iterations=20).warmup_iterations == 2
    assert mmseg_protocol(image_size=128).scale == (512, 128)


def test_crops_are_fitted_to_the_models_patches() -> None:
    def spec(size: int, patch_size: int, square: bool = False) -> ModelSpec:
        return ModelSpec(
            name="m",
            input_size=size,
            patch_size=patch_size,
            summary_dim=None,
            feature_dim=3,
            flexible=True,
            square=square,
        )

    fitted = mmseg_protocol().fitted(spec(518, 14))
    assert (fitted.crop, fitted.stride) == (518, 345)
    assert mmseg_protocol(stride=100).fitted(spec(518, 14)).stride == 100
    assert mmseg_protocol().fitted(spec(432, 16)) == mmseg_protocol()
    assert mmseg_protocol().fitted(spec(224, 14, square=True)) == mmseg_protocol()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"iterations": 0}, "iterations must be at least 1"),
        ({"learning_rate": 0.0}, "learning_rate must be positive"),
        ({"weight_decay": -1.0}, "weight_decay must not be negative"),
        ({"stride": 600}, "stride 600 must be at most the crop 512"),
        ({"inference": "tiled"}, "'tiled' must be 'slide' or 'whole'"),
        ({"scale": None}, "augmentation needs the parameters scale and crop"),
        ({"crop": None, "augmentation": None}, "slide inference needs the parameters crop"),
        ({"crop": 0}, "crop must be at least 1"),
    ],
)
def test_numbers_that_do_not_go_together(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LinearSegParameters(**changes)  # type: ignore[arg-type]


def test_loss_divides_by_ignored_pixels_too() -> None:
    logits = torch.randn(1, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[[0, 255], [2, 255]]])
    kept = F.cross_entropy(logits, labels, ignore_index=255)  # mean over the labelled half
    torch.testing.assert_close(pixel_loss(logits, labels), kept / 2)


def test_gradients_in_parts_are_those_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(5, 3, 4, 4, generator=generator)
    labels = torch.randint(0, 3, (5, 16, 16), generator=generator)
    labels[0, :4] = 255
    whole, parts = (weights.clone().requires_grad_() for _ in range(2))
    pixel_loss(whole * 2, labels).backward()
    monkeypatch.setattr(head, "_FLOATS_AT_ONCE", 2 * 3 * 16 * 16)
    backward_pixel_loss(parts * 2, labels)
    torch.testing.assert_close(parts.grad, whole.grad)


def test_learning_rate_is_mmengines() -> None:
    parameters = mmseg_protocol(iterations=100, warmup_iterations=10)
    rates = [learning_rate_at(step, parameters) for step in range(100)]
    assert rates[0] == 1e-6
    assert rates[3] == pytest.approx(1e-6 + (1e-3 - 1e-6) * 3 / 9)
    assert rates[9] == rates[10] == max(rates) == 1e-3
    assert rates[55] == pytest.approx(1e-3 * (1 - 45 / 89))
    assert rates[99] == 0
    square = dataclasses.replace(parameters, poly_power=2.0)
    assert learning_rate_at(55, square) == pytest.approx(1e-3 * (1 - 45 / 89) ** 2)
    shortest = mmseg_protocol(iterations=1, warmup_iterations=1)
    assert math.isfinite(learning_rate_at(0, shortest))


def test_confusion_refuses_what_it_cannot_count() -> None:
    confusion = ConfusionMatrix(2)
    with pytest.raises(ValueError, match="differ in size"):
        confusion.update(torch.zeros(2, 2), torch.zeros(2, 3))
    with pytest.raises(ValueError, match="label holds class 7"):
        confusion.update(torch.zeros(1, 1), torch.full((1, 1), 7))
