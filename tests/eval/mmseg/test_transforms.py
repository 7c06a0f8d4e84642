"""mmseg's transforms: sizes, crops, colours, padding."""

import colorsys

import numpy as np
import pytest
import torch
from torch import Tensor

from radio_eval.mmseg.protocol import Augmentation
from radio_eval.mmseg.transforms import augment, choose_crop, distort, resize_image, resize_label

PLAIN = Augmentation(resize_ratio=(1.0, 1.0), distortion_probability=0.0, flip_probability=0.0)


def only(**changes: object) -> Augmentation:
    """One certain distortion of fixed strength, the others off."""
    off: dict[str, object] = {
        "distortion_probability": 1.0,
        "brightness": 0,
        "contrast": (1.0, 1.0),
        "saturation": (1.0, 1.0),
        "hue": 0,
    }
    return Augmentation(**{**off, **changes})  # type: ignore[arg-type]


def colours(seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (3, 16, 16), generator=generator, dtype=torch.uint8)


def by_pixel(image: Tensor, change: object) -> Tensor:
    """colorsys on every pixel, as the textbook has it."""
    changed = image.clone()
    for row in range(image.shape[1]):
        for column in range(image.shape[2]):
            hsv = colorsys.rgb_to_hsv(*(image[:, row, column].double() / 255).tolist())
            rgb = torch.tensor(colorsys.hsv_to_rgb(*change(*hsv)))  # type: ignore[operator]
            changed[:, row, column] = (rgb * 255).round().to(torch.uint8)
    return changed


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_the_label_map_follows_the_image() -> None:
    label = torch.randint(0, 200, (30, 40), generator=torch.Generator().manual_seed(0))
    label = label.repeat_interleave(4, 0).repeat_interleave(4, 1).to(torch.uint8)  # 120 x 160
    image = label.expand(3, -1, -1)
    for seed in range(20):
        settings = Augmentation(resize_ratio=(1.0, 1.0), distortion_probability=0.0)
        seen, classes = augment(
            image, label, scale=(160, 120), crop=64, augmentation=settings, rng=rng(seed)
        )
        assert seen.shape == (3, 64, 64)
        assert torch.equal(seen[0], classes)


def test_a_sample_depends_on_its_seed_alone() -> None:
    image, label = colours(), torch.zeros(16, 16, dtype=torch.uint8)

    def sample(seed: int) -> Tensor:
        return augment(
            image, label, scale=(64, 32), crop=24, augmentation=Augmentation(), rng=rng(seed)
        )[0]

    assert torch.equal(sample(3), sample(3))
    assert not torch.equal(sample(3), sample(4))


def test_small_images_are_padded_right_and_below() -> None:
    image = torch.full((3, 10, 20), 9, dtype=torch.uint8)
    label = torch.full((10, 20), 7, dtype=torch.uint8)
    seen, classes = augment(image, label, scale=(20, 10), crop=24, augmentation=PLAIN, rng=rng())
    assert torch.equal(seen[:, :10, :20], image)
    assert torch.equal(classes[:10, :20], label)
    assert int(seen.long().sum()) == 9 * 3 * 200
    assert int((classes == 255).sum()) == 24 * 24 - 200


def test_sizes_vary_within_the_ratio() -> None:
    image = torch.full((3, 32, 32), 1, dtype=torch.uint8)
    label = torch.zeros(32, 32, dtype=torch.uint8)
    settings = Augmentation(distortion_probability=0.0)
    sides = set()
    for seed in range(60):
        seen, _ = augment(
            image, label, scale=(128, 32), crop=128, augmentation=settings, rng=rng(seed)
        )
        sides.add(int(seen[0, 0].long().sum()))
    assert 16 <= min(sides) < 22
    assert 56 < max(sides) <= 64


def test_crops_avoid_one_class_if_they_can() -> None:
    label = torch.zeros(8, 400, dtype=torch.uint8)
    label[:, 60:64] = 1  # few crops of 8 x 8 show both classes at once
    settings = Augmentation(crop_tries=10_000)
    shares = []
    for seed in range(10):
        top, left = choose_crop(label, 8, settings, rng(seed))
        shares.append(float((label[top : top + 8, left : left + 8] == 1).float().mean()))
    assert all(0.25 < share < 0.75 for share in shares)
    hopeless = torch.zeros(40, 40, dtype=torch.uint8)
    assert choose_crop(hopeless, 8, Augmentation(), rng()) is not None


def test_ignored_pixels_are_no_class_of_a_crop() -> None:
    label = torch.full((8, 64), 255, dtype=torch.uint8)
    label[:, 20:24] = 3
    draws = {choose_crop(label, 8, Augmentation(crop_tries=50), rng(seed)) for seed in range(8)}
    assert len(draws) > 1  # nothing satisfies the rule, so the last draw is taken


@pytest.mark.parametrize("factor", [0.5, 0.8, 1.5])
def test_saturation_is_that_of_hsv(factor: float) -> None:
    image = colours()
    seen = distort(image, only(saturation=(factor, factor)), rng())
    expected = by_pixel(image, lambda h, s, v: (h, min(1.0, s * factor), v))
    assert int((seen.int() - expected.int()).abs().max()) <= 1


def test_hue_turns_by_steps_of_two_degrees() -> None:
    image = colours()
    turns = set()
    for seed in range(40):
        seen = distort(image, only(hue=2), rng(seed))
        for steps in (-2, -1, 0, 1):
            expected = by_pixel(image, lambda h, s, v, n=steps: ((h + n / 180) % 1, s, v))
            if int((seen.int() - expected.int()).abs().max()) <= 1:
                turns.add(steps)
    assert turns == {-2, -1, 0, 1}


def test_brightness_adds_and_contrast_multiplies_rounding_down() -> None:
    image = colours()
    offsets = set()
    for seed in range(30):
        seen = distort(image, only(brightness=32), rng(seed)).int()
        inside = (image > 40) & (image < 210)
        offsets |= set((seen - image.int())[inside].tolist())
        assert len(set((seen - image.int())[inside].tolist())) <= 2
    assert -34 < min(offsets) < -15
    assert 15 < max(offsets) < 33
    seen = distort(image, only(contrast=(1.5, 1.5)), rng())
    assert torch.equal(seen, (image.double() * 1.5).clamp(max=255).floor().to(torch.uint8))


def test_resizing_is_opencvs() -> None:
    image = torch.tensor([[0, 100], [100, 200]], dtype=torch.uint8).expand(3, 2, 2)
    row = resize_image(image, (2, 4))[0, 0]
    assert row.tolist() == [0, 25, 75, 100]
    shrunk = resize_image(
        torch.tensor([[[0, 0, 255, 0]]], dtype=torch.uint8).expand(3, 1, 4), (1, 2)
    )
    assert shrunk[0, 0].tolist() == [0, 128]  # neighbours alone: no antialiasing
    label = torch.tensor([[1, 2, 3, 4]], dtype=torch.uint8)
    assert resize_label(label, (1, 2)).tolist() == [[1, 3]]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("resize_ratio", (2.0, 0.5)),
        ("contrast", (0.0, 1.0)),
        ("flip_probability", 1.5),
        ("hue", 91),
        ("crop_tries", -1),
    ],
)
def test_bad_numbers_are_refused(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"augmentation .*{field}"):
        Augmentation(**{field: value})  # type: ignore[arg-type]
