import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from radio_core import __version__
from radio_core.export import onnx as target
from radio_core.export.onnx import export_onnx
from radio_core.export.parity import ParityError, parity_shapes
from radio_core.export.runtime import load_exported
from radio_core.export.subject import Subject, model_subject
from radio_core.models import RadioModel
from radio_core.vision import Output

Build = Callable[..., RadioModel]
onnx = pytest.importorskip("onnx", reason="needs the extra 'export'")

FAMILIES = ("vit", "vit-windowed", "vit-dinov2", "vit-grid", "eradio", "eradio-conv")
# One step, the grid's own size, lying, standing, and for E-RADIO more than one window a side.
SIZES = [(1, 1, 1), (2, 3, 5), (3, 5, 2), (1, 8, 8), (1, 5, 5), (1, 1, 4), (1, 17, 3)]


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_the_file_is_the_model_at_every_size_and_batch(
    family: str,
    onnx_of: Callable[[str], Path],
    build: Build,
    assert_close: Callable[..., None],
    images_of: Callable[..., Tensor],
) -> None:
    model, exported = build(family), load_exported(onnx_of(family), threads=1)
    for batch, rows, cols in SIZES:
        images = images_of(model, batch, rows, cols)
        with torch.no_grad():
            assert_close(exported(images), model(images))


def test_the_file_has_the_names_and_open_sizes_of_the_contract(
    onnx_of: Callable[[str], Path],
) -> None:
    graph = onnx.load(str(onnx_of("vit-windowed"))).graph
    wanted = ["summary", "features", "clip_summary", "clip_features"]
    assert [value.name for value in graph.output] == [*wanted, "dino_features", "sam_features"]
    (image,) = graph.input
    assert image.name == "images"
    dims = [dim.dim_param or dim.dim_value for dim in image.type.tensor_type.shape.dim]
    assert dims[:2] == ["batch", 3]
    assert all(isinstance(dim, str) for dim in dims[2:])


def test_the_loaded_file_answers_like_the_model(
    onnx_of: Callable[[str], Path],
    build: Build,
    assert_close: Callable[..., None],
    images_of: Callable[..., Tensor],
) -> None:
    model, exported = build("vit"), load_exported(onnx_of("vit"), threads=1)
    for name in ("patch_size", "embed_dim", "summary_dim", "min_resolution_step", "window_size"):
        assert getattr(exported, name) == getattr(model, name), name
    assert exported.nearest_supported_resolution(70, 3) == (72, 8)
    assert exported.card.toolkit == __version__
    images = images_of(model, 2, 3, 2)
    with torch.no_grad():
        assert_close(exported(images, "NCHW"), model(images, "NCHW"))
        backbone = exported(images, adaptors=())
        assert isinstance(backbone, Output)
        assert backbone.features.shape == (2, 6, 32)
        assert list(exported.forward_all(images, ("sam",))) == ["backbone", "sam"]
    with pytest.raises(ValueError, match="nearest valid size is 32x8"):
        exported(torch.rand(1, 3, 30, 8))
    with pytest.raises(ValueError, match="this file has: clip, dino, sam"):
        exported(images, adaptors=("siglip",))
    with pytest.raises(ValueError, match="floating point"):
        exported(images.mul(255).to(torch.uint8))


def test_a_windowed_file_keeps_its_step(onnx_of: Callable[[str], Path]) -> None:
    exported = load_exported(onnx_of("vit-windowed"), threads=1)
    assert (exported.window_size, exported.min_resolution_step) == (2, 32)
    with pytest.raises(ValueError, match="multiples of 32"):
        exported(torch.rand(1, 3, 48, 64))


@pytest.fixture
def subject(build: Build) -> Callable[..., Subject]:
    """subject(**options of model_subject): the tiny ViT."""
    return lambda **options: model_subject(build("vit"), **options)


