"""Teachers of transformers: the DINOs, SAM 2 and 3, and any other vision model."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from radio_core.teachers import load_teacher

Made = tuple[str, Callable[[Tensor], tuple[Tensor | None, Tensor]], int, tuple[int, int] | None]
"""Source, what the library says of normalised images, pixels, another size (None: it has none)."""

VIT = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": 32,
    "patch_size": 8,
}
TEXT = {k: VIT[k] for k in VIT if k not in ("image_size", "patch_size")} | {
    "vocab_size": 40,
    "max_position_embeddings": 8,
    "projection_size": 16,
}
TWO_TOWERS = {"vision_config": VIT, "text_config": TEXT, "projection_dim": 12}
STAGES = {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 8, 16, 16]}
Reader = Callable[[Any, Tensor], tuple[Tensor | None, Tensor]]


def class_token(network: Any, images: Tensor) -> tuple[Tensor, Tensor]:
    tokens = network(images, **interpolated(network, images)).last_hidden_state
    rows, columns = (side // network.config.patch_size for side in images.shape[-2:])
    return tokens[:, 0], as_map(tokens[:, -rows * columns :], rows)


def convnext_token(network: Any, images: Tensor) -> tuple[Tensor, Tensor]:
    output = network(images)
    return output.pooler_output, as_map(output.last_hidden_state[:, 1:], images.shape[-2] // 32)


def projected(network: Any, images: Tensor) -> tuple[Tensor, Tensor]:
    tower = network.vision_model
    flags = interpolated(network, images)
    found = network.get_image_features(images, **flags)
    summary = found if isinstance(found, Tensor) else found.pooler_output
    rows = images.shape[-2] // 8
    tokens = tower(images, **flags).last_hidden_state
    return summary, as_map(tokens[:, -rows * (images.shape[-1] // 8) :], rows)


def pooled_map(network: Any, images: Tensor) -> tuple[Tensor, Tensor]:
    output = network(images)
    return output.pooler_output.flatten(1), output.last_hidden_state


def mean_of_tokens(network: Any, images: Tensor) -> tuple[Tensor, Tensor]:
    tokens = network(images).last_hidden_state
    return tokens.mean(dim=1), as_map(tokens, images.shape[-2] // 32)


def interpolated(network: Any, images: Tensor) -> dict[str, bool]:
    """What the library wants to be told for another size than the model's own."""
    kind = network.config.model_type
    own = images.shape[-2:] == (32, 32)
    return {} if own or "dino" in kind else {"interpolate_pos_encoding": True}


def as_map(tokens: Tensor, rows: int) -> Tensor:
    """[B, rows * columns, C] -> [B, C, rows, columns]."""
    return tokens.transpose(1, 2).unflatten(2, (rows, -1))


def transformers_model(
    kind: str,
    fields: dict[str, Any],
    reader: Reader,
    prefix: str = "hf",
    size: int = 32,
    other: tuple[int, int] | None = (16, 40),
) -> Callable[[Path], Made]:
    """A maker of a model of transformers."""

    def make(folder: Path) -> Made:
        transformers = pytest.importorskip("transformers", reason="needs the extra 'hf'")
        model = getattr(transformers, kind, None)
        if model is None:
            pytest.skip(f"transformers {transformers.__version__} has no {kind}")
        network = model(model.config_class(**fields)).eval()
        network.save_pretrained(folder)
        processor = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
        (folder / "preprocessor_config.json").write_text(json.dumps(processor))
        return (f"{prefix}:{folder}", lambda x: reader(network, x), size, other)

    return make


HIERA = {
    "hidden_size": 8,
    "image_size": [64, 64],
    "window_positional_embedding_background_size": [2, 2],
    "blocks_per_stage": [1, 1, 2, 1],
    "embed_dim_per_stage": [8, 16, 32, 64],
    "num_attention_heads_per_stage": [1, 1, 2, 2],
    "window_size_per_stage": [4, 2, 4, 2],
    "global_attention_blocks": [3],
}
SAM2_VISION = {
    "backbone_config": {"model_type": "sam2_hiera_det_model", **HIERA},
    "backbone_channel_list": [64, 32, 16, 8],
    "fpn_hidden_size": 12,
}
SAM2 = {
    "vision_config": {"model_type": "sam2_vision_model", **SAM2_VISION},
    "prompt_encoder_config": {"hidden_size": 12, "image_size": 64},
    "mask_decoder_config": {
        "hidden_size": 12,
        "mlp_dim": 16,
        "num_attention_heads": 2,
        "iou_head_hidden_dim": 12,
    },
}
SAM3_VISION = {
    "backbone_config": {
        "model_type": "sam3_vit_model",
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 56,
        "patch_size": 14,
        "window_size": 2,
        "global_attn_indexes": [1],
        "pretrain_image_size": 28,
    },
    "fpn_hidden_size": 8,
}
_TINY = {"hidden_size": 8, "intermediate_size": 16, "num_layers": 1, "num_attention_heads": 2}
SAM3 = {
    "vision_config": {"model_type": "sam3_vision_model", **SAM3_VISION},
    "text_config": {**TEXT, "projection_dim": 8, "bos_token_id": 0, "eos_token_id": 1},
    "geometry_encoder_config": _TINY,
    "detr_encoder_config": _TINY,
    "detr_decoder_config": {**_TINY, "num_queries": 3},
    "mask_decoder_config": {"hidden_size": 8, "num_attention_heads": 2},
}


