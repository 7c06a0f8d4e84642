"""Exported files as models of `radio eval`: the functions give what the model's give."""

from pathlib import Path

import pytest
import torch

from radio_core.cli import main
from radio_core.export.exportable import radio_exportable
from radio_core.export.torch_program import export_torch
from radio_core.zoo.load import load_model
from radio_eval.models import load_eval_model, load_sam_model


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("exported") / "toy.pt2"
    export_torch(radio_exportable(load_model("toy"), adaptors=("clip", "sam")), path)
    return str(path)


@pytest.mark.parametrize("adaptor", ["", "clip"])
def test_an_exported_model_is_evaluated_like_the_model(file: str, adaptor: str) -> None:
    pytest.importorskip("open_clip", reason="needs the extra 'clip'")
    exported = load_eval_model(file, adaptor=adaptor)
    model = load_eval_model("toy", adaptor=adaptor)
    assert exported.name == "toy.pt2"
    for name in ("image_size", "resize_step", "square"):
        assert getattr(exported, name) == getattr(model, name), name
    images = torch.rand(2, 3, 32, 48)
    for name in ("summary", "features"):
        found, wanted = (getattr(m, name)(images) for m in (exported, model))
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
    one, other = exported.image_text, model.image_text
    assert one is not None
    assert other is not None
    torch.testing.assert_close(
        one.encode_image(images), other.encode_image(images), atol=1e-4, rtol=1e-4
    )
    texts = ["a red star", "a blue ring"]
    torch.testing.assert_close(one.encode_text(texts), other.encode_text(texts))


def test_another_file_of_the_same_name_is_another_model(file: str, tmp_path: Path) -> None:
    first = load_eval_model(file).fingerprint()
    assert first == load_eval_model(file).fingerprint()
    assert first != load_eval_model(file, adaptor="clip").fingerprint()
    path = tmp_path / "toy.pt2"
    model = load_model("toy")
    with torch.no_grad():
        next(model.backbone.parameters()).mul_(2)
    export_torch(radio_exportable(model, adaptors=("clip", "sam")), path)
    assert load_eval_model(str(path)).fingerprint() not in (None, first)


def test_what_a_file_cannot_do_is_said(file: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="this file has: clip, sam"):
        load_eval_model(file, adaptor="dino_v2")
    with pytest.raises(FileNotFoundError, match="no file"):
        load_eval_model(str(tmp_path / "missing.onnx"))
    with pytest.raises(ValueError, match="holds no image encoder"):
        load_sam_model(file)
    with pytest.raises(ValueError, match="leave these options out"):
        load_sam_model(file, image_size=64)
    no_summary = load_eval_model(file, adaptor="sam").summary
    assert no_summary is not None
    with pytest.raises(ValueError, match="has no summary"):
        no_summary(torch.rand(1, 3, 32, 32))


def test_an_exported_encoder_segments(tmp_path: Path) -> None:
    pytest.importorskip("segment_anything", reason="needs the extra 'sam'")
    path = tmp_path / "encoder.pt2"
    assert main(["export", "torch", "toy", str(path), "--for", "sam", "--size", "64"]) == 0
    model = load_sam_model(str(path))
    assert model.image_size == 64
    assert model.sam is not None
    images = torch.randn(1, 3, 64, 64)
    plain = load_sam_model("toy", image_size=64).sam
    assert plain is not None
    with torch.no_grad():
        found, wanted = (sam().image_encoder(images) for sam in (model.sam, plain))
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
