import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from radio_llava.images import RadioImageProcessor, fit_long_edge, resized_size, token_count

SIZES = [(480, 640), (640, 427), (333, 500), (64, 64), (1, 900), (1000, 37), (432, 432)]


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("patch", [8, 14, 16])
def test_an_image_has_as_many_tokens_as_its_resized_size_says(
    height: int, width: int, patch: int
) -> None:
    rows, cols = (math.ceil(side / patch) for side in resized_size(height, width, 432))
    fitted = fit_long_edge(Image.new("RGB", (width, height)), 432, patch)
    assert (fitted.height, fitted.width) == (rows * patch, cols * patch)
    assert token_count(height, width, 432, patch) == rows * cols


def test_the_long_edge_gets_the_resolution_and_the_short_one_keeps_the_aspect() -> None:
    assert resized_size(480, 640, 432) == (324, 432)
    assert resized_size(640, 480, 432) == (432, 324)
    assert resized_size(10, 4000, 432) == (1, 432)


def test_a_larger_step_pads_further_and_keeps_the_patch() -> None:
    assert token_count(480, 640, 432, 16, step=32) == math.ceil(324 / 32) * math.ceil(432 / 32) * 4


def test_nothing_is_cropped_and_the_padding_has_the_mean_colour() -> None:
    image = Image.new("RGB", (64, 36), (255, 0, 0))
    pixels = np.asarray(fit_long_edge(image, 32, 8, (0.0, 1.0, 0.2)))
    assert pixels.shape == (24, 32, 3)
    assert (pixels[:18] == (255, 0, 0)).all()
    assert (pixels[18:] == (0, 255, 51)).all()


def test_the_processor_gives_pixels_between_0_and_1_of_any_size() -> None:
    processor = RadioImageProcessor(64, 8)
    wide, tall = Image.new("RGB", (80, 40), "white"), Image.new("L", (30, 90))
    mixed = processor([wide, tall])["pixel_values"]
    assert isinstance(mixed, list)
    assert [list(x.shape) for x in mixed] == [[3, 32, 64], [3, 64, 24]]
    assert mixed[0].min() == 1.0
    assert mixed[0].dtype == torch.float32
    equal = processor.preprocess([wide, wide], return_tensors="pt")["pixel_values"]
    assert isinstance(equal, torch.Tensor)
    assert list(equal.shape) == [2, 3, 32, 64]
    assert torch.equal(processor.preprocess(tall)["pixel_values"][0], mixed[1])


@pytest.mark.parametrize("aspect", ["pad", "square"])
def test_squares_are_squares(aspect: str) -> None:
    processor = RadioImageProcessor(60, 8, aspect=aspect)  # type: ignore[arg-type]
    image = processor(Image.new("RGB", (40, 20), "white"))["pixel_values"][0]
    assert image.shape[1:] == (64, 64)
    stretched = bool((image[:, :60, :60] == 1).all())
    assert stretched == (aspect == "square")


@pytest.mark.parametrize("size", [(90, 41), (41, 90), (50, 50)])
def test_our_squares_are_those_of_llavas_own_padding(size: tuple[int, int]) -> None:
    mm_utils = pytest.importorskip("llava.mm_utils", reason="needs llava-torch")
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    config = SimpleNamespace(image_aspect_ratio="pad")
    theirs = mm_utils.process_images([image], RadioImageProcessor(60, 8), config)
    ours = RadioImageProcessor(60, 8, aspect="pad")(image)["pixel_values"]
    assert torch.equal(theirs[0], ours[0])


def test_other_kinds_of_tensors_are_refused() -> None:
    with pytest.raises(ValueError, match="only 'pt'"):
        RadioImageProcessor(64, 8)(Image.new("RGB", (8, 8)), return_tensors="np")


def test_an_empty_image_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 pixel"):
        token_count(0, 10, 432, 16)
