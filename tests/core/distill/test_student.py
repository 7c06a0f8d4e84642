"""Every kind of student through the same training step: our ViT, E-RADIO and timm's networks."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from rich.console import Console

from radio_core.cli import UsageError
from radio_core.cli.train import read_recipe
from radio_core.config_file import read_config, to_mapping, write_config
from radio_core.distill.config import TrainConfig
from radio_core.distill.groups import GroupConfig, StageConfig
from radio_core.distill.student import student_config
from radio_core.distill.trainer import train
from radio_core.models import ERadio, ERadioConfig, RadioModel, TimmConfig, ViTConfig, vit_config
from radio_core.vision import ModelSpec

ERADIO = ERadioConfig(dim=8, in_dim=4, depths=(1, 1, 1, 1), full_features_head_dim=16)
SPECS = {
    name: ModelSpec(
        name=name,
        input_size=32,
        mean=(0, 0, 0),
        std=(1, 1, 1),
        patch_size=8,
        summary_dim=dim,
        feature_dim=6,
        licence="",
    )
    for name, dim in (("clip", 12), ("dino_v2", 10), ("sam", None))
}


def stages(side: int, batch: int = 4, steps: int = 2) -> tuple[StageConfig, ...]:
    names = ("clip", "dino_v2", "sam")
    group = GroupConfig(teachers=names, batch_size=batch, resolutions=(side,))
    return (StageConfig(steps=steps, groups=(group,)),)


@pytest.mark.parametrize("name", ["test_nfnet", "regnety_002", "test_vit", "test_resnet"])
def test_a_timm_student_learns_and_its_saved_form_comes_back(
    name: str, tiny_run: Callable[..., TrainConfig]
) -> None:
    config = tiny_run(backbone=TimmConfig(name=name), stages=stages(64), cached_views=6, scenes=6)
    result = train(config, Console(quiet=True))
    assert result.student is not None
    student = RadioModel.from_pretrained(result.student)
    assert student.config.backbone == TimmConfig(name=name)
    outputs = student.forward_all(torch.rand(1, 3, 64, 64), ["clip", "dino_v2", "sam"])
    assert all(output.features.isfinite().all() for output in outputs.values())
    assert outputs["sam"].summary is None


def test_an_eradio_learns_with_windows_of_each_resolution(
    tiny_run: Callable[..., TrainConfig],
) -> None:
    (low,), (high,) = stages(64), stages(224, batch=2, steps=1)
    config = tiny_run(backbone=ERADIO, stages=(low, high), cached_views=4, scenes=4, spectral=False)
    result = train(config, Console(quiet=True))
    assert result.student is not None
    student = RadioModel.from_pretrained(result.student)
    backbone = student.config.backbone
    assert isinstance(backbone, ERadioConfig)
    assert backbone.window_sizes == (7, 7)  # paper 5.1: 7 at 224 pixels
    norms = [m for m in student.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert norms
    assert all(norm.running_mean.any() for norm in norms)  # it was in training mode


def test_windows_follow_the_images() -> None:
    student = RadioModel(student_config(of(ERADIO), SPECS))
    assert isinstance(student.backbone, ERadio)
    for side, window in ((64, 2), (224, 7), (512, 16), (1024, 16), (544, 2)):
        student.backbone.fit_windows(side, side)
        assert {blocks.window_size for blocks in student.backbone._attention_blocks()} == {window}
    vit_config("tiny").build().fit_windows(64, 64)  # as it is


def of(student: ViTConfig | ERadioConfig | TimmConfig) -> TrainConfig:
    base = read_recipe(["toy"], "radio train")
    return base.changed(stages=stages(64), student={"backbone": student})


@pytest.mark.parametrize("backbone", [ERADIO, TimmConfig(name="test_nfnet")])
def test_heads_of_a_student_without_class_tokens_read_its_one_summary(
    backbone: ERadioConfig | TimmConfig,
) -> None:
    student = student_config(of(backbone), SPECS)
    assert student.backbone.num_summary_tokens == 1
    assert student.summary_idxs == (0,)
    slots = {adaptor.name: adaptor.token_slot for adaptor in student.adaptors}
    assert slots == {"clip": 0, "dino_v2": 0, "sam": None}
    assert student.max_resolution is None
    assert student.preferred_resolution == (64, 64)


def test_resolutions_and_windows_that_a_student_cannot_take_are_refused() -> None:
    with pytest.raises(ValueError, match="not a multiple of the student's resolution step 32"):
        of(ERADIO).changed(stages=stages(80))
    with pytest.raises(ValueError, match="resolution step 160; nearest: 160"):
        of(TimmConfig(name="test_maxvit", feature_stride=16)).changed(stages=stages(64))
    group = replace(stages(64)[0].groups[0], window_sizes=(2,), window_probability=0.5)
    with pytest.raises(ValueError, match=r"windowed mode; .*\(eradio\)"):
        of(ERADIO).changed(stages=(StageConfig(steps=1, groups=(group,)),))


def test_flags_change_the_fields_of_the_recipes_kind_of_student() -> None:
    config = read_recipe(
        ["toy", "--student.backbone.depth", "3", "--optim.lr", "0.5"], "radio train"
    )
    assert isinstance(config.student.backbone, ViTConfig)
    assert (config.student.backbone.depth, config.optim.lr) == (3, 0.5)
    with pytest.raises(
        UsageError,
        match=r"backbone\.name is a field of timm students, and this recipe's is a vit",
    ):
        read_recipe(["toy", "--student.backbone.name", "test_nfnet"], "radio train")
    with pytest.raises(UsageError, match=r"'--student\.backbone\.dept'; did you mean"):
        read_recipe(["toy", "--student.backbone.dept", "3"], "radio train")


def test_a_config_file_replaces_the_student_by_one_of_another_kind(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    student = {"type": "timm", "name": "test_nfnet"}
    path.write_text(yaml.safe_dump({"student": {"backbone": student}}))
    with pytest.raises(UsageError, match=r"windowed mode.*leave them empty"):
        read_recipe(["toy", "--config", str(path)], "radio train")
    path.write_text(
        yaml.safe_dump({"student": {"backbone": student}, "stages": to_mapping(stages(64))})
    )
    config = read_recipe(["toy", "--config", str(path)], "radio train")
    assert config.student.backbone == TimmConfig(name="test_nfnet")
    path.write_text(yaml.safe_dump({"student": {"backbone": {"depth": 4}}}))
    config = read_recipe(["toy", "--config", str(path)], "radio train")
    assert isinstance(config.student.backbone, ViTConfig)
    assert (config.student.backbone.depth, config.student.backbone.embed_dim) == (4, 128)
    path.write_text(yaml.safe_dump({"student": {"backbone": {"type": "resnet"}}}))
    with pytest.raises(UsageError, match=r"student\.backbone\.type: .*known: eradio, timm, vit"):
        read_recipe(["toy", "--config", str(path)], "radio train")


@pytest.mark.parametrize("student", [ERADIO, TimmConfig(name="test_nfnet"), vit_config("tiny")])
def test_a_run_config_keeps_its_student(
    student: ViTConfig | ERadioConfig | TimmConfig, tmp_path: Path
) -> None:
    config = of(student)
    write_config(config, tmp_path / "config.yaml")
    assert read_config(TrainConfig, tmp_path / "config.yaml") == config
