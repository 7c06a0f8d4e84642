"""Tiny models of every family, and each of them as a file for each runtime."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from radio_core.models import (
    AdaptorConfig,
    HeadConfig,
    RadioConfig,
    RadioModel,
    eradio_config,
    vit_config,
)
from radio_core.vision import Output

SMALL: dict[str, Any] = {"depth": 2, "embed_dim": 32, "num_heads": 2, "grid_size": 8}
ERADIO: dict[str, Any] = {
    "dim": 16,
    "depths": [1, 1, 1, 1],
    "num_heads": [1, 1, 2, 2],
    "full_features_head_dim": 32,
}
FAMILIES: dict[str, Any] = {
    "vit": vit_config("tiny", **SMALL, num_cls_tokens=2),
    "vit-windowed": vit_config("base", **SMALL, num_windowed=1),
    "vit-dinov2": vit_config("base", **{**SMALL, "grid_size": 5}, positions="dinov2"),
    "vit-grid": vit_config("base", **{**SMALL, "grid_size": 5}, positions="grid"),
    "eradio": eradio_config("eradio_xxxtiny_8x_ws16", **ERADIO),
    "eradio-conv": eradio_config(
        "eradio", **ERADIO, in_dim=8, cpb_mlp_hidden=8, window_size=[None, None, [4, 4], 4]
    ),
}
ADAPTORS = (
    AdaptorConfig(
        name="clip",
        features=HeadConfig(out_dim=6, hidden_dim=8),
        summary=HeadConfig(kind="v1", out_dim=5, hidden_dim=8),
        token_slot=0,
    ),
    AdaptorConfig(name="dino", features=HeadConfig(kind="attn", out_dim=7, hidden_dim=8)),
    AdaptorConfig(name="sam", features=HeadConfig(out_dim=3, hidden_dim=8), upsample=2),
)


def _build(family: str, **changes: Any) -> RadioModel:
    """A model with every kind of head; the windowed family attends in windows of 2."""
    torch.manual_seed(0)
    config = RadioConfig(name=family, backbone=FAMILIES[family], adaptors=ADAPTORS, **changes)
    model = RadioModel(config).eval()
    for name, buffer in model.named_buffers():  # as training leaves them
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 2)
    model.window_size = 2 if family == "vit-windowed" else None
    model.active_adaptors = tuple(model.adaptors)
    return model


def _images_of(model: RadioModel, batch: int, rows: int, cols: int) -> Tensor:
    """Images of rows x cols resolution steps."""
    step = model.min_resolution_step
    return torch.rand(batch, 3, rows * step, cols * step)


def _assert_close(found: Any, wanted: Any, tolerance: float = 1e-5) -> None:
    """Two results of a model with adaptors agree, relative to their largest values."""
    assert found.keys() == wanted.keys()
    for name in wanted:
        one, other = Output(*found[name]), Output(*wanted[name])
        assert (one.summary is None) == (other.summary is None)
        for a, b in zip(one, other, strict=True):
            if a is not None and b is not None:
                assert a.shape == b.shape
                assert float((a - b).abs().max()) <= tolerance * float(b.abs().max()), name


@pytest.fixture(scope="session")
def build() -> Callable[..., RadioModel]:
    """build(family, **changes of the config): see `_build`."""
    return _build


@pytest.fixture(scope="session")
def images_of() -> Callable[..., Tensor]:
    """images_of(model, batch, rows, cols): see `_images_of`."""
    return _images_of


@pytest.fixture(scope="session")
def assert_close() -> Callable[..., None]:
    """assert_close(found, wanted, tolerance): see `_assert_close`."""
    return _assert_close


@pytest.fixture(scope="session")
def file_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """file_of(family, suffix): it as a file with all adaptors, written once."""
    from radio_core.export.exportable import radio_exportable

    @cache
    def write(family: str, suffix: str = ".onnx") -> Path:
        path = tmp_path_factory.mktemp("exported") / f"{family}{suffix}"
        model = _build(family)
        exportable = radio_exportable(model, adaptors=tuple(model.adaptors))
        if suffix == ".pt2":
            from radio_core.export.torch_program import export_torch

            assert len(export_torch(exportable, path).differences) == 3
            return path
        pytest.importorskip("onnxscript", reason="needs the extra 'export'")
        pytest.importorskip("onnxruntime", reason="needs the extra 'export'")
        from radio_core.export.onnx import export_onnx

        assert len(export_onnx(exportable, path).differences) == 3
        return path

    return write
