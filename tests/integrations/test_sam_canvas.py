"""Inputs that are no squares, and padding that is not computed."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

pytest.importorskip("segment_anything", reason="needs the extra 'sam'")

from segment_anything import SamPredictor
from segment_anything.modeling import Sam

from radio_core.data.toyworld import render_scene
from radio_core.models import RadioModel
from radio_sam import Prompts, encode_images, predict_masks, swap_image_encoder
from radio_sam.load import load_radio_sam

Picture = Callable[[int, int], NDArray[np.uint8]]


@pytest.mark.parametrize("skip_padding", [False, True])
def test_a_canvas_that_is_no_square_moves_everything_along(
    sam: Sam, make_student: Callable[..., RadioModel], picture: Picture, skip_padding: bool
) -> None:
    options: dict[str, Any] = {"image_size": (96, 128), "skip_padding": skip_padding}
    swapped = swap_image_encoder(sam, make_student(), **options)
    assert isinstance(swapped, Sam)
    predictor = SamPredictor(swapped)
    predictor.set_image(picture(60, 90))
    assert predictor.get_image_embedding().shape == (1, 16, 12, 16)
    masks, _, low = predictor.predict(box=np.array([5, 5, 50, 40]))
    assert masks.shape == (3, 60, 90)
    assert low.shape == (3, 48, 64)
    again, _, _ = predictor.predict(mask_input=low[:1], multimask_output=False)
    assert again.shape == (1, 60, 90)


def test_masks_of_a_canvas_are_cut_and_scaled_as_the_image_was(
    sam: Sam, make_student: Callable[..., RadioModel]
) -> None:
    swapped = swap_image_encoder(sam, make_student(), image_size=(96, 128))
    logits = -torch.ones(1, 1, 48, 64)
    logits[..., :, :32] = 1  # the left half of the canvas
    masks = swapped.postprocess_masks(logits, (64, 128), (320, 640))
    assert masks.shape == (1, 1, 320, 640)
    assert (masks[..., :310] > 0).all()
    assert (masks[..., 330:] < 0).all()


def test_an_image_that_does_not_fit_is_refused_or_made_smaller(
    sam: Sam, make_student: Callable[..., RadioModel], picture: Picture
) -> None:
    swapped = swap_image_encoder(sam, make_student(), image_size=(96, 128))
    with pytest.raises(ValueError, match="128x64 pixels does not fit into this model's 96x128"):
        SamPredictor(swapped).set_image(picture(100, 50))
    (encoded,) = encode_images(swapped, [picture(100, 50)])
    assert encoded.input_size == (96, 48)
    masks = predict_masks(swapped, encoded, Prompts(boxes=torch.tensor([[1.0, 1.0, 30.0, 30.0]])))
    assert masks.masks.shape == (1, 3, 100, 50)


def test_images_that_fill_the_input_are_the_same_without_padding(
    sam: Sam, make_student: Callable[..., RadioModel], picture: Picture
) -> None:
    plain = swap_image_encoder(sam, make_student())
    skipping = swap_image_encoder(sam, make_student(), skip_padding=True)
    (one,), (other,) = (encode_images(model, [picture(90, 90)]) for model in (plain, skipping))
    torch.testing.assert_close(one.embedding, other.embedding)


@pytest.mark.parametrize("window_size", [None, 3, 4])
def test_skipped_padding_is_not_computed_and_batches_may_be_mixed(
    sam: Sam,
    make_student: Callable[..., RadioModel],
    picture: Picture,
    monkeypatch: pytest.MonkeyPatch,
    window_size: int | None,
) -> None:
    radio = make_student()
    sizes = []
    run = radio.forward_all

    def spy(images: torch.Tensor, *args: Any, **options: Any) -> Any:
        sizes.append(tuple(images.shape))
        return run(images, *args, **options)

    monkeypatch.setattr(radio, "forward_all", spy)
    swapped = swap_image_encoder(sam, radio, window_size=window_size, skip_padding=True)
    images = [picture(64, 128), picture(128, 40), picture(33, 64), picture(128, 128)]
    together = encode_images(swapped, images)
    # 64, 40 and 66 of 128 pixels, rounded up to whole windows of 8-pixel patches
    expected = {
        None: {(1, 3, 64, 128), (1, 3, 128, 40), (1, 3, 72, 128), (1, 3, 128, 128)},
        3: {(2, 3, 72, 144), (1, 3, 144, 48), (1, 3, 144, 144)},
        4: {(1, 3, 64, 128), (1, 3, 128, 64), (1, 3, 96, 128), (1, 3, 128, 128)},
    }
    assert set(sizes) == expected[window_size]
    for image, encoded in zip(images, together, strict=True):
        (alone,) = encode_images(swapped, [image])
        torch.testing.assert_close(alone.embedding, encoded.embedding, rtol=1e-4, atol=1e-5)


def test_an_image_of_sams_mean_colour_is_encoded(
    sam: Sam, make_student: Callable[..., RadioModel]
) -> None:
    encoder = swap_image_encoder(sam, make_student(), skip_padding=True).image_encoder
    assert bool(encoder(torch.zeros(1, 3, 128, 128)).isfinite().all())


@pytest.mark.parametrize("options", [{"skip_padding": True}, {"image_size": (96, 128)}])
def test_toy_masks_stay_good(options: dict[str, Any]) -> None:
    overlaps = []
    swapped = load_radio_sam("toy", **options)
    for index in range(4):
        scene = render_scene(3, index)
        truth = torch.from_numpy(scene.objects[0].mask[16:112])
        rows, cols = (truth.any(dim=dim).nonzero() for dim in (1, 0))
        box = [[cols.min(), rows.min(), cols.max() + 1, rows.max() + 1]]
        (encoded,) = encode_images(swapped, [np.ascontiguousarray(scene.image[16:112])])
        predicted = predict_masks(swapped, encoded, Prompts(boxes=torch.tensor(box).float()))
        mask = predicted.masks[0, predicted.ious[0].argmax()]
        overlaps.append(float((mask & truth).sum() / (mask | truth).sum()))
    assert sum(overlaps) / len(overlaps) > 0.8
