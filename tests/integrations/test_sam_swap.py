"""RADIO in the place of SAM's image encoder, also at inputs that are no squares."""

import copy
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
from radio_sam import (
    Prompts,
    RadioImageEncoder,
    encode_images,
    load_radio_sam,
    predict_masks,
    swap_image_encoder,
)

Picture = Callable[[int, int], NDArray[np.uint8]]
Results = list[tuple[NDArray[Any], ...]]


def predictions(model: Sam, image: NDArray[np.uint8]) -> Results:
    """Logits at full size, predicted IoUs and low-resolution logits for every kind of prompt."""
    height, width = image.shape[:2]
    box = np.array([0.1 * width, 0.2 * height, 0.7 * width, 0.9 * height])
    points = {"point_coords": np.array([[width // 2, 3], [5, height // 2]])}
    points |= {"point_labels": np.array([1, 0])}
    predictor = SamPredictor(model)
    predictor.set_image(image)
    results = [
        predictor.predict(box=box, multimask_output=True, return_logits=True),
        predictor.predict(**points, return_logits=True),
        predictor.predict(**points, box=box, multimask_output=False, return_logits=True),
    ]
    earlier = results[0][2][:1]  # [1, 4g, 4g]
    results.append(predictor.predict(mask_input=earlier, box=box, return_logits=True))
    return results


def assert_identical(own: Results, swapped: Results) -> None:
    for one, other in zip(own, swapped, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
    assert any((one[0] > 0).any() and (one[0] < 0).any() for one in own)


@pytest.mark.parametrize("size", [(128, 128), (90, 160), (50, 30), (300, 41)])
def test_own_features_give_bit_identical_masks(
    sam: Sam, make_oracle: Any, picture: Picture, size: tuple[int, int]
) -> None:
    oracle = make_oracle(sam)
    swapped = swap_image_encoder(sam, oracle)
    assert_identical(predictions(sam, picture(*size)), predictions(swapped, picture(*size)))
    assert all(0 <= float(seen.min()) < float(seen.max()) <= 1 for seen in oracle.seen)


@pytest.mark.parametrize("image_size", [64, 1024])
@pytest.mark.parametrize("shape", [(1.0, 1.0), (0.6, 1.0)])
def test_own_features_give_bit_identical_masks_at_other_sizes(
    make_sam: Callable[..., Sam],
    make_oracle: Any,
    picture: Picture,
    image_size: int,
    shape: tuple[float, float],
) -> None:
    sam = make_sam(image_size=image_size, patch_size=16, depth=1, window_size=14, global_blocks=())
    swapped = swap_image_encoder(sam, make_oracle(sam))
    image = picture(int(200 * shape[0]), int(200 * shape[1]))
    assert_identical(predictions(sam, image), predictions(swapped, image))


def test_own_features_give_bit_identical_masks_in_one_batch(
    sam: Sam, make_oracle: Any, picture: Picture
) -> None:
    swapped = swap_image_encoder(sam, make_oracle(sam))
    batch: list[dict[str, Any]] = [
        {
            "image": torch.from_numpy(picture(128, 70)).permute(2, 0, 1),
            "original_size": (256, 140),
            "boxes": torch.tensor([[3.0, 4.0, 60.0, 99.5], [0.0, 0.0, 9.0, 9.0]]),
        },
        {
            "image": torch.from_numpy(picture(40, 128)).permute(2, 0, 1),
            "original_size": (40, 128),
            "point_coords": torch.tensor([[[9.0, 9.0], [30.0, 20.0]]]),
            "point_labels": torch.tensor([[1, 0]]),
            "mask_inputs": torch.randn(1, 1, 64, 64),
        },
    ]
    own, others = (model(batch, multimask_output=True) for model in (sam, swapped))
    assert [tuple(one["masks"].shape) for one in own] == [(2, 3, 256, 140), (1, 3, 40, 128)]
    for one, other in zip(own, others, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_padding_is_seen_in_sams_mean_colour(sam: Sam, make_oracle: Any, picture: Picture) -> None:
    oracle = make_oracle(sam)
    SamPredictor(swap_image_encoder(sam, oracle)).set_image(picture(64, 128))
    padding = oracle.seen[0][0, :, 64:]
    torch.testing.assert_close(padding, (sam.pixel_mean / 255).expand_as(padding))


def test_result_is_a_sam_and_the_original_stays(
    sam: Sam, make_student: Callable[..., RadioModel]
) -> None:
    before = copy.deepcopy(sam.state_dict())
    swapped = swap_image_encoder(sam, make_student())
    assert type(swapped) is Sam
    assert isinstance(swapped.image_encoder, RadioImageEncoder)
    assert not isinstance(sam.image_encoder, RadioImageEncoder)
    with torch.no_grad():
        for parameter in swapped.mask_decoder.parameters():
            parameter.add_(1)
    assert all(torch.equal(value, before[name]) for name, value in sam.state_dict().items())
    image = torch.rand(1, 3, 128, 128)
    twin = copy.deepcopy(swapped)
    assert torch.equal(twin.image_encoder(image), swapped.image_encoder(image))


@pytest.mark.parametrize(
    "student",
    [{"patch_size": 8}, {"patch_size": 16}, {"patch_size": 14}, {"upsample": 2}, {"e_radio": True}],
)
@pytest.mark.parametrize("skip_padding", [False, True])
def test_every_student_comes_to_sams_grid(
    sam: Sam,
    make_student: Callable[..., RadioModel],
    picture: Picture,
    student: dict[str, Any],
    skip_padding: bool,
) -> None:
    swapped = swap_image_encoder(sam, make_student(**student), skip_padding=skip_padding)
    predictor = SamPredictor(swapped)
    predictor.set_image(picture(70, 128))
    assert predictor.get_image_embedding().shape == (1, 16, 16, 16)
    masks, _, low = predictor.predict(point_coords=np.array([[9, 9]]), point_labels=np.array([1]))
    assert masks.shape == (3, 70, 128)
    assert low.shape == (3, 64, 64)


@pytest.mark.parametrize("image_size", [64, 96, 128, 192, 256])
def test_another_image_size_moves_prompts_and_grid_along(
    sam: Sam, make_student: Callable[..., RadioModel], picture: Picture, image_size: int
) -> None:
    predictor = SamPredictor(swap_image_encoder(sam, make_student(), image_size=image_size))
    predictor.set_image(picture(128, 96))
    assert predictor.input_size == (image_size, image_size * 3 // 4)
    grid = image_size // 8
    assert predictor.get_image_embedding().shape[-2:] == (grid, grid)
    masks, _, low = predictor.predict(box=np.array([0, 0, 50, 60]))
    assert masks.shape == (3, 128, 96)
    assert low.shape == (3, 4 * grid, 4 * grid)
    again = predictor.predict(mask_input=low[:1], multimask_output=False)
    assert again[0].shape == (1, 128, 96)


@pytest.mark.parametrize(("patch_size", "cells"), [(8, 18), (14, 18), (16, 18)])
def test_windows_that_do_not_fill_the_grid_get_padding_and_whole_patches(
    sam: Sam,
    make_student: Callable[..., RadioModel],
    monkeypatch: pytest.MonkeyPatch,
    patch_size: int,
    cells: int,
) -> None:
    radio = make_student(patch_size)
    seen = []
    run = radio.forward_all

    def spy(images: torch.Tensor, *args: Any, **options: Any) -> Any:
        seen.append(images)
        return run(images, *args, **options)

    monkeypatch.setattr(radio, "forward_all", spy)
    encoder = swap_image_encoder(sam, radio, window_size=6).image_encoder  # 16 cells: not filled
    assert encoder(torch.ones(1, 3, 128, 128)).shape[-2:] == (16, 16)
    assert seen[0].shape[-2:] == (cells * patch_size, cells * patch_size)
    corner = seen[0][0, :, -patch_size:, -patch_size:]
    torch.testing.assert_close(corner, (sam.pixel_mean / 255).expand_as(corner))


def test_windowed_attention(sam: Sam, make_student: Callable[..., RadioModel]) -> None:
    image = torch.randn(1, 3, 128, 128)
    radio = make_student()

    def encode(window_size: int | None) -> torch.Tensor:
        with torch.no_grad():
            swapped = swap_image_encoder(sam, radio, window_size=window_size)
            embedding: torch.Tensor = swapped.image_encoder(image)
        return embedding

    plain, windowed = encode(None), encode(4)
    assert not torch.allclose(plain, windowed)
    radio.window_size = 4
    assert torch.equal(encode(None), windowed)
    assert torch.equal(encode(0), plain)


def test_what_does_not_fit_is_refused(sam: Sam, make_student: Callable[..., RadioModel]) -> None:
    with pytest.raises(ValueError, match="no adaptor 'clip'; its adaptors: sam"):
        swap_image_encoder(sam, make_student(), adaptor="clip")
    with pytest.raises(ValueError, match="width 7, but this SAM's neck takes 24: use the SAM that"):
        swap_image_encoder(sam, make_student(feature_dim=7))
    with pytest.raises(ValueError, match=r"width 1280, .* takes 24: use SAM vit_h"):
        swap_image_encoder(sam, make_student(feature_dim=1280))
    with pytest.raises(ValueError, match=r"101 is not a multiple of SAM's patch size 8; .* is 104"):
        swap_image_encoder(sam, make_student(), image_size=101)
    with pytest.raises(ValueError, match=r"the nearest is \(96, 104\)"):
        swap_image_encoder(sam, make_student(), image_size=(96, 101))
    with pytest.raises(ValueError, match="window_size -1: must be positive"):
        swap_image_encoder(sam, make_student(), window_size=-1)
    with pytest.raises(ValueError, match="no windowed mode"):
        swap_image_encoder(sam, make_student(e_radio=True), window_size=8)
    with pytest.raises(ValueError, match=r"input is \(128, 128\): pad them with Sam.preprocess"):
        swap_image_encoder(sam, make_student()).image_encoder(torch.zeros(1, 3, 64, 128))


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
