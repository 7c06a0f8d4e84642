"""Every recipe is a complete config, with the numbers of the paper where it is the paper's."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from radio_core.config_file import from_mapping, to_mapping
from radio_core.distill.config import TrainConfig
from radio_core.distill.plan import Machine, plan_run
from radio_core.distill.recipes import RECIPES, get_recipe
from radio_core.distill.trainer import train
from radio_core.models import ERadioConfig, RadioModel, TimmConfig, ViTConfig
from radio_core.teachers.licences import licence_of
from radio_core.teachers.load import is_teacher

PLAIN = [name for name in RECIPES.entries if "timm" not in name]
TABLE_7 = [
    "tf_efficientnetv2_s",
    "resnetv2_101",
    "regnety_064",
    "efficientvit_l1",
    "convnext_base",
    "nfnet_f3",
    "swinv2_small_window8_256",
    "maxvit_base_tf_224",
    "poolformerv2_m36",
    "mvitv2_base",
]


def millions(config: TrainConfig) -> float:
    """Parameters of the student's backbone."""
    with torch.device("meta"):
        backbone = config.student.backbone.build()
    return sum(parameter.numel() for parameter in backbone.parameters()) / 1e6


@pytest.mark.parametrize("name", PLAIN)
def test_a_recipe_is_complete_and_survives_its_written_form(name: str) -> None:
    config = get_recipe(name)
    assert config.recipe == name
    assert from_mapping(TrainConfig, to_mapping(config)) == config
    assert all(is_teacher(teacher.source) for teacher in config.teachers.values())
    assert all(licence_of(t.source).terms != "unknown" for t in config.teachers.values())
    assert (RECIPES.load(name).__doc__ or "").splitlines()[0]


def test_the_best_model_is_the_papers() -> None:
    config = get_recipe("radio-h")
    assert (config.total_steps, config.optim.lr, config.optim.weight_decay) == (600_000, 1e-3, 0.02)
    assert (config.loss.alpha, config.loss.beta) == (0.9, 0.1)
    assert (config.loss.balancing, config.targets.normalization) == ("naive", "none")
    assert config.student.spectral
    first, second = config.stages
    assert first.steps == second.steps == 300_000
    (low,), (middle, high) = first.groups, second.groups
    assert [g.resolutions for g in (low, middle, high)] == [(256,), (432,), (1024,)]
    assert [g.batch_size for g in (low, middle, high)] == [1024, 1024, 64]
    assert second.groups_per_step == "all"
    assert low.teacher_sizes == middle.teacher_sizes == {"dino_v2": 224}
    assert high.teachers == ("sam",)
    assert config.teachers["sam"].summary_weight == 0
    student = config.student.backbone
    assert isinstance(student, ViTConfig)
    assert (student.patch_size, student.embed_dim, student.depth) == (16, 1280, 32)
    assert student.grid_size == 128
    assert millions(config) == pytest.approx(653, rel=0.01)  # Table 1


def test_its_stages_are_recipes_of_their_own() -> None:
    whole, first, second = (get_recipe(f"radio-h{part}") for part in ("", "-stage1", "-stage2"))
    assert whole.stages == first.stages + second.stages
    assert second.student.init_from == str(first.run.out / "student")
    assert (first.student.spectral, second.student.spectral) == (False, True)
    assert "sam" not in first.teachers


@pytest.mark.parametrize(
    ("name", "width", "count"), [("radio-b", 768, 98), ("radio-l-ablation", 1024, 320)]
)
def test_ablations_are_vits_with_patches_of_14_at_224_pixels(
    name: str, width: int, count: float
) -> None:
    config = get_recipe(name)
    student = config.student.backbone
    assert isinstance(student, ViTConfig)
    assert (student.patch_size, student.embed_dim, student.grid_size) == (14, width, 128)
    assert millions(config) == pytest.approx(count, rel=0.01)
    (group,) = config.stages[0].groups
    assert (group.batch_size, group.resolutions) == (1024, (224,))


@pytest.mark.parametrize(("name", "count"), [("e-radio-b", 118), ("e-radio-l", 391)])
def test_eradios_have_the_papers_size_and_windows(name: str, count: float) -> None:
    config = get_recipe(name)
    assert isinstance(config.student.backbone, ERadioConfig)
    assert config.student.backbone.window_sizes == (7, 7)
    assert millions(config) == pytest.approx(count, rel=0.01)


@pytest.mark.parametrize("network", TABLE_7)
def test_the_networks_of_table_7_are_recipes(network: str) -> None:
    config = get_recipe(f"timm:{network}")
    assert config.student.backbone == TimmConfig(name=network)
    (group,) = config.stages[0].groups
    assert (group.batch_size, group.resolutions) == (1024, (224,))
    assert config.run.out.name == f"timm-{network}"


def test_what_the_single_gpu_recipe_takes_is_stated() -> None:
    pytest.importorskip("open_clip", reason="needs the extra 'clip'")
    documentation = RECIPES.load("single-gpu").__doc__ or ""
    stated = re.search(r"about (\d+) hours of an A100 at (\d+) %", documentation)
    assert stated is not None
    hours, share = int(stated[1]), int(stated[2])
    a100 = Machine(gpu_tflops=312, mfu=share / 100)
    assert plan_run(get_recipe("single-gpu"), a100).gpu_hours == pytest.approx(hours, rel=0.02)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("toi", r"unknown recipe 'toi' \(did you mean 'toy'\?\); known: .*, timm, toy, "),
        ("timm:fastervit_0", "unknown timm network 'fastervit_0'"),
        ("timm", "name it timm:NETWORK"),
        ("toy-timm:maxvit_tiny_tf_224", "resolution 64 is not a multiple .* nearest: 224"),
    ],
)
def test_unknown_recipes_and_networks_are_refused(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        get_recipe(name)


@pytest.mark.parametrize("name", ["toy-e-radio", "toy-timm:test_nfnet"])
def test_the_toy_recipes_of_other_students_run(name: str, tmp_path: Path) -> None:
    for module, extra in (
        ("open_clip", "clip"),
        ("transformers", "hf"),
        ("segment_anything", "sam"),
    ):
        pytest.importorskip(module, reason=f"needs the extra '{extra}'")
    config = get_recipe(name)
    stages = tuple(
        replace(stage, steps=1, groups=tuple(replace(g, batch_size=2) for g in stage.groups))
        for stage in config.stages
    )
    config = config.changed(
        stages=stages,
        run={"out": tmp_path / "run"},
        data={"scenes": 4},
        targets={"cached_views": 4},
        engine={"device": "cpu"},
    )
    result = train(config, Console(quiet=True))
    assert result.student is not None
    assert RadioModel.from_pretrained(result.student).config.name == name