@pytest.mark.slow
def test_float16_in_the_oldest_opset_halves_the_file_and_leaves_the_model_alone(
    tmp_path: Path,
    onnx_of: Callable[[str], Path],
    build: Build,
    assert_close: Callable[..., None],
    images_of: Callable[..., Tensor],
) -> None:
    model = build("vit")
    path = tmp_path / "half.onnx"
    done = export_onnx(
        model_subject(model, adaptors=tuple(model.adaptors)),
        path,
        precision="float16",
        opset=17,
    )
    assert {entry.domain: entry.version for entry in onnx.load(str(path)).opset_import}[""] == 17
    assert done.bytes < 0.75 * onnx_of("vit").stat().st_size
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    exported = load_exported(path, threads=1)
    assert exported.card.precision == "float16"
    images = images_of(model, 1, 4, 3)
    with torch.no_grad():
        found = exported(images)
        assert_close(found, model(images), 2e-2)
    assert found["backbone"].features.dtype == torch.float32  # type: ignore[call-overload]


def test_eradio_stays_trainable_after_its_export(
    onnx_of: Callable[[str], Path], build: Build
) -> None:
    model = build("eradio")
    model_subject(model).prepared("float32")
    model.train()


def test_tokens_in_the_file_and_one_size_only(
    tmp_path: Path, build: Build, assert_close: Callable[..., None]
) -> None:
    model, path = build("vit"), tmp_path / "m.onnx"
    done = export_onnx(model_subject(model, size=(24, 40), feature_fmt="NLC"), path)
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
    tmp_path: Path,
    onnx_of: Callable[[str], Path],
    subject: Callable[..., Subject],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def write(subject: Subject, path: Path, **_: Any) -> None:
        shutil.copy(onnx_of("vit"), path)

    monkeypatch.setattr(target, "write_onnx", write)
    path = tmp_path / "m.onnx"
    path.write_text("what was there")
    with pytest.raises(ParityError, match="differs from the model"):
        export_onnx(subject(), path, tolerance=0)
    assert [file.name for file in tmp_path.iterdir()] == ["m.onnx"]
    assert path.read_text() == "what was there"


def test_weights_that_do_not_fit_go_into_a_side_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, subject: Callable[..., Subject]
) -> None:
    monkeypatch.setattr(target, "MAX_INSIDE", 1000)
    (tmp_path / "a").mkdir()
    done = export_onnx(subject(), tmp_path / "a" / "m.onnx")
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
    options: dict[str, Any], message: str, tmp_path: Path, subject: Callable[..., Subject]
) -> None:
    unrunnable = Subject(module=Unrunnable(), card=subject().card)
    path = tmp_path / options.pop("path", "m.onnx")
    with pytest.raises(ValueError, match=message):
        export_onnx(unrunnable, path, **options)
    assert list(tmp_path.iterdir()) == []


def test_models_that_cannot_be_exported_so_are_refused(
    build: Build, subject: Callable[..., Subject]
) -> None:
    with pytest.raises(ValueError, match="this model has: clip, dino, sam"):
        subject(adaptors=("clop",))
    with pytest.raises(ValueError, match="nearest size that it takes is 96x104"):
        subject(size=(97, 103))
    config = build("vit").config
    cut = RadioModel(type(config)(backbone=_with(config.backbone, feature_start=1)))
    with pytest.raises(ValueError, match="--feature-fmt NLC"):
        model_subject(cut)
    assert model_subject(cut, feature_fmt="NLC").card.feature_fmt == "NLC"


def test_a_model_of_one_size_is_exported_for_it(build: Build) -> None:
    config = build("vit").config
    fixed = RadioModel(type(config)(backbone=_with(config.backbone, positions="fixed")))
    assert model_subject(fixed).card.fixed_size == (64, 64)
    with pytest.raises(ValueError, match="nearest size that it takes is 64x64"):
        model_subject(fixed, size=(32, 32))


def _with(config: Any, **changes: Any) -> Any:
    import dataclasses

    return dataclasses.replace(config, **changes)


def test_parity_is_checked_at_three_sizes_one_of_them_no_square(build: Build) -> None:
    for family in ("vit", "vit-windowed", "eradio"):
        shapes = parity_shapes(model_subject(build(family)).card)
        assert len({shape[0] for shape in shapes}) == 3
        assert len({shape[1:] for shape in shapes}) == 3
        assert any(height != width for _, height, width in shapes)
    large = build("vit")
    large.window_size = 64  # a step of 512 pixels
    assert len({shape[1:] for shape in parity_shapes(model_subject(large).card)}) == 3