def image_embedding(network: Any, images: Tensor) -> tuple[None, Tensor]:
    """What SAM 2's own mask decoder takes, before the memory that a single image has not."""
    encoder = getattr(network, "vision_encoder", network)
    return None, encoder(images).fpn_hidden_states[-1]


def before_the_neck(network: Any, images: Tensor) -> tuple[None, Tensor]:
    encoder, caught = getattr(network, "vision_encoder", network), []
    hook = encoder.neck.register_forward_pre_hook(lambda module, inputs: caught.append(inputs[0]))
    encoder(images)
    hook.remove()
    return None, caught[0]


REGISTERS = {**VIT, "num_register_tokens": 2, "layerscale_value": 0.5}
MAKERS: dict[str, Callable[[Path], Made]] = {
    "dinov2": transformers_model("Dinov2Model", VIT, class_token, "dinov2"),
    "dinov2 registers": transformers_model(
        "Dinov2WithRegistersModel", REGISTERS, class_token, "dinov2"
    ),
    "dinov3": transformers_model("DINOv3ViTModel", REGISTERS, class_token, "dinov3"),
    "dinov3 ConvNeXt": transformers_model(
        "DINOv3ConvNextModel", {**STAGES, "image_size": 64}, convnext_token, "dinov3", 64, (32, 96)
    ),
    "sam2": transformers_model("Sam2Model", SAM2, image_embedding, "sam2", 64, (32, 96)),
    "sam2 vision": transformers_model(
        "Sam2VisionModel", SAM2_VISION, image_embedding, "sam2", 64, (96, 64)
    ),
    "sam3": transformers_model("Sam3Model", SAM3, before_the_neck, "sam3", 56, None),
    "sam3 vision": transformers_model(
        "Sam3VisionModel", SAM3_VISION, before_the_neck, "sam3", 56, None
    ),
    "hf ViT": transformers_model("ViTModel", VIT, class_token),
    "hf DeiT": transformers_model("DeiTModel", VIT, class_token),
    "hf CLIP": transformers_model("CLIPModel", TWO_TOWERS, projected),
    "hf SigLIP": transformers_model(
        "SiglipModel", {k: TWO_TOWERS[k] for k in ("vision_config", "text_config")}, projected
    ),
    "hf MetaCLIP 2": transformers_model("MetaClip2Model", TWO_TOWERS, projected),
    "hf ResNet": transformers_model(
        "ResNetModel", {"embedding_size": 8, **STAGES}, pooled_map, size=224, other=(32, 96)
    ),
    "hf ConvNeXt": transformers_model(
        "ConvNextModel", {**STAGES, "image_size": 64}, pooled_map, size=64, other=(32, 96)
    ),
    "hf Swin": transformers_model(
        "SwinModel",
        {
            "image_size": 64,
            "embed_dim": 8,
            "depths": [1] * 4,
            "num_heads": [1] * 4,
            "window_size": 2,
        },
        mean_of_tokens,
        size=64,
        other=(64, 128),
    ),
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_outputs_are_those_of_the_library(
    make: Callable[[Path], Made], kind: Callable[..., Any]
) -> None:
    kind(make).check_own_size()


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_other_sizes_are_those_of_the_library_or_refused(
    make: Callable[[Path], Made], kind: Callable[..., Any]
) -> None:
    kind(make).check_other_sizes()


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_it_is_frozen_and_stays_in_eval_mode(
    make: Callable[[Path], Made], kind: Callable[..., Any]
) -> None:
    kind(make).check_frozen()


def test_pixels_that_fill_no_patch_are_left_out(tmp_path: Path) -> None:
    """SigLIP's 384 pixels in patches of 14 are 378, as the library's own convolution has it."""
    transformers = pytest.importorskip("transformers", reason="needs the extra 'hf'")
    config = transformers.SiglipVisionConfig(**{**VIT, "image_size": 36})
    network = transformers.SiglipVisionModel(config).eval()
    network.save_pretrained(tmp_path)
    teacher = load_teacher(f"hf:{tmp_path}")
    assert teacher.spec.input_size == 32
    images = torch.rand(1, 3, 36, 36)
    with torch.no_grad():
        wanted = network((images - 0.5) / 0.5)
    output = teacher(images[:, :, :32, :32])
    torch.testing.assert_close(output.features, as_map(wanted.last_hidden_state, 4))
    torch.testing.assert_close(output.summary, wanted.pooler_output)
