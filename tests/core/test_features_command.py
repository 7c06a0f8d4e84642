"""The command `radio features`."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from radio_core.commands import UsageError
from radio_core.commands.features import main
from radio_core.models import AdaptorConfig, RadioConfig, RadioModel, vit_config


@pytest.fixture
def model(tmp_path: Path) -> str:
    torch.manual_seed(0)
    sam = AdaptorConfig(name="sam", feature_dim=10, hidden_dim=8)
    config = RadioConfig(
        backbone=vit_config("tiny", embed_dim=16, depth=1),
        adaptors=(sam,),
        preferred_resolution=(32, 32),
    )
    RadioModel(config).save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


@pytest.fixture
def images(tmp_path: Path) -> list[str]:
    rng = np.random.default_rng(0)
    paths = []
    for name, size in (("a.png", (40, 40, 3)), ("b.jpg", (40, 80, 3))):
        Image.fromarray(rng.integers(0, 256, size, np.uint8)).save(tmp_path / name)
        paths.append(str(tmp_path / name))
    return paths


def test_files_and_picture(model: str, images: list[str], tmp_path: Path) -> None:
    out, pca = tmp_path / "new" / "f.safetensors", tmp_path / "new" / "pca.png"
    assert main([*images, "--model", model, "--out", str(out), "--pca", str(pca)]) == 0
    tensors = load_file(out)
    assert tensors["0.summary"].shape == (16,)
    assert tensors["0.features"].shape == (16, 4, 4)
    assert tensors["1.features"].shape == (16, 4, 8)
    picture = np.asarray(Image.open(pca))
    assert picture.shape == (64, 128, 3)
    assert len(np.unique(picture[32:, 64:].reshape(-1, 3), axis=0)) > 16


def test_adaptor_and_resolution(model: str, images: list[str], tmp_path: Path) -> None:
    out = tmp_path / "f.safetensors"
    options = ["--model", model, "--adaptor", "sam", "--resolution", "64", "--out", str(out)]
    assert main([images[0], *options]) == 0
    tensors = load_file(out)
    assert set(tensors) == {"0.features"}
    assert tensors["0.features"].shape == (10, 8, 8)


def test_bad_input(model: str, images: list[str], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="at least one image"):
        main(["--model", model])
    with pytest.raises(ValueError, match="this model has: sam"):
        main([images[0], "--model", model, "--adaptor", "clip"])
    with pytest.raises(ValueError, match="unknown model 'nix'"):
        main([images[0], "--model", "nix"])
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(ValueError, match=r"text\.png: not an image"):
        main([str(tmp_path / "text.png"), "--model", model])
