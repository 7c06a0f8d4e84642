from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from radio_core.export.runtime import load_exported
from radio_core.export.subject import model_subject
from radio_core.export.torch_program import compile_model, export_torch
from radio_core.models import RadioModel

SIZES = [(1, 1, 1), (2, 3, 5), (3, 5, 2), (1, 8, 8), (1, 5, 5), (1, 17, 3)]
Build = Callable[..., RadioModel]


@pytest.mark.slow
@pytest.mark.parametrize("family", ["vit-windowed", "vit-grid", "eradio"])
def test_the_package_is_the_model_at_every_size_and_batch(
    family: str,
    tmp_path: Path,
    build: Build,
    images_of: Callable[..., Tensor],
    assert_close: Callable[..., None],
) -> None:
    model, path = build(family), tmp_path / "m.pt2"
    done = export_torch(model_subject(model, adaptors=tuple(model.adaptors)), path)
    assert len(done.differences) == 3
    assert done.bytes < 10e6  # no images in it
    exported = load_exported(path)
    for batch, rows, cols in SIZES:
        images = images_of(model, batch, rows, cols)
        with torch.no_grad():
            assert_close(exported(images), model(images))
    with pytest.raises(ValueError, match="nearest valid size"):
        exported(torch.rand(1, 3, model.min_resolution_step + 1, model.min_resolution_step))


def test_plain_torch_runs_the_package(tmp_path: Path, build: Build) -> None:
    model, path = build("vit"), tmp_path / "m.pt2"
    export_torch(model_subject(model), path, precision="bfloat16")
    summary, features = torch.export.load(path).module()(torch.rand(2, 3, 24, 40))
    assert summary.dtype == features.dtype == torch.float32
    assert features.shape == (2, 32, 3, 5)
    assert load_exported(path).card.precision == "bfloat16"


def test_a_package_of_somebody_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.pt2"
    torch.export.save(torch.export.export(torch.nn.ReLU(), (torch.rand(2),)), path)
    with pytest.raises(ValueError, match="not written by `radio export`"):
        load_exported(path)


def test_a_wrong_name_is_refused_at_once(tmp_path: Path, build: Build) -> None:
    subject = model_subject(build("vit"))
    for name, message in (("m.pt", "ends with .pt2"), ("folder.pt2", "is a folder")):
        (tmp_path / "folder.pt2").mkdir(exist_ok=True)
        with pytest.raises(ValueError, match=message):
            export_torch(subject, tmp_path / name)


@pytest.mark.slow
def test_a_compiled_model_is_the_same_model(
    build: Build, images_of: Callable[..., Tensor], assert_close: Callable[..., None]
) -> None:
    torch.compiler.reset()
    model = build("vit")
    compiled = compile_model(build("vit"), backend="eager")
    assert isinstance(compiled, RadioModel)
    for size in ((1, 2, 3), (2, 3, 2)):
        images = images_of(model, *size)
        with torch.no_grad():
            assert_close(compiled(images), model(images))
