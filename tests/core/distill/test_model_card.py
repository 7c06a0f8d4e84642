"""README.md of an exported student: teachers, licences, training."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from radio_core.cli.train import read_recipe
from radio_core.distill.config import TrainConfig
from radio_core.distill.model_card import model_card
from radio_core.distill.recipes import get_recipe
from radio_core.distill.student import student_config
from radio_core.distill.trainer import train
from radio_core.teachers.licences import UNKNOWN, licence_of
from radio_core.vision import ModelSpec


def card(config: TrainConfig, licences: dict[str, str] | None = None, step: int = 10) -> str:
    specs = {
        name: ModelSpec(
            name=teacher.source,
            input_size=32,
            mean=(0, 0, 0),
            std=(1, 1, 1),
            patch_size=8,
            summary_dim=None if name == "sam" else 12,
            feature_dim=8,
            licence=(licences or {}).get(name, licence_of(teacher.source).name),
        )
        for name, teacher in config.teachers.items()
    }
    return model_card(config, student_config(config, specs), specs, step)


def test_every_teacher_stands_there_with_its_licence_and_what_it_means() -> None:
    text = card(get_recipe("radio-h-stage2"))
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(rows) == 1 + 4
    dfn = "`open_clip:ViT-H-14-378-quickgelu/dfn5b`"
    assert f"| clip | {dfn} | apple-amlr | {licence_of(dfn.strip('`')).meaning} |" in text
    assert "| sam | `sam:vit_h:checkpoints/sam_vit_h_4b8939.pth` | Apache-2.0 |" in text
    assert "started from the weights of `runs/radio-h-stage1/student`, whose own licence" in text


@pytest.mark.parametrize(
    ("licences", "verdict"),
    [
        ({}, "**No teacher's licence restricts these weights.**"),
        (
            {"clip": "DINOv3 License"},
            "**Read the terms of clip before you publish these weights.**",
        ),
        (
            {"clip": "CC-BY-NC-4.0", "sam": "DINOv3 License"},
            "**Because of clip, treat these weights as non-commercial.**",
        ),
        (
            {"dino_v2": UNKNOWN, "clip": "CC-BY-NC-4.0"},
            "**The terms of dino_v2 are unknown: find them out before you publish weights.**",
        ),
    ],
)
def test_the_strictest_licence_decides(licences: dict[str, str], verdict: str) -> None:
    text = card(get_recipe("toy"), licences)
    assert verdict in text
    assert text.count("**") == 2


def test_its_command_and_settings_give_the_run_again(tmp_path: Path) -> None:
    config = get_recipe("toy").changed(
        optim={"lr": 0.5}, run={"out": Path("/somewhere/private")}, engine={"workers": 3}
    )
    text = card(config)
    assert "`radio train toy --config config.yaml`" in text
    assert "private" not in text
    settings = text.split("```yaml\n")[1].split("```")[0]
    path = tmp_path / "config.yaml"
    path.write_text(settings)
    again = read_recipe(["toy", "--config", str(path)], "radio train")
    assert again == config.changed(run={"out": get_recipe("toy").run.out}, engine={"workers": 0})


def test_the_front_matter_is_what_the_hub_reads() -> None:
    front = yaml.safe_load(card(get_recipe("toy")).split("---\n")[1])
    assert front["library_name"] == "radio-toolkit"
    assert "torch " in card(get_recipe("toy")).splitlines()[-1]


def test_an_exported_student_has_its_card(tiny_run: Callable[..., TrainConfig]) -> None:
    config = tiny_run(max_steps=1)
    result = train(config, Console(quiet=True))
    assert result.student is not None
    text = (result.student / "README.md").read_text()
    assert "- 1 of 20 steps on `toyworld`" in text
    assert all(f"| {name} |" in text for name in config.teachers)
