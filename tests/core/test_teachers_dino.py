"""The DINOv2 adapter, with and without registers."""

from pathlib import Path

import pytest
import torch

from radio_core.teachers import load_teacher
from radio_core.teachers.transformers_models import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    TransformersTeacher,
)


def test_class_token_and_patches_without_registers(dino_folder: Path) -> None:
    teacher = load_teacher(f"dinov2:{dino_folder}")
    images = torch.rand(2, 3, 35, 35)
    mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
    normalised = (images - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    with torch.no_grad():
        tokens = teacher.network(normalised).last_hidden_state
    assert tokens.shape == (2, 1 + 3 + 25, 20)
    output = teacher(images)
    torch.testing.assert_close(output.summary, tokens[:, 0])
    for row, col in ((0, 0), (1, 3), (4, 4)):
        wanted = tokens[:, 4 + 5 * row + col]
        torch.testing.assert_close(output.features[:, :, row, col], wanted)


def test_a_model_without_registers_has_one_prefix_token(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="needs the extra 'hf'")
    config = transformers.Dinov2Config(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14
    )
    transformers.Dinov2Model(config).half().save_pretrained(tmp_path)
    teacher = load_teacher(f"dinov2:{tmp_path}")
    assert isinstance(teacher, TransformersTeacher)
    output = teacher(torch.rand(1, 3, 28, 28))
    assert output.features.shape == (1, 16, 2, 2)
    assert output.features.dtype == torch.float32  # although the file is float16


def test_another_input_size_gives_a_finer_grid(dino_folder: Path) -> None:
    teacher = load_teacher(f"dinov2:{dino_folder}", input_size=49)
    assert teacher.spec.grid()[0] == 7
    assert teacher(torch.rand(1, 3, 35, 35)).features.shape == (1, 20, 7, 7)
