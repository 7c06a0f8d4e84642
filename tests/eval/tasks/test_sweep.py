"""kNN and zero-shot of every kind of model: the numbers of before, for images of several shapes."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file

from radio_core.cli import main
from radio_core.data.toyworld import ToyWorldImages

VIT = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": 32,
    "patch_size": 8,
}
CROP = {
    "do_center_crop": True,
    "crop_size": {"height": 24, "width": 24},
    "size": {"shortest_edge": 28},
    "resample": 2,
    "image_mean": [0.1, 0.2, 0.3],
    "image_std": [0.4, 0.5, 0.6],
}
SQUASH = {"size": {"height": 32, "width": 32}, "resample": 3, "image_mean": [0.5] * 3}


def fill(network: torch.nn.Module) -> torch.nn.Module:
    """Weights that depend on no library's way of initialising them."""
    for number, parameter in enumerate(network.parameters()):
        wave = torch.arange(parameter.numel(), dtype=torch.float64) * (0.7 + 0.01 * number)
        parameter.data = wave.sin().mul(0.2).float().view_as(parameter)
    return network


def save_timm(folder: Path, name: str, **arguments: Any) -> None:
    network = fill(timm.create_model(name, num_classes=7, **arguments))
    timm.models.save_for_hf(network, folder, model_args=arguments)
    config = json.loads((folder / "config.json").read_text())
    size = arguments.get("img_size", 64)
    config["pretrained_cfg"] |= {"input_size": [3, size, size], "crop_pct": 0.8, "mean": [0.1] * 3}
    (folder / "config.json").write_text(json.dumps(config))


def save_transformers(folder: Path, kind: str, processor: dict[str, Any]) -> None:
    transformers = pytest.importorskip("transformers", reason="needs the extra 'hf'")
    model_class = getattr(transformers, kind)
    config = model_class.config_class(**VIT)
    fill(model_class(config)).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))


SHAPE = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2}
FOLDERS: dict[str, Callable[[Path], None]] = {
    "timm-vit": lambda path: save_timm(path, "vit_tiny_patch16_224", **SHAPE),
    "timm-resnet": lambda path: save_timm(path, "resnet10t"),
    "hf-dinov2": lambda path: save_transformers(path, "Dinov2Model", CROP),
    "hf-vit": lambda path: save_transformers(path, "ViTModel", SQUASH),
}
EXTRAS = {
    "toy-clip": "open_clip",
    "toy-dino": "transformers",
    "toy-sam": "segment_anything",
    "zero-shot": "open_clip",
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """18 train and 9 validation scenes of three classes, cut to several shapes."""
    root = tmp_path_factory.mktemp("photos")
    scenes = ToyWorldImages(27)
    for index in range(27):
        split = "train" if index < 18 else "val"
        folder = root / split / ("star", "ring", "cross")[index % 3]
        folder.mkdir(parents=True, exist_ok=True)
        width, height = scenes.read(index).size
        box = (0, 0, width - 7 * (index % 4), height - 5 * (index % 3))
        scenes.read(index).crop(box).save(folder / f"{index:02}.png")
    (root / "templates.json").write_text(json.dumps(["a {}", "a photo of a {}"]))
    return root


CASES: dict[str, Any] = json.loads(
    (Path(__file__).parent / "sweep.json").read_text(encoding="utf-8")
    if (Path(__file__).parent / "sweep.json").is_file()
    else "{}"
)


def measure(command: str, photos: Path, work: Path) -> dict[str, Any]:
    """What a command says, and a few numbers of the summaries that it keeps."""
    for name, save in FOLDERS.items():
        if f"{{{name}}}" in command:
            save(work / name)
            command = command.replace(f"{{{name}}}", str(work / name))
    options = ["--data", str(photos), "--cache", str(work / "cache"), "--device", "cpu"]
    assert main(["eval", *command.split(), *options, "--json", str(work / "out.json")]) == 0
    result = json.loads((work / "out.json").read_text())
    rows = torch.cat(
        [
            torch.stack([load_file(path)["features"].double().sum(1)], 1)
            for path in sorted((work / "cache").glob("*/*.safetensors"))
            if len(load_file(path)["features"]) == 9
        ]
    )
    return {
        "metrics": result["metrics"],
        "images": result["parameters"]["images"],
        "sums": [round(value, 5) for value in rows[:, 0].tolist()],
    }


@pytest.mark.parametrize("command", CASES)
def test_numbers_stay(command: str, photos: Path, tmp_path: Path) -> None:
    for word, module in EXTRAS.items():
        if word in command:
            pytest.importorskip(module)
    found, expected = measure(command, photos, tmp_path), CASES[command]
    assert found["metrics"] == pytest.approx(expected["metrics"])
    assert found["images"] == expected["images"]
    for one, other in zip(found["sums"], expected["sums"], strict=True):
        assert math.isclose(one, other, abs_tol=2e-4), (found["sums"], expected["sums"])
