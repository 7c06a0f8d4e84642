"""Compiled and exported models give what eager ones give, for every family and kind of head."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from radio_core.models import (
    AdaptorConfig,
    HeadConfig,
    RadioConfig,
    RadioModel,
    ViTConfig,
    eradio_config,
)
from radio_core.vision import Output

WIDTH = 32
SMALL: dict[str, Any] = {"patch_size": 8, "embed_dim": WIDTH, "depth": 2, "num_heads": 2}
SMALL |= {"num_global": 1}
ERADIO: dict[str, Any] = {
    "depths": [1, 1, 1, 1],
    "num_heads": [1, 1, 2, 2],
    "window_size": [None, None, [4, 4], 4],
    "dim": 8,
    "in_dim": 8,
    "cpb_mlp_hidden": 8,
    "full_features_head_dim": WIDTH,
}
BACKBONES = {
    "vit": ViTConfig(**SMALL, num_cls_tokens=2, num_registers=2, grid_size=16),
    "vit-layer-scale": ViTConfig(**SMALL, num_cls_tokens=2, init_values=1e-1, grid_size=16),
    "vit-old-grid": ViTConfig(**SMALL, num_cls_tokens=2, positions="grid", grid_size=6),
    "vit-plain": ViTConfig(**SMALL, num_cls_tokens=2, positions="fixed", grid_size=8),
    "vit-conv-stem": ViTConfig(**SMALL, num_cls_tokens=2, stem="conv", grid_size=16),
    "dinov2": ViTConfig(
        **SMALL, ffn="swiglu", init_values=1e-1, patch_bias=True, summary="first", final_norm=True
    ),
    "dinov2-no-grid": ViTConfig(**SMALL, summary="first", positions="dinov2", grid_size=5),
    "eradio": eradio_config("eradio", **ERADIO),
    "eradio-small": eradio_config("eradio_xxxtiny_8x_ws12", **ERADIO),
}
HEADS = {"v1": HeadConfig(kind="v1", out_dim=5, hidden_dim=8, num_inner=1)}
HEADS["v2"] = HeadConfig(out_dim=6, hidden_dim=8, num_inner=1)
HEADS["attn"] = HeadConfig(kind="attn", out_dim=7, hidden_dim=8)


def build(backbone: str, **changes: Any) -> RadioModel:
    """The model with every kind of head and a feature normalizer, all weights random."""
    torch.manual_seed(0)
    adaptors = (
        AdaptorConfig(name="old", features=HEADS["v1"], summary=HEADS["v1"], token_slot=0),
        AdaptorConfig(name="new", features=HEADS["v2"], upsample=2),
        AdaptorConfig(name="attention", features=HEADS["attn"], summary=HEADS["v2"], token_slot=0),
    )
    config = RadioConfig(
        backbone=BACKBONES[backbone], adaptors=adaptors, feature_normalizer=True, **changes
    )
    model = RadioModel(config).eval()
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point() and not (tensor == 0.5).all():
            torch.nn.init.normal_(tensor, std=0.2) if tensor.ndim > 1 else tensor.data.add_(0.1)
    model.active_adaptors = tuple(model.adaptors)
    return model


def tensors(outputs: dict[str, Output]) -> list[Tensor]:
    return [t for output in outputs.values() for t in output if t is not None]


def assert_same(found: dict[str, Output], wanted: dict[str, Output]) -> None:
    assert found.keys() == wanted.keys()
    for one, other in zip(tensors(found), tensors(wanted), strict=True):
        # Fused sums round otherwise, in proportion to the largest terms.
        torch.testing.assert_close(one, other, atol=2e-5 * float(other.abs().max()), rtol=0)


@pytest.fixture(autouse=True)
def fresh_compiler() -> None:
    torch.compiler.reset()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "window_size"),
    [("vit", 4), ("vit-plain", None), ("dinov2", None), ("dinov2-no-grid", None), ("eradio", None)],
)
def test_compiled_is_eager(backbone: str, window_size: int | None) -> None:
    model = build(backbone)
    model.window_size = window_size
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        compiled = torch.compile(model, fullgraph=True)
        assert_same(compiled(images, feature_fmt="NCHW"), model(images, feature_fmt="NCHW"))


@pytest.mark.parametrize("window_size", [None, 4])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_exported_is_eager(backbone: str, window_size: int | None) -> None:
    model = build(backbone)
    if window_size is not None and backbone.startswith("eradio"):
        pytest.skip("E-RADIO has no windowed mode")
    model.window_size = window_size
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        program = torch.export.export(model, (images,))
        assert_same(program.module()(images), model(images))


@pytest.mark.parametrize("backbone", ["vit", "dinov2", "eradio"])
def test_exported_once_serves_other_batch_sizes(backbone: str) -> None:
    model = build(backbone)
    batch = torch.export.Dim("batch", min=1, max=16)
    with torch.no_grad():
        program = torch.export.export(
            model, (torch.rand(2, 3, 64, 64),), dynamic_shapes={"images": {0: batch}}
        )
        images = torch.rand(5, 3, 64, 64)
        assert_same(program.module()(images), model(images))


def test_exported_intermediates_are_eager() -> None:
    model = build("vit", intermediate_normalizer="per_layer")

    class Intermediates(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, images: Tensor) -> list[Tensor]:
            found: list[Tensor] = self.model.forward_intermediates(
                images, [0, 1], aggregation="dense", intermediates_only=True
            )
            return found

    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        eager = Intermediates()(images)
        program = torch.export.export(Intermediates(), (images,))
        for one, other in zip(program.module()(images), eager, strict=True):
            torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
