"""Resizing and sliding windows of the linear probe against mmcv's and mmseg's own."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from radio_eval.mmseg import inference
from radio_eval.mmseg.inference import Backbone, predict_labels, slide_logits, window_positions
from radio_eval.mmseg.transforms import rescaled_size


def cases(shared: Path, name: str) -> list[dict[str, Any]]:
    path = shared / "reference" / "eval_cases" / f"{name}.json"
    found = json.loads(path.read_text())["cases"]
    assert found
    return list(found)


def test_resize(shared: Path) -> None:
    for case in cases(shared, "seg_resize"):
        given, expected = case["input"], case["expected"]
        size = rescaled_size(given["h"], given["w"], tuple(given["scale"]))
        assert size == (expected["h"], expected["w"]), given


def test_any_number_of_windows_overlaps() -> None:
    image = torch.zeros(3, 70, 70, dtype=torch.uint8)
    logits = slide_logits(
        lambda inputs: torch.ones(len(inputs), 1, 48, 48),
        image,
        crop=48,
        stride=1,
        windows_per_call=64,
    )
    torch.testing.assert_close(logits, torch.ones(1, 70, 70))


@pytest.mark.parametrize("windows_per_call", [1, 4])
def test_slide(shared: Path, windows_per_call: int) -> None:
    for case in cases(shared, "seg_slide"):
        given, expected = case["input"], case["expected"]
        height, width = given["h"], given["w"]
        windows = window_positions(height, width, given["crop"], given["stride"])
        assert len(windows) == expected["n_windows"], given
        assert [list(w) for w in windows] == [
            [y1, x1, y2, x2] for y1, x1, y2, x2 in expected["windows_y1x1y2x2"]
        ]
        numbers = iter(range(1, len(windows) + 1))

        def number(inputs: Tensor, numbers: Any = numbers) -> Tensor:
            return torch.stack([torch.full_like(one[:1], next(numbers)) for one in inputs])

        logits = slide_logits(
            number,
            torch.zeros(3, height, width),
            crop=given["crop"],
            stride=given["stride"],
            windows_per_call=windows_per_call,
        )
        assert logits.shape == (1, height, width)
        assert float(logits.double().mean()) == pytest.approx(
            expected["mean_of_window_index_map"], abs=1e-4
        )
        assert float(logits[0, height // 2, width // 2]) == expected["value_at_centre"]


@pytest.mark.parametrize("square", [False, True])
def test_windows_between_patches_are_padded_or_resized(
    patch_colours: Callable[..., Any], square: bool
) -> None:
    seen: list[tuple[int, ...]] = []

    def features(images: Tensor) -> Tensor:
        seen.append(tuple(images.shape))
        return F.avg_pool2d(images, 8)

    backbone = Backbone(patch_colours(features, square=square))
    logits = backbone.logits(torch.nn.Identity(), torch.ones(2, 3, 20, 30))
    assert seen == [(2, 3, 32, 32) if square else (2, 3, 24, 32)]
    assert logits.shape == (2, 3, 20, 30)
    torch.testing.assert_close(logits[:, :, :12, :20], torch.ones(2, 3, 12, 20))


def test_argmax_in_parts_is_that_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.randn(7, 5, 6, generator=torch.Generator().manual_seed(0))
    logits[4] = logits[1]  # of equals, the first counts
    resized = F.interpolate(logits[None], size=(20, 30), mode="bilinear", align_corners=False)[0]
    monkeypatch.setattr(inference, "_FLOATS_AT_ONCE", 3 * 20 * 30)
    assert torch.equal(predict_labels(logits, (20, 30)), resized.argmax(dim=0))
