"""RADIO inside transformers' SamModel."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

pytest.importorskip("transformers", reason="needs the extra 'hf'")

import transformers

from radio_core.models import RadioModel
from radio_core.vision import Output
from radio_sam import swap_hf_image_encoder
from radio_sam.hf import IMAGENET_MEAN, IMAGENET_STD

WIDTH = 24


@pytest.fixture(scope="module")
def sam_model() -> Any:
    torch.manual_seed(0)
    vision = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision |= {"image_size": 128, "patch_size": 8, "output_channels": 16, "num_pos_feats": 8}
    vision |= {"window_size": 8, "global_attn_indexes": [1], "mlp_dim": 32}
    prompts = {"hidden_size": 16, "image_size": 128, "patch_size": 8}
    decoder = {
        "hidden_size": 16,
        "mlp_dim": 16,
        "num_attention_heads": 2,
        "iou_head_hidden_dim": 16,
    }
    config = transformers.SamConfig(
        vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=decoder
    )
    model = transformers.SamModel(config).eval()
    for parameter in model.parameters():  # its own initial weights are all but zero
        nn.init.normal_(parameter, std=0.2)
    return model


@pytest.fixture(scope="module")
def processor() -> Any:
    square = {"height": 128, "width": 128}
    images = transformers.SamImageProcessor(size={"longest_edge": 128}, pad_size=square)
    return transformers.SamProcessor(images)


class HFOracle(nn.Module):
    """A RADIO whose sam adaptor gives the features before the neck of a SamModel."""

    patch_size = min_resolution_step = 8
    window_size = None

    def __init__(self, sam_model: Any) -> None:
        super().__init__()
        self.encoder = sam_model.vision_encoder
        self.adaptors = nn.ModuleDict({"sam": nn.Identity()})
        self.seen: list[Tensor] = []

    def forward_all(self, images: Tensor, adaptors: Any, **options: Any) -> dict[str, Output]:
        self.seen.append(images)
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
        encoder = self.encoder
        tokens = encoder.patch_embed((images - mean) / std) + encoder.pos_embed
        for layer in encoder.layers:
            tokens = layer(tokens)
        return {"sam": Output(None, tokens.permute(0, 3, 1, 2))}


def inputs(processor: Any, image: NDArray[np.uint8]) -> Any:
    return processor(
        images=image,
        input_points=[[[20.0, 15.0]]],
        input_boxes=[[[3.0, 4.0, 40.0, 50.0]]],
        return_tensors="pt",
    )


@pytest.mark.parametrize("size", [(128, 128), (60, 90), (100, 33)])
def test_own_features_give_the_same_masks(
    sam_model: Any,
    processor: Any,
    picture: Callable[[int, int], NDArray[np.uint8]],
    size: tuple[int, int],
) -> None:
    oracle: Any = HFOracle(sam_model)
    swapped = swap_hf_image_encoder(sam_model, oracle)
    assert isinstance(swapped, transformers.SamModel)
    prompt = inputs(processor, picture(*size))
    with torch.no_grad():
        own, other = sam_model(**prompt), swapped(**prompt)
    torch.testing.assert_close(other.pred_masks, own.pred_masks, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(other.iou_scores, own.iou_scores, rtol=1e-4, atol=1e-5)
    sizes = (prompt["original_sizes"], prompt["reshaped_input_sizes"])
    masks = [processor.post_process_masks(o.pred_masks, *sizes)[0] for o in (own, other)]
    assert masks[0].shape[-2:] == size
    assert 0 < masks[0].float().mean() < 1
    assert float((masks[0] != masks[1]).float().mean()) < 1e-3
    assert 0 <= float(oracle.seen[0].min()) < float(oracle.seen[0].max()) <= 1
    torch.testing.assert_close(
        swapped.get_image_embeddings(prompt["pixel_values"]),
        sam_model.get_image_embeddings(prompt["pixel_values"]),
        rtol=1e-4,
        atol=1e-5,
    )


@pytest.mark.parametrize("student", [{}, {"patch_size": 14}, {"e_radio": True}])
def test_students_run_and_the_original_stays(
    sam_model: Any,
    processor: Any,
    make_student: Callable[..., RadioModel],
    picture: Callable[[int, int], NDArray[np.uint8]],
    student: dict[str, Any],
) -> None:
    own_encoder = sam_model.vision_encoder
    swapped = swap_hf_image_encoder(sam_model, make_student(**student))
    assert sam_model.vision_encoder is own_encoder
    assert own_encoder not in list(swapped.modules())
    assert swapped.vision_encoder.config is sam_model.vision_encoder.config
    assert swapped.mask_decoder is not sam_model.mask_decoder
    shared = swapped.shared_image_embedding.positional_embedding
    assert swapped.prompt_encoder.shared_embedding.positional_embedding is shared
    prompt = inputs(processor, picture(60, 90))
    with torch.no_grad():
        output = swapped(**prompt, output_hidden_states=True)
    assert output.pred_masks.shape == (1, 1, 3, 64, 64)
    assert output.iou_scores.shape == (1, 1, 3)


def test_windows_are_passed_on(sam_model: Any, make_student: Callable[..., RadioModel]) -> None:
    pixels = torch.randn(1, 3, 128, 128)
    radio = make_student()
    plain, windowed = (
        swap_hf_image_encoder(sam_model, radio, window_size=size).get_image_embeddings(pixels)
        for size in (None, 4)
    )
    assert plain.shape == windowed.shape == (1, 16, 16, 16)
    assert not torch.allclose(plain, windowed)


def test_what_does_not_fit_is_refused(
    sam_model: Any, make_student: Callable[..., RadioModel]
) -> None:
    with pytest.raises(ValueError, match="width 7, but this SAM's neck takes 24"):
        swap_hf_image_encoder(sam_model, make_student(feature_dim=7))
    with pytest.raises(ValueError, match="no adaptor 'clip'"):
        swap_hf_image_encoder(sam_model, make_student(), adaptor="clip")
    with pytest.raises(ValueError, match=r"must be a transformers\.SamModel, not Linear"):
        swap_hf_image_encoder(nn.Linear(2, 2), make_student())
    swapped = swap_hf_image_encoder(sam_model, make_student())
    with pytest.raises(ValueError, match="input is"):
        swapped(pixel_values=torch.zeros(1, 3, 64, 64))
