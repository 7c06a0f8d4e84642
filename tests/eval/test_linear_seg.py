"""The linear segmentation probe."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from radio_core.data.folder import FolderError
from radio_eval.contract import run_evaluator
from radio_eval.data import read_ade
from radio_eval.eval_model import EvalModel
from radio_eval.linear_seg import (
    LinearSegEvaluator,
    LinearSegParameters,
    learning_rate_at,
    pixel_loss,
)
from radio_eval.segmentation_metrics import ConfusionMatrix

COLOURS = np.array([(0, 0, 0), (220, 30, 30), (30, 30, 220)], dtype=np.uint8)


def write_ade(root: Path, count: int = 12, size: tuple[int, int] = (32, 32)) -> Path:
    """Scenes of two coloured blocks in the ADE layout; the colour tells the class."""
    rng = np.random.default_rng(0)
    for split in ("training", "validation"):
        for kind in ("images", "annotations"):
            (root / kind / split).mkdir(parents=True)
        for index in range(count):
            coarse = rng.integers(0, 3, (size[0] // 8, size[1] // 8))
            stored = coarse.repeat(8, 0).repeat(8, 1).astype(np.uint8)  # 0 is unlabelled
            Image.fromarray(COLOURS[stored]).save(root / "images" / split / f"{index}.png")
            Image.fromarray(stored).save(root / "annotations" / split / f"{index}.png")
    (root / "classes.json").write_text('["red", "blue"]')
    return root


def patch_colours(**changes: object) -> EvalModel:
    return EvalModel(
        **{
            "name": "patch colours",
            "image_size": 32,
            "resize_step": 8,
            "features": lambda images: F.avg_pool2d(images, 8),
            **changes,
        }
    )


def test_separable_features_reach_a_high_score(tmp_path: Path) -> None:
    root = write_ade(tmp_path)
    evaluator = LinearSegEvaluator(
        train=read_ade(root, "train"),
        val=read_ade(root, "val"),
        parameters=LinearSegParameters(iterations=150, batch_size=4, learning_rate=0.05),
    )
    result = run_evaluator(evaluator, patch_colours())
    assert result.value > 80
    assert result.parameters["augmentation"] == "none"
    blind = patch_colours(features=lambda images: torch.zeros(len(images), 3, 4, 4))
    assert run_evaluator(evaluator, blind).value < 50
    assert run_evaluator(evaluator, patch_colours()).metrics == result.metrics


def test_labels_are_shifted_as_in_ade(tmp_path: Path) -> None:
    root = write_ade(tmp_path, count=1)
    stored = np.array(Image.open(root / "annotations/training/0.png"))
    label = read_ade(root, "train").labels[0]
    expected = np.where(stored == 0, 255, stored.astype(int) - 1)
    assert np.array_equal(label, expected)
    assert label.dtype == torch.uint8


def test_ade_errors_name_the_file(tmp_path: Path) -> None:
    root = write_ade(tmp_path, count=2)
    Image.fromarray(np.full((32, 32), 3, np.uint8)).save(root / "annotations/training/0.png")
    with pytest.raises(FolderError, match=r"training/0\.png holds value 3"):
        read_ade(root, "train").labels[0]
    (root / "annotations/validation/1.png").unlink()
    with pytest.raises(FolderError, match=r"validation/1\.png is missing"):
        read_ade(root, "val")
    (root / "classes.json").write_text("{}")
    with pytest.raises(FolderError, match="list of class names"):
        read_ade(root, "train")


def test_images_of_several_sizes_are_refused(tmp_path: Path) -> None:
    root = write_ade(tmp_path, count=2)
    Image.new("RGB", (48, 32)).save(root / "images/training/0.png")
    evaluator = LinearSegEvaluator(train=read_ade(root, "train"), val=read_ade(root, "val"))
    with pytest.raises(ValueError, match="images of one size"):
        run_evaluator(evaluator, patch_colours())


def test_loss_divides_by_ignored_pixels_too() -> None:
    logits = torch.randn(1, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[[0, 255], [2, 255]]])
    kept = F.cross_entropy(logits, labels, ignore_index=255)  # mean over the labelled half
    torch.testing.assert_close(pixel_loss(logits, labels), kept / 2)


def test_learning_rate_schedule() -> None:
    parameters = LinearSegParameters(iterations=100, warmup_iterations=10)
    rates = [learning_rate_at(step, parameters) for step in range(100)]
    assert rates[0] == 1e-6
    assert max(rates) == rates[10] == 1e-3
    assert rates[55] == pytest.approx(0.5e-3)
    assert 0 < rates[99] < 2e-5


def test_confusion_refuses_what_it_cannot_count() -> None:
    confusion = ConfusionMatrix(2)
    with pytest.raises(ValueError, match="differ in size"):
        confusion.update(torch.zeros(2, 2), torch.zeros(2, 3))
    with pytest.raises(ValueError, match="label holds class 7"):
        confusion.update(torch.zeros(1, 1), torch.full((1, 1), 7))
