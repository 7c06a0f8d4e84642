"""A file that `radio export` wrote, behind open_clip's interface."""

from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("open_clip", reason="needs the extra 'clip'")
pytest.importorskip("onnxscript", reason="needs the extra 'export'")
pytest.importorskip("onnxruntime", reason="needs the extra 'export'")

from radio_clip import RadioClip, load_radio_clip
from radio_core.export.exportable import radio_exportable
from radio_core.export.onnx import write_onnx
from radio_core.export.runtime import ExportedModel, load_exported
from radio_core.models import AdaptorConfig, HeadConfig, RadioConfig, RadioModel, vit_config

SIDE = 32


@pytest.fixture(scope="module")
def model() -> RadioModel:
    torch.manual_seed(0)
    head = HeadConfig(out_dim=64, hidden_dim=8)
    towers = {"language": "toy-clip", "mute": None}
    small: dict[str, Any] = {"depth": 1, "embed_dim": 32, "num_heads": 2, "grid_size": 8}
    return RadioModel(
        RadioConfig(
            backbone=vit_config("tiny", **small, patch_size=8),
            adaptors=tuple(
                AdaptorConfig(name=name, features=head, summary=head, token_slot=0, text_tower=text)
                for name, text in towers.items()
            ),
        )
    ).eval()


@pytest.fixture(scope="module")
def file(model: RadioModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model with both adaptors, for images of one size."""
    path = tmp_path_factory.mktemp("exported") / "model.onnx"
    exportable = radio_exportable(model, adaptors=tuple(model.adaptors), size=(SIDE, SIDE))
    write_onnx(exportable, path, precision="float32")
    return path


@pytest.fixture(scope="module")
def clip(file: Path) -> RadioClip:
    return load_radio_clip(file)[0]


def test_a_file_gives_the_models_logits(model: RadioModel, file: Path) -> None:
    exported, preprocess, tokenizer = load_radio_clip(str(file))
    plain, _, _ = load_radio_clip(model)
    assert preprocess.image_size == exported.visual.image_size == (SIDE, SIDE)
    assert exported.visual.output_dim == 64
    images, texts = torch.rand(2, 3, SIDE, SIDE), tokenizer(["red star", "blue ring"])
    with torch.no_grad():
        for found, wanted in zip(exported(images, texts), plain(images, texts), strict=True):
            torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


def test_a_file_that_is_open_is_used_as_it_is(clip: RadioClip, file: Path) -> None:
    opened = load_exported(file)
    again, _, _ = load_radio_clip(opened, "language", device="cpu")
    assert again.radio is opened
    assert isinstance(clip.radio, ExportedModel)
    images = torch.rand(1, 3, SIDE, SIDE)
    torch.testing.assert_close(again.encode_image(images), clip.encode_image(images))
    half = again.to(torch.bfloat16).encode_image(images.bfloat16())
    assert half.dtype == torch.bfloat16


def test_what_a_file_does_not_have_is_refused(clip: RadioClip, file: Path) -> None:
    with pytest.raises(ValueError, match="'mute' has no text tower; those that do: language"):
        load_radio_clip(file, "mute")
    with pytest.raises(ValueError, match="this file has: language, mute"):
        load_radio_clip(file, "clip")
    with pytest.raises(ValueError, match=r"nearest: \(32, 32\)"):
        load_radio_clip(file, image_size=64)
    with pytest.raises(ValueError, match="load the model that it was made from"):
        clip.segment(torch.rand(1, 3, SIDE, SIDE), ["red star"])
