import dataclasses
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from radio_core.export import onnx as target
from radio_core.export.exportable import Exportable, radio_exportable
from radio_core.export.onnx import export_onnx
from radio_core.export.parity import ParityError, parity_shapes
from radio_core.export.runtime import load_exported
from radio_core.models import RadioModel

Build = Callable[..., RadioModel]
onnx = pytest.importorskip("onnx", reason="needs the extra 'export'")


@pytest.fixture
def vit(build: Build) -> Callable[..., Exportable]:
    """vit(**options of radio_exportable): the tiny ViT."""
    return lambda **options: radio_exportable(build("vit"), **options)


def test_the_file_has_the_names_and_open_sizes_of_the_contract(file_of: Any) -> None:
    graph = onnx.load(str(file_of("vit-windowed"))).graph
    wanted = ["summary", "features", "clip_summary", "clip_features"]
    assert [value.name for value in graph.output] == [*wanted, "dino_features", "sam_features"]
    (image,) = graph.input
    assert image.name == "images"
    dims = [dim.dim_param or dim.dim_value for dim in image.type.tensor_type.shape.dim]
    assert dims[:2] == ["batch", 3]
    assert all(isinstance(dim, str) for dim in dims[2:])


@pytest.mark.slow
def test_float16_in_the_oldest_opset_halves_the_file_and_leaves_the_model_alone(
    tmp_path: Path, file_of: Any, build: Build, assert_close: Any, images_of: Any
) -> None:
    model = build("vit")
    path = tmp_path / "half.onnx"
    exportable = radio_exportable(model, adaptors=tuple(model.adaptors))
    done = export_onnx(exportable, path, precision="float16", opset=17)
    assert {entry.domain: entry.version for entry in onnx.load(str(path)).opset_import}[""] == 17
    assert done.bytes < 0.75 * file_of("vit").stat().st_size
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    exported = load_exported(path, threads=1)
    assert exported.card.precision == "float16"
    images = images_of(model, 1, 4, 3)
    with torch.no_grad():
        found = exported(images)
        assert_close(found, model(images), 2e-2)
    assert found["backbone"].features.dtype == torch.float32  # type: ignore[call-overload]


def test_only_the_copy_is_fused(build: Build) -> None:
    model = build("eradio")
    names = list(model.state_dict())
    fused = radio_exportable(model).prepared("float32").module
    assert len(fused.state_dict()) < len(names)
    assert list(model.state_dict()) == names
    assert model.train().training


def test_tokens_in_the_file_and_one_size_only(
    tmp_path: Path, build: Build, assert_close: Any
) -> None:
    model, path = build("vit"), tmp_path / "m.onnx"
    done = export_onnx(radio_exportable(model, size=(24, 40), feature_fmt="NLC"), path)
    assert [difference.case for difference in done.differences] == ["1x24x40", "2x24x40", "3x24x40"]
    exported = load_exported(path, threads=1)
    assert exported.nearest_supported_resolution(500, 500) == (24, 40)
    images = torch.rand(2, 3, 24, 40)
    with torch.no_grad():
        for fmt in ("NLC", "NCHW"):
            found, wanted = exported(images, fmt), model(images, fmt, adaptors=())  # type: ignore[arg-type]
            assert_close({"": found}, {"": wanted})
    with pytest.raises(ValueError, match="nearest valid size is 24x40"):
        exported(torch.rand(1, 3, 24, 24))


def test_nothing_is_left_of_a_file_that_differs(
    tmp_path: Path, file_of: Any, vit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = file_of("vit")
    monkeypatch.setattr(target, "write_onnx", lambda _, path, **__: shutil.copy(other, path))
    path = tmp_path / "m.onnx"
    path.write_text("what was there")
    with pytest.raises(ParityError, match="differs from the model"):
        export_onnx(vit(), path, tolerance=0)
    assert [file.name for file in tmp_path.iterdir()] == ["m.onnx"]
    assert path.read_text() == "what was there"


def test_weights_that_do_not_fit_go_into_a_side_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vit: Any
) -> None:
    monkeypatch.setattr(target, "MAX_INSIDE", 1000)
    (tmp_path / "a").mkdir()
    done = export_onnx(vit(), tmp_path / "a" / "m.onnx")
    assert done.side_file == tmp_path / "a" / "m.onnx.data"
    assert done.path.stat().st_size < done.side_file.stat().st_size
    os.rename(tmp_path / "a", tmp_path / "b")
    load_exported(tmp_path / "b" / "m.onnx", threads=1)(torch.rand(1, 3, 16, 16))
    (tmp_path / "b" / "m.onnx.data").unlink()
    with pytest.raises(ValueError, match=r"needs 'm\.onnx\.data' beside it"):
        load_exported(tmp_path / "b" / "m.onnx")


class Unrunnable(torch.nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        raise AssertionError("nothing long may have begun")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"opset": 16}, "too old.*use 17 to"),
        ({"opset": 99}, "not known; use 17 to"),
        ({"precision": "bfloat16"}, "use float32 or float16"),
        ({"path": "m.pb"}, "ends with .onnx"),
    ],
)
def test_bad_options_are_refused_before_any_work(
    options: dict[str, Any], message: str, tmp_path: Path, vit: Any
) -> None:
    unrunnable = Exportable(module=Unrunnable(), card=vit().card)
    path = tmp_path / options.pop("path", "m.onnx")
    with pytest.raises(ValueError, match=message):
        export_onnx(unrunnable, path, **options)
    assert list(tmp_path.iterdir()) == []


def test_models_that_cannot_be_exported_so_are_refused(build: Build, vit: Any) -> None:
    with pytest.raises(ValueError, match="this model has: clip, dino, sam"):
        vit(adaptors=("clop",))
    with pytest.raises(ValueError, match="nearest size that it takes is 96x104"):
        vit(size=(97, 103))
    config = build("vit").config
    tokens = dataclasses.replace(config.backbone, feature_start=1)  # type: ignore[call-arg]
    cut = RadioModel(type(config)(backbone=tokens))
    with pytest.raises(ValueError, match="--feature-fmt NLC"):
        radio_exportable(cut)
    assert radio_exportable(cut, feature_fmt="NLC").card.feature_fmt == "NLC"


def test_a_model_of_one_size_is_exported_for_it(build: Build) -> None:
    config = build("vit").config
    positions = dataclasses.replace(config.backbone, positions="fixed")  # type: ignore[call-arg]
    fixed = RadioModel(type(config)(backbone=positions))
    assert radio_exportable(fixed).card.fixed_size == (64, 64)
    with pytest.raises(ValueError, match="nearest size that it takes is 64x64"):
        radio_exportable(fixed, size=(32, 32))


def test_parity_is_checked_at_three_sizes_one_of_them_no_square(build: Build) -> None:
    for family in ("vit", "vit-windowed", "eradio"):
        shapes = parity_shapes(radio_exportable(build(family)).card)
        assert len({shape[0] for shape in shapes}) == 3
        assert len({shape[1:] for shape in shapes}) == 3
        assert any(height != width for _, height, width in shapes)
    large = build("vit")
    large.window_size = 64  # a step of 512 pixels
    assert len({shape[1:] for shape in parity_shapes(radio_exportable(large).card)}) == 3
