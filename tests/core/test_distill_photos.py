"""Real photos go the same way as the toy world."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rich.console import Console

from radio_core.distill.config import TrainConfig
from radio_core.distill.run_folder import read_metrics
from radio_core.distill.trainer import train
from radio_core.models.radio import RadioModel


@pytest.mark.parametrize("name", ["tiny_imagenet_50", "coco"])
@pytest.mark.parametrize("cached", [0, 12])
def test_two_steps_on_photos(
    name: str, cached: int, tiny_run: Callable[..., TrainConfig], shared: Path
) -> None:
    folder = shared / "data" / name
    if not folder.is_dir():
        pytest.skip(f"the reference folder has no data/{name}")
    config = tiny_run(data=(str(folder),), cached_views=cached, max_steps=2)
    result = train(config, Console(quiet=True))
    assert result.student is not None
    rows = read_metrics(config.out / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2]
    student = RadioModel.from_pretrained(result.student)
    assert student.forward_all(torch.rand(1, 3, 64, 96))["backbone"].features.shape[-2:] == (8, 12)
