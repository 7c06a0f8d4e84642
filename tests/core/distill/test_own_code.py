"""People's own recipe, teacher, student, loss and balancer: one file on PYTHONPATH."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

OWN = '''
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from radio_core import ModelSpec, Output, Teacher, TrainConfig
from radio_core.distill.balancing import Balanced, Balancer
from radio_core.distill.config import DataConfig, EngineConfig, StudentConfig
from radio_core.distill.groups import GroupConfig, StageConfig, TeacherConfig
from radio_core.models.backbone import Backbone, BackboneConfig


class Tiny(Teacher):
    def __init__(self, source, rest, input_size):
        widths = {"summary_dim": 6, "feature_dim": 4}
        super().__init__(ModelSpec(name="", input_size=32, patch_size=8, **widths))
        torch.manual_seed(0)
        self.layer = torch.nn.Conv2d(3, 4, 8, 8)
        self.freeze()

    def extract(self, images):
        features = self.layer(images)
        return Output(torch.cat([features.mean((2, 3))] * 2, 1)[:, :6], features)


@dataclass(frozen=True, kw_only=True)
class Net(BackboneConfig):
    type: str = "own:Net"
    patch_size: int = 8
    embed_dim: int = 12

    def build(self):
        return Network(self)


class Network(Backbone):
    def __init__(self, config):
        super().__init__(config)
        self.layer = torch.nn.Conv2d(3, self.embed_dim, self.patch_size, self.patch_size)

    def forward(self, images, window_size=None):
        features = self.layer(images)
        return Output(features.mean((2, 3))[:, None], features)


def huber(student, teacher, section):
    return F.huber_loss(student, teacher)


class Half(Balancer):
    def forward(self, losses, representation):
        weights = {term: torch.tensor(0.5) for term in losses}
        return Balanced({term: loss / 2 for term, loss in losses.items()}, weights)


def tiny():
    """Two steps of the smallest student."""
    group = GroupConfig(teachers=("clip",), batch_size=2, resolutions=(32,))
    return TrainConfig(
        recipe="own:tiny",
        data=DataConfig(scenes=4),
        student=StudentConfig(backbone=Net()),
        teachers={"clip": TeacherConfig(source="toy-clip")},
        stages=(StageConfig(steps=2, groups=(group,)),),
        engine=EngineConfig(device="cpu", threads=1),
    )
'''


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_own_parts_are_named_on_the_command_line(processes: int, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    options = ["--out", "run", "--log-every", "1", "--student", "own:Net"]
    options += ["--student.backbone.embed-dim", "16", "--loss.balancing", "own:Half"]
    options += ["--teachers.clip.source", "own:Tiny", "--teachers.clip.feature-loss", "own:huber"]
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
    command = [sys.executable, *(launcher if processes > 1 else ()), "-m", "radio_core.cli"]
    done = subprocess.run(
        [*command, "train", "own:tiny", *options],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    rows = [json.loads(row) for row in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2]
    assert rows[0]["weight/clip/features"] == 0.5
    halves = (rows[0]["clip/features"] + rows[0]["clip/summary"]) / 2
    assert rows[0]["loss"] == pytest.approx(halves)
    config = json.loads((tmp_path / "run/student/config.json").read_text())
    assert config["backbone"] == {"type": "own:Net", "patch_size": 8, "embed_dim": 16}
