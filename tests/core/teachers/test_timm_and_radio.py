"""Teachers of timm, and RADIO itself."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
from torch import Tensor

from radio_core.models.adaptors import AdaptorConfig, HeadConfig
from radio_core.models.config import RadioConfig
from radio_core.models.radio import RadioModel
from radio_core.models.vit import vit_config

Made = tuple[str, Callable[[Tensor], tuple[Tensor | None, Tensor]], int, tuple[int, int] | None]
"""Source, what the library says of normalised images, pixels, another size (None: it has none)."""


def timm_model(
    name: str,
    size: int,
    other: tuple[int, int] | None,
    prefix: str = "timm",
    pool: str | None = None,
    **arguments: Any,
) -> Callable[[Path], Made]:
    """A maker of a model of timm, with a classifier that the teacher leaves out."""

    def make(folder: Path) -> Made:
        network: Any = timm.create_model(name, num_classes=7, **arguments)
        timm.models.save_for_hf(network, folder, model_args=arguments)  # type: ignore[attr-defined]
        config = json.loads((folder / "config.json").read_text())
        config["pretrained_cfg"] |= {"input_size": [3, size, size], "mean": [0.1, 0.2, 0.3]}
        (folder / "config.json").write_text(json.dumps(config))
        flexible = {"dynamic_img_size": True} if hasattr(network, "dynamic_img_size") else {}
        again: Any = timm.create_model(name, num_classes=0, **{**arguments, **flexible})
        again.load_state_dict(network.state_dict(), strict=False)
        if pool is not None:
            again.reset_classifier(0, pool)

        def expected(images: Tensor) -> tuple[Tensor, Tensor]:
            last = again.eval().forward_features(images)
            if last.ndim == 3:
                step = again.patch_embed.patch_size[0]
                last = as_map(last[:, again.num_prefix_tokens :], images.shape[-2] // step)
            elif getattr(again, "output_fmt", "NCHW") == "NHWC":
                last = last.permute(0, 3, 1, 2)
            return again(images), last

        return (f"{prefix}:{folder}", expected, size, other)

    return make


def radio_model(adaptor: str) -> Callable[[Path], Made]:
    """A maker of a RADIO model, its backbone or an adaptor."""

    def make(folder: Path) -> Made:
        head = HeadConfig(out_dim=10, hidden_dim=8)
        config = RadioConfig(
            backbone=vit_config("tiny", embed_dim=32, depth=1, num_cls_tokens=2),
            adaptors=(
                AdaptorConfig(name="clip", features=head, summary=head, token_slot=1),
                AdaptorConfig(name="sam", features=head, upsample=2),
            ),
            summary_idxs=(0, 1),
            preferred_resolution=(48, 48),
            licence="CC-BY-NC-4.0",
            mean=(0.1, 0.2, 0.3),
        )
        model = RadioModel(config).eval()
        model.save_pretrained(folder)

        def expected(images: Tensor) -> tuple[Tensor | None, Tensor]:
            output = model.forward_all(images, (adaptor,) if adaptor else ())[adaptor or "backbone"]
            return output.summary, output.features

        source = f"radio:{folder}#{adaptor}" if adaptor else f"radio:{folder}"
        return (source, expected, 48, (16 * 2, 16 * 5))

    return make


def as_map(tokens: Tensor, rows: int) -> Tensor:
    """[B, rows * columns, C] -> [B, C, rows, columns]."""
    return tokens.transpose(1, 2).unflatten(2, (rows, -1))


MAKERS: dict[str, Callable[[Path], Made]] = {
    "radio": radio_model(""),
    "radio clip": radio_model("clip"),
    "radio sam": radio_model("sam"),
    "timm ViT": timm_model("test_vit", 160, (32, 80)),
    "timm ConvNeXt": timm_model("test_convnext", 64, (32, 96)),
    "timm ResNet": timm_model("test_resnet", 64, (32, 96)),
    "timm relative positions": timm_model("test_vit_relpos", 160, None),
    "timm dinov3": timm_model(
        "vit_small_patch16_dinov3",
        64,
        (32, 80),
        "dinov3",
        "token",
        embed_dim=32,
        depth=1,
        num_heads=2,
    ),
    "timm dinov2": timm_model(
        "vit_small_patch14_reg4_dinov2",
        28,
        (42, 14),
        "dinov2",
        img_size=28,
        embed_dim=32,
        depth=1,
        num_heads=2,
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
