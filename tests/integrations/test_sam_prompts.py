"""Many images and many prompts at once."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

pytest.importorskip("segment_anything", reason="needs the extra 'sam'")

from segment_anything import SamPredictor
from segment_anything.modeling import Sam

from radio_core.models import RadioModel
from radio_sam import (
    EncodedImage,
    Prompts,
    best_masks,
    encode_images,
    predict_best_masks,
    predict_masks,
    swap_image_encoder,
)

Picture = Callable[[int, int], NDArray[np.uint8]]
SIZES = [(90, 160), (128, 128), (50, 30)]


@pytest.fixture(scope="module", params=[False, True], ids=["original", "swapped"])
def model(request: pytest.FixtureRequest, sam: Sam, make_student: Callable[..., RadioModel]) -> Sam:
    return swap_image_encoder(sam, make_student()) if request.param else sam


@pytest.fixture(scope="module")
def encoded(sam: Sam, picture: Picture) -> EncodedImage:
    return encode_images(sam, [picture(90, 160)])[0]


def prompts(count: int, kinds: str) -> Prompts:
    generator = torch.Generator().manual_seed(0)
    corner = 20 * torch.rand(count, 2, generator=generator)
    values: dict[str, Any] = {}
    if "b" in kinds:
        values["boxes"] = torch.cat((corner, corner + 9.75), dim=1)
    if "p" in kinds:
        values["points"] = 29 * torch.rand(count, 3, 2, generator=generator)
        values["labels"] = torch.tensor([[1, 0, 1]]).repeat(count, 1)
    if "m" in kinds:
        values["masks"] = torch.randn(count, 1, 64, 64, generator=generator)
    return Prompts(**values)


@pytest.mark.parametrize("kinds", ["b", "p", "bp", "bm", "pm", "m", "bpm"])
@pytest.mark.parametrize("multimask", [False, True])
def test_batches_equal_the_predictor_one_by_one(
    model: Sam, picture: Picture, kinds: str, multimask: bool
) -> None:
    images = [picture(*size) for size in SIZES]
    given = prompts(5, kinds)
    predictor = SamPredictor(model)
    for image, encoded in zip(images, encode_images(model, images), strict=True):
        predicted = predict_masks(model, encoded, given, multimask, prompts_per_batch=2)
        predictor.set_image(image)
        assert encoded.input_size == predictor.input_size
        assert encoded.original_size == image.shape[:2]
        for index in range(len(given)):
            masks, ious, low = predictor.predict(
                point_coords=None if given.points is None else given.points[index].numpy(),
                point_labels=None if given.labels is None else given.labels[index].numpy(),
                box=None if given.boxes is None else given.boxes[index].numpy(),
                mask_input=None if given.masks is None else given.masks[index].numpy(),
                multimask_output=multimask,
            )
            np.testing.assert_allclose(predicted.ious[index], ious, rtol=1e-3, atol=1e-5)
            np.testing.assert_allclose(predicted.low_resolution[index], low, rtol=1e-3, atol=1e-4)
            assert (predicted.masks[index].numpy() != masks).mean() < 1e-3


def test_the_best_mask_is_that_of_the_highest_predicted_iou(model: Sam, picture: Picture) -> None:
    (encoded,) = encode_images(model, [picture(90, 160)])
    given = prompts(7, "b")
    predicted = predict_masks(model, encoded, given)
    assert predicted.masks.shape == (7, 3, 90, 160)
    assert predicted.masks.dtype == torch.bool
    masks, ious = predict_best_masks(model, encoded, given, prompts_per_batch=3)
    torch.testing.assert_close(ious, predicted.ious.amax(dim=1))
    kept = [predicted.masks[i, predicted.ious[i].argmax()] for i in range(7)]
    assert torch.equal(best_masks(predicted), torch.stack(kept))
    assert (masks != best_masks(predicted)).float().mean() < 1e-3


def test_padding_points_do_not_count(sam: Sam, encoded: EncodedImage) -> None:
    box = torch.tensor([[3.0, 4.0, 50.0, 60.0]])
    one = Prompts(boxes=box, points=torch.tensor([[[9.0, 9.0]]]), labels=torch.tensor([[-1]]))
    two = Prompts(boxes=box, points=torch.tensor([[[70.0, 2.0]]]), labels=torch.tensor([[-1]]))
    first, second = (predict_masks(sam, encoded, prompt) for prompt in (one, two))
    assert torch.equal(first.low_resolution, second.low_resolution)


def test_no_images_and_no_prompts_give_nothing(sam: Sam, encoded: EncodedImage) -> None:
    assert encode_images(sam, []) == []
    none = Prompts(boxes=torch.zeros(0, 4))
    predicted = predict_masks(sam, encoded, none)
    assert predicted.masks.shape == (0, 3, 90, 160)
    assert predicted.low_resolution.shape == (0, 3, 64, 64)
    assert best_masks(predicted).shape == (0, 90, 160)
    masks, ious = predict_best_masks(sam, encoded, none)
    assert (masks.shape, masks.dtype, ious.shape) == ((0, 90, 160), torch.bool, (0,))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "no prompt: give boxes, points"),
        ({"points": torch.zeros(1, 1, 2)}, "points and labels go together"),
        ({"boxes": torch.zeros(4)}, r"boxes of shape \[4\]"),
        ({"boxes": torch.zeros(1, 5)}, r"boxes of shape \[1, 5\]"),
        ({"masks": torch.zeros(1, 8, 8)}, r"masks of shape \[1, 8, 8\]"),
        ({"boxes": torch.tensor([[0, 0, 1, float("nan")]])}, "boxes must be finite"),
        ({"boxes": torch.zeros(1, 4), "masks": torch.zeros(2, 1, 8, 8)}, "differ in number"),
        ({"points": torch.zeros(1, 2, 2), "labels": torch.zeros(1, 3)}, "differ in number"),
        ({"points": torch.zeros(1, 1, 2), "labels": torch.full((1, 1), 2)}, "labels are 1"),
    ],
)
def test_bad_prompts_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Prompts(**values)


def test_bad_images_and_masks_are_refused(sam: Sam, encoded: EncodedImage) -> None:
    for image in (np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)):
        with pytest.raises(ValueError, match=r"images are uint8 \[H, W, 3\], not"):
            encode_images(sam, [image])  # type: ignore[list-item]
    with pytest.raises(ValueError, match=r"masks are 64x64 logits for this embedding, not 32x32"):
        predict_masks(sam, encoded, Prompts(masks=torch.zeros(1, 1, 32, 32)))
    with pytest.raises(ValueError, match="prompts_per_batch must be at least 1"):
        predict_masks(sam, encoded, prompts(1, "b"), prompts_per_batch=0)
