"""Crops stay inside, depend on the seed alone and keep geometry; RADIO's resize is the field's."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from radio_core.data.transforms import (
    Crop,
    apply_crop,
    radio_resize,
    radio_resize_size,
    sample_crop,
    to_tensor,
)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 500), (500, 1), (3, 2), (375, 500)])
def test_crops_lie_inside(height: int, width: int) -> None:
    generator = np.random.default_rng(0)
    for _ in range(200):
        crop = sample_crop(height, width, generator=generator)
        assert crop.height >= 1
        assert crop.width >= 1
        assert 0 <= crop.top <= height - crop.height
        assert 0 <= crop.left <= width - crop.width


def test_crops_follow_scale_and_ratio() -> None:
    generator = np.random.default_rng(1)
    crops = [
        sample_crop(400, 400, (0.4, 1.0), (3 / 4, 4 / 3), generator=generator) for _ in range(500)
    ]
    areas = np.array([crop.height * crop.width for crop in crops]) / 400**2
    ratios = np.array([crop.width / crop.height for crop in crops])
    assert areas.min() > 0.39
    assert areas.max() > 0.9
    assert 0.74 < ratios.min() < 0.8
    assert 1.25 < ratios.max() < 1.35


def test_full_scale_square_crop_is_the_image() -> None:
    crop = sample_crop(64, 64, (1.0, 1.0), (1.0, 1.0), generator=np.random.default_rng(0))
    assert crop == Crop(0, 0, 64, 64)


@pytest.mark.parametrize(
    ("height", "width", "scale", "ratio"),
    [
        (0, 5, (0.4, 1.0), (0.75, 1.33)),
        (5, 5, (0.0, 1.0), (0.75, 1.33)),
        (5, 5, (0.8, 0.4), (0.75, 1.33)),
        (5, 5, (0.4, 1.0), (2.0, 1.0)),
    ],
)
def test_bad_crop_ranges(
    height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float]
) -> None:
    with pytest.raises(ValueError, match="crop"):
        sample_crop(height, width, scale, ratio, generator=np.random.default_rng(0))


def test_apply_crop_without_scaling_is_exact() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8))
    got = apply_crop(image, Crop(4, 7, 10, 10), 10)
    assert got.dtype == torch.uint8
    assert got.is_contiguous()
    assert torch.equal(got / 255, to_tensor(image)[:, 4:14, 7:17])


def test_apply_crop_shrinks_with_antialiasing() -> None:
    board = np.indices((64, 64)).sum(0) % 2 * 255
    image = Image.fromarray(np.repeat(board[..., None], 3, axis=2).astype(np.uint8))
    got = apply_crop(image, Crop(0, 0, 64, 64), 8)
    assert (got / 255 - 0.5).abs().max() < 0.05


@pytest.mark.parametrize("size", [(1, 1), (2, 1), (3, 40)])
def test_apply_crop_enlarges_tiny_images(size: tuple[int, int]) -> None:
    image = Image.new("RGB", size, (51, 102, 204))
    got = apply_crop(image, Crop(0, 0, size[1], size[0]), 32)
    assert got.shape == (3, 32, 32)
    assert torch.equal(got, torch.tensor([51, 102, 204]).view(3, 1, 1).expand_as(got))


@pytest.mark.parametrize(
    "crop", [Crop(0, 0, 11, 5), Crop(-1, 0, 5, 5), Crop(0, 6, 5, 5), Crop(0, 0, 0, 5)]
)
def test_apply_crop_refuses_boxes_outside(crop: Crop) -> None:
    with pytest.raises(ValueError, match="inside"):
        apply_crop(Image.new("RGB", (10, 10)), crop, 4)


def test_radio_resize_reference(shared: Path) -> None:
    cases = json.loads((shared / "reference/eval_cases/radio_resize.json").read_text())["cases"]
    assert cases
    for case in cases:
        given, expected = case["input"], case["expected"]
        image = Image.new("RGB", (given["width"], given["height"]))
        resolution, step = given["resolution"], given["resize_multiple"]
        size = radio_resize_size(
            image.height, image.width, resolution, step, longest_edge=given["max_dim"]
        )
        result = radio_resize(image, resolution, step, longest_edge=given["max_dim"])
        assert list(size) == expected["resized_hw"], given
        assert [result.height, result.width] == expected["output_hw"], given


@pytest.mark.parametrize(
    ("height", "width", "expected"), [(100, 136, (192, 272)), (104, 136, (208, 272))]
)
def test_radio_resize_rounds_half_to_even(
    height: int, width: int, expected: tuple[int, int]
) -> None:
    assert radio_resize_size(height, width, 2 * height, 16) == expected


def test_radio_resize_pads_with_black_around_the_centre() -> None:
    white = Image.new("RGB", (64, 32), (255, 255, 255))
    got = np.asarray(radio_resize(white, (64, 64), 16, longest_edge=True))
    assert got.shape == (64, 64, 3)
    assert (got[16:48] == 255).all()
    assert (got[:16] == 0).all()
    assert (got[48:] == 0).all()


def test_radio_resize_crops_the_middle() -> None:
    stripes = np.zeros((32, 96, 3), np.uint8)
    stripes[:, 32:64] = 255
    got = np.asarray(radio_resize(Image.fromarray(stripes), (32, 32), 16))
    assert (got == 255).all()


@pytest.mark.parametrize("resolution", [0, (), (32, 32, 32), (32, 0)])
def test_radio_resize_refuses_bad_resolutions(resolution: int | tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="resolution"):
        radio_resize(Image.new("RGB", (8, 8)), resolution)
