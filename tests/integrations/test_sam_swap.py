"""RADIO inside Segment Anything."""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from radio_core.models import AdaptorConfig, HeadConfig, RadioConfig, RadioModel, vit_config
from radio_core.models.outputs import RadioOutput
from radio_sam import RadioImageEncoder, swap_image_encoder

pytest.importorskip("segment_anything", reason="needs the extra 'sam'")

from segment_anything import SamPredictor
from segment_anything.modeling import Sam

from radio_core.teachers.sam_build import SamConfig, build_sam

WIDTH = 24


@pytest.fixture(scope="module")
def sam() -> Sam:
    torch.manual_seed(0)
    config = SamConfig(
        image_size=128,
        patch_size=8,
        embed_dim=WIDTH,
        depth=2,
        num_heads=2,
        window_size=8,
        global_blocks=(1,),
        neck_dim=16,
        decoder_heads=2,
        decoder_mlp_dim=16,
    )
    return build_sam(config).eval()


def student(patch_size: int = 8, feature_dim: int = WIDTH) -> RadioModel:
    torch.manual_seed(1)
    adaptor = AdaptorConfig(name="sam", features=HeadConfig(out_dim=feature_dim, hidden_dim=16))
    backbone = vit_config("tiny", patch_size=patch_size, embed_dim=32, depth=2, stem="patch")
    return RadioModel(RadioConfig(backbone=backbone, adaptors=(adaptor,))).eval()


class OracleRadio(nn.Module):
    """A RADIO whose sam adaptor gives SAM's own features before the neck."""

    patch_size = 8
    window_size = None

    def __init__(self, sam: Sam) -> None:
        super().__init__()
        self.encoder = copy.deepcopy(sam.image_encoder)
        self.encoder.neck = nn.Identity()
        self.mean, self.std = sam.pixel_mean, sam.pixel_std
        self.adaptors = nn.ModuleDict({"sam": nn.Identity()})
        self.seen: Tensor | None = None

    def forward_all(
        self, images: Tensor, adaptors: Sequence[str], **options: Any
    ) -> dict[str, RadioOutput]:
        self.seen = images
        return {"sam": RadioOutput(None, self.encoder((images * 255 - self.mean) / self.std))}


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("size", [(128, 128), (90, 160), (50, 30)])
def test_own_features_give_the_same_masks(sam: Sam, size: tuple[int, int]) -> None:
    oracle = OracleRadio(sam)
    swapped = swap_image_encoder(sam, oracle)  # type: ignore[arg-type]
    box = np.array([3.5, 4.0, 20.0, 27.25])
    results = []
    for model in (sam, swapped):
        predictor = SamPredictor(model)
        predictor.set_image(picture(*size))
        results.append(predictor.predict(box=box, multimask_output=True))
    assert results[0][0].any()
    assert np.array_equal(results[0][0], results[1][0])
    np.testing.assert_allclose(results[0][1], results[1][1], atol=1e-5)
    assert oracle.seen is not None
    assert 0 <= float(oracle.seen.min()) < float(oracle.seen.max()) <= 1


def test_padding_is_seen_in_sams_mean_colour(sam: Sam) -> None:
    oracle = OracleRadio(sam)
    SamPredictor(swap_image_encoder(sam, oracle)).set_image(picture(64, 128))  # type: ignore[arg-type]
    assert oracle.seen is not None
    padding = oracle.seen[0, :, 64:]
    torch.testing.assert_close(padding, (sam.pixel_mean / 255).expand_as(padding))


def test_the_result_is_a_sam_and_the_original_stays(sam: Sam) -> None:
    before = copy.deepcopy(sam.state_dict())
    swapped = swap_image_encoder(sam, student())
    assert isinstance(swapped, Sam)
    assert isinstance(swapped.image_encoder, RadioImageEncoder)
    assert not isinstance(sam.image_encoder, RadioImageEncoder)
    with torch.no_grad():
        for parameter in swapped.mask_decoder.parameters():
            parameter.add_(1)
    assert all(torch.equal(value, before[name]) for name, value in sam.state_dict().items())
    image = torch.rand(1, 3, 128, 128)
    twin = copy.deepcopy(swapped)
    assert torch.equal(twin.image_encoder(image), swapped.image_encoder(image))


@pytest.mark.parametrize("patch_size", [8, 16, 12])
def test_other_patch_sizes_come_to_sams_grid(sam: Sam, patch_size: int) -> None:
    predictor = SamPredictor(swap_image_encoder(sam, student(patch_size)))
    predictor.set_image(picture(100, 128))
    assert predictor.get_image_embedding().shape == (1, 16, 16, 16)
    masks, _, low = predictor.predict(point_coords=np.array([[9, 9]]), point_labels=np.array([1]))
    assert masks.shape == (3, 100, 128)
    assert low.shape == (3, 64, 64)


def test_another_image_size_moves_prompts_and_grid_along(sam: Sam) -> None:
    swapped = swap_image_encoder(sam, student(), image_size=64)
    predictor = SamPredictor(swapped)
    predictor.set_image(picture(128, 96))
    assert predictor.input_size == (64, 48)
    masks, _, low = predictor.predict(box=np.array([0, 0, 50, 60]))
    assert masks.shape == (3, 128, 96)
    assert low.shape == (3, 32, 32)


def test_windowed_attention(sam: Sam) -> None:
    image = torch.rand(1, 3, 128, 128)
    with torch.no_grad():
        plain = swap_image_encoder(sam, student()).image_encoder(image)
        windowed = swap_image_encoder(sam, student(), window_size=4).image_encoder(image)
    assert plain.shape == windowed.shape
    assert not torch.allclose(plain, windowed)


def test_what_does_not_fit_is_refused(sam: Sam) -> None:
    with pytest.raises(ValueError, match="no adaptor 'clip'; its adaptors: sam"):
        swap_image_encoder(sam, student(), adaptor="clip")
    with pytest.raises(ValueError, match=f"width 7, but this SAM's neck takes {WIDTH}"):
        swap_image_encoder(sam, student(feature_dim=7))
    with pytest.raises(ValueError, match="nearest is 104"):
        swap_image_encoder(sam, student(), image_size=101)
