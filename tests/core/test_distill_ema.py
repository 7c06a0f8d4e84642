"""The moving average of the weights: its formula, its checkpoints, and the student made of it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from torch import nn

from radio_core.distill.config import TrainConfig
from radio_core.distill.ema import WeightAverage
from radio_core.distill.trainer import train

MakeRun = Callable[..., TrainConfig]
QUIET = Console(quiet=True)
HEAD = "adaptors.clip.feature_head.fc1.weight"


def test_the_average_follows_its_formula() -> None:
    layer = nn.Linear(1, 1, bias=False)
    average = WeightAverage(layer, 0.5)
    wanted = layer.weight.item()
    for number, value in enumerate([1.0, 3.0, -2.0, 4.0, 0.5, 7.0, 8.0, 9.0, 1.0], start=1):
        nn.init.constant_(layer.weight, value)
        average.update(number)
        decay = min(0.5, (1 + number) / (10 + number))
        wanted = decay * wanted + (1 - decay) * value
        assert average.tensors()["weight"].item() == pytest.approx(wanted, rel=1e-6)
    assert (1 + 9) / (10 + 9) > 0.5  # both branches were met


def test_an_average_of_other_weights_is_refused() -> None:
    average = WeightAverage(nn.Linear(1, 1), 0.5)
    with pytest.raises(ValueError, match="other weights: bias"):
        average.load({"weight": torch.zeros(1, 1)})


def test_the_saved_student_is_the_average(tiny_run: MakeRun) -> None:
    config = tiny_run(max_steps=6, ema=0.6, normalization="none")
    train(config, QUIET)
    folder = config.out / "checkpoints/step-00000006"
    average = load_file(folder / "average.safetensors")[f"student.{HEAD}"]
    last = load_file(folder / "model.safetensors")[f"student.{HEAD}"]
    saved = load_file(config.out / "student/model.safetensors")
    torch.testing.assert_close(saved[HEAD], average)
    assert not torch.allclose(average, last, rtol=0, atol=1e-5)


def test_a_resumed_average_equals_an_uninterrupted_one(tiny_run: MakeRun, tmp_path: Path) -> None:
    config = tiny_run(ema=0.9)
    train(replace(config, max_steps=3), QUIET)
    train(replace(config, max_steps=6, resume=True), QUIET)
    whole = replace(config, out=tmp_path / "whole", max_steps=6)
    train(whole, QUIET)
    for name in ("checkpoints/step-00000006/average.safetensors", "student/model.safetensors"):
        assert (config.out / name).read_bytes() == (whole.out / name).read_bytes()
