"""Exported files behind the contract of all models: they answer as the model does."""

from pathlib import Path
from typing import Any

import pytest
import torch

from radio_core.export.exportable import radio_exportable
from radio_core.export.torch_program import export_torch
from radio_core.models.radio import RadioModel
from radio_core.open import open_model
from radio_core.zoo.load import load_model


def export(radio: RadioModel, path: Path) -> str:
    export_torch(radio_exportable(radio, adaptors=("clip", "sam")), path)
    return str(path)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> str:
    return export(load_model("toy"), tmp_path_factory.mktemp("exported") / "toy.pt2")


@pytest.mark.parametrize("adaptor", ["", "clip"])
def test_an_exported_model_answers_like_the_model(file: str, adaptor: str) -> None:
    pytest.importorskip("open_clip", reason="needs the extra 'clip'")
    exported: Any = open_model(file, adaptor=adaptor)
    model: Any = open_model("toy", adaptor=adaptor)
    assert exported.spec.name == "toy.pt2"
    for name in ("input_size", "step", "square", "flexible", "text", "sam"):
        assert getattr(exported.spec, name) == getattr(model.spec, name), name
    images = torch.rand(2, 3, 32, 48)
    for found, wanted in zip(exported(images, (32, 48)), model(images, (32, 48)), strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
    found, wanted = (each.image_text(images, (32, 48)) for each in (exported, model))
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
    texts = ["a red star", "a blue ring"]
    torch.testing.assert_close(exported.encode_text(texts), model.encode_text(texts))


def test_another_file_of_the_same_name_is_another_model(file: str, tmp_path: Path) -> None:
    first = open_model(file).fingerprint()
    assert first == open_model(file).fingerprint()
    assert first != open_model(file, adaptor="clip").fingerprint()
    model = load_model("toy")
    with torch.no_grad():
        next(model.backbone.parameters()).mul_(2)
    assert open_model(export(model, tmp_path / "toy.pt2")).fingerprint() != first


def test_what_a_file_cannot_do_is_said(file: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="this file has: clip, sam"):
        open_model(file, adaptor="dino_v2")
    with pytest.raises(FileNotFoundError, match="no file"):
        open_model(str(tmp_path / "missing.onnx"))
    assert open_model(file, adaptor="sam").spec.summary_dim is None
