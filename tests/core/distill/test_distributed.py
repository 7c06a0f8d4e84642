"""Several processes give what one gives: plain data parallel, partitioned groups, and FSDP2."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from radio_core.distill.config import TrainConfig
from radio_core.distill.groups import StageConfig
from radio_core.distill.run_folder import read_metrics

MakeRun = Callable[..., TrainConfig]
StartRanks = Callable[..., list[Any]]
QUIET = Console(quiet=True)

# Writes the gradient of every step, as the optimizer gets it, and then trains.
TRAIN = """
from pathlib import Path
from rich.console import Console
from safetensors.torch import save_file
from radio_core.distill.engine import whole
from radio_core.distill.step import TrainStep
from radio_core.distill.trainer import train
from radio_core.teachers import load_teacher

update, steps = TrainStep.update, []
def spy(self, lr, decay):
    steps.append(lr)
    named = self.distiller.named_parameters()
    gradients = {n: whole(p.grad).clone() for n, p in named if p.grad is not None}
    if self.processes.first:
        save_file(gradients, Path(out) / f"gradient{len(steps)}.safetensors")
    return update(self, lr, decay)
TrainStep.update = spy
train(config, Console(stderr=True))
"""


def partitioned(config: TrainConfig, steps: int = 3) -> TrainConfig:
    """Every step runs both groups: clip + dino_v2 with 5 images, sam with 3."""
    low, high = config.stages[1].groups
    groups = (replace(low, batch_size=5), replace(high, batch_size=3))
    stage = StageConfig(steps=steps, groups=groups, groups_per_step="all")
    return config.changed(stages=(stage,), optim={"warmup_steps": 1})


def in_turns(config: TrainConfig) -> TrainConfig:
    """Every step draws one group; 5 and 3 images do not divide by the number of processes."""
    low, high = config.stages[1].groups
    groups = (replace(low, batch_size=5), replace(high, batch_size=3))
    return config.changed(stages=(StageConfig(steps=4, groups=groups),), optim={"warmup_steps": 1})


def run(start: StartRanks, config: TrainConfig, size: int, out: Path) -> None:
    """Train in `size` processes; fails with what they wrote."""
    out.mkdir()
    ranks = start(TRAIN, size, config=config.changed(run={"out": out / "run"}), out=str(out))
    codes = [rank.join() for rank in ranks]
    assert codes == [0] * size, "\n".join(rank.text for rank in ranks)


def difference(one: Path, other: Path, name: str) -> float:
    """The largest difference between two files' tensors, relative to each tensor's norm."""
    ours, theirs = load_file(one / name), load_file(other / name)
    assert ours.keys() == theirs.keys()
    largest = max(value.double().norm() for value in ours.values())
    return max(float((ours[key].double() - theirs[key].double()).norm() / largest) for key in ours)


CASES = {
    "partitioned, 2 processes": (partitioned, 2, {}),
    "partitioned, 3 processes": (partitioned, 3, {}),
    "in turns, 2 processes": (in_turns, 2, {}),
    "in turns, 3 processes": (in_turns, 3, {"balancing": "ada_loss"}),
    "micro-batches, 2 processes": (partitioned, 2, {"accumulate": 2, "normalization": "phi_s"}),
    "partitioned, FSDP2": (partitioned, 2, {"parallel": "fsdp", "ema": 0.9}),
    "in turns, FSDP2": (in_turns, 2, {"parallel": "fsdp", "balancing": "uncertainty"}),
}


@pytest.mark.parametrize("case", CASES)
def test_several_processes_give_the_gradients_of_one(
    case: str, tiny_run: MakeRun, start_ranks: StartRanks, tmp_path: Path
) -> None:
    change, size, options = CASES[case]
    config = change(tiny_run(**options))
    if case != "partitioned, 2 processes":  # where no group is cut, BatchNorm is exact as well
        config = config.changed(
            student={"backbone": replace(config.student.backbone, stem="patch")}
        )
    alone = config.changed(engine={"parallel": "ddp", "accumulate": 1})
    run(start_ranks, config, size, tmp_path / "several")
    run(start_ranks, alone, 1, tmp_path / "one")
    for step in range(1, config.total_steps + 1):
        name = f"gradient{step}.safetensors"
        # The first gradient differs by rounding alone; later ones also by what Adam makes of it.
        limit = 1e-6 if step == 1 else 1e-4
        assert difference(tmp_path / "one", tmp_path / "several", name) < limit
    rows = [read_metrics(tmp_path / where / "run/metrics.jsonl") for where in ("one", "several")]
    for ours, theirs in zip(*rows, strict=True):
        assert ours.keys() == theirs.keys()
        assert ours["group"] == theirs["group"]
        numbers = {key: value for key, value in ours.items() if isinstance(value, float)}
        assert numbers == pytest.approx({key: theirs[key] for key in numbers}, rel=1e-4)
    saved = [load_file(tmp_path / w / "run/student/model.safetensors") for w in ("one", "several")]
    for key, value in saved[0].items():
        torch.testing.assert_close(value, saved[1][key], atol=2e-4, rtol=1e-3)
