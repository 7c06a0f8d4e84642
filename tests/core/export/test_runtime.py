"""Exported files in the place of models: the same numbers, the same contract."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from radio_core import __version__
from radio_core.export.exportable import vision_exportable
from radio_core.export.runtime import load_exported
from radio_core.export.torch_program import export_torch
from radio_core.models import RadioModel
from radio_core.vision import Output

Build = Callable[..., RadioModel]
Close = Callable[..., None]
Images = Callable[..., Tensor]
Files = Callable[..., Path]

# One step, the grid's own size, lying, standing, and for E-RADIO more than one window a side.
SIZES = [(1, 1, 1), (2, 3, 5), (3, 5, 2), (1, 8, 8), (1, 5, 5), (1, 1, 4), (1, 17, 3)]
FILES = [
    *((f, ".onnx") for f in ("vit", "vit-windowed", "vit-dinov2", "vit-grid")),
    *((f, ".onnx") for f in ("eradio", "eradio-conv")),
    *((f, ".pt2") for f in ("vit-windowed", "vit-grid", "eradio")),
]


@pytest.mark.slow
@pytest.mark.parametrize(("family", "suffix"), FILES)
def test_the_file_is_the_model_at_every_size_and_batch(
    family: str, suffix: str, file_of: Files, build: Build, assert_close: Close, images_of: Images
) -> None:
    path = file_of(family, suffix)
    assert path.stat().st_size < 10e6  # no images in it
    model, exported = build(family), load_exported(path, threads=1)
    for batch, rows, cols in SIZES:
        images = images_of(model, batch, rows, cols)
        with torch.no_grad():
            assert_close(exported(images), model(images))
    with pytest.raises(ValueError, match="nearest valid size"):
        exported(torch.rand(1, 3, model.min_resolution_step + 1, model.min_resolution_step))


def test_the_loaded_file_answers_like_the_model(
    file_of: Files, build: Build, assert_close: Close, images_of: Images
) -> None:
    model, exported = build("vit"), load_exported(file_of("vit"), threads=1)
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


def test_a_windowed_file_keeps_its_step(file_of: Files) -> None:
    exported = load_exported(file_of("vit-windowed"), threads=1)
    assert (exported.window_size, exported.min_resolution_step) == (2, 32)
    with pytest.raises(ValueError, match="multiples of 32"):
        exported(torch.rand(1, 3, 48, 64))


@pytest.mark.parametrize(("teacher", "side"), [("toy-dino", 56), ("toy-sam", 128)])
def test_a_teacher_is_exported_for_one_size(teacher: str, side: int, tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="needs the extra 'hf'")
    pytest.importorskip("segment_anything", reason="needs the extra 'sam'")
    from radio_core.teachers import load_teacher

    model, path = load_teacher(teacher), tmp_path / "m.pt2"
    export_torch(vision_exportable(model, (side, side)), path)
    exported = load_exported(path)
    assert (exported.summary_dim, exported.card.fixed_size) == (model.spec.summary_dim, (side,) * 2)
    images = torch.rand(3, 3, side, side)
    found, wanted = exported(images, "NCHW"), model(images, (side, side))
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)


def test_plain_torch_runs_the_package(
    tmp_path: Path, build: Build, file_of: Callable[..., Path]
) -> None:
    from radio_core.export.exportable import radio_exportable

    path = tmp_path / "m.pt2"
    export_torch(radio_exportable(build("vit")), path, precision="bfloat16")
    summary, features = torch.export.load(path).module()(torch.rand(2, 3, 24, 40))
    assert summary.dtype == features.dtype == torch.float32
    assert features.shape == (2, 32, 3, 5)
    assert load_exported(path).card.precision == "bfloat16"


def test_a_package_of_somebody_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.pt2"
    torch.export.save(torch.export.export(torch.nn.ReLU(), (torch.rand(2),)), path)
    with pytest.raises(ValueError, match="not written by `radio export`"):
        load_exported(path)
