"""The scripts of segment_anything's README, with the swap line added."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

pytest.importorskip("segment_anything", reason="needs the extra 'sam'")

from segment_anything import SamAutomaticMaskGenerator, SamPredictor, sam_model_registry
from segment_anything.modeling import Sam
from segment_anything.utils.onnx import SamOnnxModel

from radio_core import load_model
from radio_core.data.toyworld import Scene, render_scene
from radio_core.models import RadioModel
from radio_core.teachers.load import toy_teacher_folder
from radio_core.teachers.segment_anything import load_sam
from radio_sam import swap_image_encoder

CHECKPOINT = str(toy_teacher_folder("toy-sam"))
TOY_THRESHOLDS: dict[str, Any] = {"pred_iou_thresh": 0.7, "stability_score_thresh": 0.8}


@pytest.fixture(autouse=True)
def toy_in_the_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sam_model_registry, "toy", lambda checkpoint: load_sam(checkpoint))


@pytest.fixture(scope="module")
def scene() -> Scene:
    return render_scene(3, 1)


def overlap(mask: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    return float((mask & other).sum() / (mask | other).sum())


def test_the_predictor_script(scene: Scene) -> None:
    x, y, width, height = scene.objects[0].bbox

    sam = sam_model_registry["toy"](checkpoint=CHECKPOINT)
    sam = swap_image_encoder(sam, load_model("toy"))
    predictor = SamPredictor(sam)
    predictor.set_image(scene.image)
    masks, scores, _ = predictor.predict(box=np.array([x, y, x + width, y + height]))

    assert masks.shape == (3, 128, 128)
    assert overlap(masks[scores.argmax()], scene.objects[0].mask) > 0.8


def test_the_automatic_masks_script(scene: Scene) -> None:
    sam = sam_model_registry["toy"](checkpoint=CHECKPOINT)
    sam = swap_image_encoder(sam, load_model("toy"))
    # With the default thresholds toy-sam's own encoder finds nothing either.
    mask_generator = SamAutomaticMaskGenerator(sam, 8, **TOY_THRESHOLDS)
    masks = mask_generator.generate(scene.image)

    assert max(overlap(mask["segmentation"], scene.objects[0].mask) for mask in masks) > 0.8
    assert {tuple(mask["crop_box"]) for mask in masks} == {(0, 0, 128, 128)}
    low = {"pred_iou_thresh": 0.3, "stability_score_thresh": 0.3}
    crops = SamAutomaticMaskGenerator(sam, 4, crop_n_layers=1, **low).generate(scene.image)
    assert len({tuple(mask["crop_box"]) for mask in crops}) > 1


@pytest.mark.parametrize("image_size", [64, 128, 192])
@pytest.mark.parametrize("single", [False, True])
def test_the_decoder_for_onnx_gives_the_predictors_masks(
    sam: Sam,
    make_student: Callable[..., RadioModel],
    picture: Callable[[int, int], NDArray[np.uint8]],
    image_size: int,
    single: bool,
) -> None:
    swapped = swap_image_encoder(sam, make_student(), image_size=image_size)
    predictor = SamPredictor(swapped)
    predictor.set_image(picture(60, 90))
    decoder = SamOnnxModel(swapped, return_single_mask=single)
    inputs = onnx_inputs(predictor, np.array([[20.0, 30.0], [50.0, 10.0]]), np.array([1, 0]))
    masks, scores, low = decoder(**inputs)
    expected = predictor.predict(
        point_coords=np.array([[20.0, 30.0], [50.0, 10.0]]),
        point_labels=np.array([1, 0]),
        return_logits=True,
    )
    if single:
        assert masks.shape == (1, 1, 60, 90)
        assert low.shape == (1, 1, image_size // 2, image_size // 2)
    else:
        for found, one in zip((masks, scores, low), expected, strict=True):
            np.testing.assert_allclose(found[0, 1:], one, rtol=1e-3, atol=1e-4)


def onnx_inputs(
    predictor: SamPredictor, points: NDArray[np.float64], labels: NDArray[np.int64]
) -> dict[str, Tensor]:
    """What SAM's ONNX notebook feeds to the decoder: the points, and one point of padding."""
    coords = np.concatenate((points, [[0.0, 0.0]]))
    scaled = predictor.transform.apply_coords(coords, predictor.original_size)
    side = 4 * predictor.get_image_embedding().shape[-1]
    return {
        "image_embeddings": predictor.get_image_embedding(),
        "point_coords": torch.tensor(scaled[None], dtype=torch.float),
        "point_labels": torch.tensor([[*labels, -1]], dtype=torch.float),
        "mask_input": torch.zeros(1, 1, side, side),
        "has_mask_input": torch.zeros(1),
        "orig_im_size": torch.tensor(predictor.original_size, dtype=torch.float),
    }


def test_the_decoder_is_exported_to_onnx(
    sam: Sam,
    make_student: Callable[..., RadioModel],
    picture: Callable[[int, int], NDArray[np.uint8]],
    tmp_path: Any,
) -> None:
    reason = "needs the extra 'export'"
    pytest.importorskip("onnx", reason=reason)
    runtime = pytest.importorskip("onnxruntime", reason=reason)
    predictor = SamPredictor(swap_image_encoder(sam, make_student()))
    predictor.set_image(picture(60, 90))
    decoder = SamOnnxModel(predictor.model, return_single_mask=False)
    inputs = onnx_inputs(predictor, np.array([[20.0, 30.0]]), np.array([1]))
    names = ["masks", "iou_predictions", "low_res_masks"]
    torch.onnx.export(
        decoder,
        tuple(inputs.values()),
        str(tmp_path / "sam.onnx"),
        input_names=list(inputs),
        output_names=names,
        dynamic_axes={"point_coords": {1: "points"}, "point_labels": {1: "points"}},
        opset_version=17,
        dynamo=False,
    )
    session = runtime.InferenceSession(str(tmp_path / "sam.onnx"))
    other = onnx_inputs(predictor, np.array([[20.0, 30.0], [7.0, 8.0]]), np.array([1, 0]))
    found = session.run(names, {name: value.numpy() for name, value in other.items()})
    for one, expected in zip(found, decoder(**other), strict=True):
        np.testing.assert_allclose(one, expected, rtol=1e-3, atol=1e-4)
