"""Teachers of open_clip: its own towers, and those of timm."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

Made = tuple[str, Callable[[Tensor], tuple[Tensor | None, Tensor]], int, tuple[int, int] | None]
"""Source, what the library says of normalised images, pixels, another size (None: it has none)."""


def open_clip_vit(folder: Path) -> Made:
    tower = {"layers": 2, "width": 16, "head_width": 8, "image_size": 32, "patch_size": 8}
    model = save_open_clip(folder, "CLIP", tower, embed_dim=12)

    def expected(images: Tensor) -> tuple[Tensor, Tensor]:
        tokens = model.visual.transformer(model.visual._embeds(images))
        return model.encode_image(images), as_map(model.visual.ln_post(tokens)[:, 1:], 4)

    return (f"open_clip:local-dir:{folder}", expected, 32, None)


def open_clip_resnet(folder: Path) -> Made:
    tower = {"layers": [1, 1, 1, 1], "width": 8, "head_width": 16, "image_size": 64}
    model = save_open_clip(folder, "CLIP", tower, embed_dim=12)

    def expected(images: Tensor) -> tuple[Tensor, Tensor]:
        visual = model.visual
        x = visual.stem(images)
        for layer in (visual.layer1, visual.layer2, visual.layer3, visual.layer4):
            x = layer(x)
        return model.encode_image(images), x

    return (f"open_clip:local-dir:{folder}", expected, 64, None)


def open_clip_siglip(folder: Path) -> Made:
    """SigLIP's form: a tower of timm that pools by attention, without projection."""
    names = {"timm_model_name": "test_vit3", "timm_pool": "map", "timm_proj": "none"}
    model = save_open_clip(folder, "CustomTextCLIP", {"image_size": 160, **names}, embed_dim=96)

    def expected(images: Tensor) -> tuple[Tensor, Tensor]:
        tokens = model.visual.trunk.forward_features(images)
        return model.encode_image(images), as_map(tokens[:, -100:], 10)

    return (f"open_clip:local-dir:{folder}", expected, 160, None)


def open_clip_convnext(folder: Path) -> Made:
    names = {"timm_model_name": "test_convnext", "timm_pool": "", "timm_proj": "linear"}
    model = save_open_clip(folder, "CustomTextCLIP", {"image_size": 64, **names}, embed_dim=12)

    def expected(images: Tensor) -> tuple[Tensor, Tensor]:
        return model.encode_image(images), model.visual.trunk.forward_features(images)

    return (f"open_clip:local-dir:{folder}", expected, 64, (32, 96))


def open_clip_coca(folder: Path) -> Made:
    """CoCa pools the tokens by attention, and norms the pooled ones only."""
    tower = {"layers": 2, "width": 16, "head_width": 8, "image_size": 32, "patch_size": 8}
    pool = {"attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True}
    model = save_open_clip(folder, "CoCa", {**tower, **pool}, embed_dim=12)

    def expected(images: Tensor) -> tuple[Tensor, Tensor]:
        tokens = model.visual.transformer(model.visual._embeds(images))
        return model.encode_image(images, normalize=False), as_map(tokens[:, 1:], 4)

    return (f"open_clip:local-dir:{folder}", expected, 32, None)


def save_open_clip(folder: Path, kind: str, tower: dict[str, Any], embed_dim: int) -> Any:
    open_clip = pytest.importorskip("open_clip", reason="needs the extra 'clip'")
    text = {"context_length": 77, "vocab_size": 49408, "width": 8, "heads": 1, "layers": 1}
    config: dict[str, Any] = {"embed_dim": embed_dim, "vision_cfg": tower, "text_cfg": text}
    if kind == "CoCa":
        text |= {"embed_cls": True, "output_tokens": True}
        config["multimodal_cfg"] = {"width": 8, "heads": 1, "layers": 1, "context_length": 76}
    model = getattr(open_clip, kind)(**copy.deepcopy(config))
    config["custom_text"] = kind != "CLIP"
    data = {"model_cfg": config, "preprocess_cfg": {"mean": [0.4] * 3, "std": [0.2] * 3}}
    (folder / "open_clip_config.json").write_text(json.dumps(data))
    torch.save(model.state_dict(), folder / "open_clip_pytorch_model.bin")
    return model.eval()


def as_map(tokens: Tensor, rows: int) -> Tensor:
    """[B, rows * columns, C] -> [B, C, rows, columns]."""
    return tokens.transpose(1, 2).unflatten(2, (rows, -1))


MAKERS: dict[str, Callable[[Path], Made]] = {
    "open_clip ViT": open_clip_vit,
    "open_clip ResNet": open_clip_resnet,
    "open_clip CoCa": open_clip_coca,
    "open_clip SigLIP": open_clip_siglip,
    "open_clip ConvNeXt": open_clip_convnext,
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
