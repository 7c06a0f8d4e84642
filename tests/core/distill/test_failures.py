"""What becomes of a run when a process dies, the disk is full, or the world changes its size."""

import errno
import os
import random
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from safetensors.torch import load_file

from radio_core import cli
from radio_core.config_file import write_config
from radio_core.distill import checkpoint
from radio_core.distill.checkpoint import find_checkpoints
from radio_core.distill.config import TrainConfig
from radio_core.distill.groups import StageConfig
from radio_core.distill.run_folder import MetricsLog
from radio_core.distill.trainer import train

MakeRun = Callable[..., TrainConfig]
StartRanks = Callable[..., list[Any]]
QUIET = Console(quiet=True)

COMMAND = """
from radio_core.cli import main
sys.exit(main(["train", "toy", "--config", file, *options]))
"""
DIES = """
import signal
from radio_core.distill.step import TrainStep
call = TrainStep.__call__
def replaced(self, plan, *rest, **named):
    if plan[0].number == 13 and self.processes.rank == 1:
        END
    return call(self, plan, *rest, **named)
TrainStep.__call__ = replaced
"""


def both_groups(config: TrainConfig, steps: int = 20) -> TrainConfig:
    """Both groups at every step, for a student without BatchNorm."""
    stage = StageConfig(steps=steps, groups=config.stages[1].groups, groups_per_step="all")
    student = replace(config.student.backbone, stem="patch")
    return config.changed(stages=(stage,), student={"backbone": student})


def start(
    start_ranks: StartRanks, setup: str, config: TrainConfig, size: int, *options: str
) -> Any:
    """Start `radio train` in several processes."""
    config.run.out.parent.mkdir(exist_ok=True)
    file = config.run.out.parent / f"{config.run.out.name}.yaml"
    write_config(config, file)
    return start_ranks(setup + COMMAND, size, file=str(file), options=options)


def finish(ranks: list[Any]) -> str:
    """Wait for a run that must succeed."""
    codes = [rank.join() for rank in ranks]
    assert codes == [0] * len(ranks), "\n".join(rank.text for rank in ranks)
    return "".join(rank.text for rank in ranks)


@pytest.mark.parametrize(
    ("end", "told"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "rank 1 of 2 (HOST) died or no longer answers"),
        ("raise OSError('the camera fell off')", "rank 1 of 2 (HOST): the camera fell off"),
        ("raise ValueError('a bad picture')", "a bad picture"),
    ],
)
def test_when_a_process_dies_all_end_and_one_says_which(
    end: str, told: str, tiny_run: MakeRun, start_ranks: StartRanks, tmp_path: Path
) -> None:
    config = both_groups(tiny_run(out=tmp_path / "run"))
    ranks = start(start_ranks, DIES.replace("END", end), config, 2)
    assert [rank.join() for rank in ranks] in ([1, 1], [1, -signal.SIGKILL])
    lines = [line for rank in ranks for line in rank.text.splitlines() if "radio train:" in line]
    assert len(lines) == 1
    host = f"{os.uname().nodename}, process {ranks[1].process.pid}"
    assert told.replace("HOST", host) in lines[0]
    if "bad picture" not in told:
        good = config.run.out / "checkpoints/step-00000010"
        assert f"The last good checkpoint is {good}: continue with --resume" in lines[0]
    resumed = start(start_ranks, "", config, 2, "--resume")
    assert "resuming after step 10" in finish(resumed)


def test_a_silent_process_is_noticed_without_any_collective(
    tiny_run: MakeRun, start_ranks: StartRanks, tmp_path: Path
) -> None:
    config = both_groups(tiny_run(out=tmp_path / "run"))
    # The process stops for good but its connections stay open, as on a machine that has frozen.
    setup = "from radio_core import processes\nprocesses.SILENCE = 3\nprocesses.GRACE = 1\n"
    ranks = start(
        start_ranks,
        setup + DIES.replace("END", "os.kill(os.getpid(), signal.SIGSTOP)"),
        config,
        2,
    )
    try:
        assert ranks[0].join() == 1
        assert "rank 1 of 2" in ranks[0].text
        assert "no longer answers; all processes stop" in ranks[0].text
    finally:
        ranks[1].process.kill()


def test_a_mistake_is_told_once(tiny_run: MakeRun, start_ranks: StartRanks, tmp_path: Path) -> None:
    config = both_groups(tiny_run(out=tmp_path / "run"))
    ranks = start(start_ranks, "", config, 2, "--data.sources", str(tmp_path / "nowhere"))
    assert all(rank.join() in (1, 2) for rank in ranks)
    text = "".join(rank.text for rank in ranks)
    assert text.count("radio train:") == 1
    assert "nowhere" in text
    assert not config.run.out.exists()


def test_the_number_of_processes_may_change_at_a_resume(
    tiny_run: MakeRun, start_ranks: StartRanks, tmp_path: Path
) -> None:
    config = both_groups(tiny_run(ema=0.9, out=tmp_path / "run"), steps=9)
    finish(start(start_ranks, "", config, 1, "--max-steps", "3"))
    finish(start(start_ranks, "", config, 2, "--max-steps", "6", "--resume"))
    sharded = ("--engine.parallel", "fsdp", "--max-steps", "8", "--resume")
    finish(start(start_ranks, "", config, 2, *sharded))
    finish(start(start_ranks, "", config, 1, "--resume"))
    whole = config.changed(run={"out": tmp_path / "whole"})
    train(whole, QUIET)
    for name in ("student/model.safetensors", "checkpoints/step-00000009/optimizer.safetensors"):
        ours, theirs = load_file(config.run.out / name), load_file(whole.run.out / name)
        for key, value in ours.items():
            torch.testing.assert_close(value, theirs[key], rtol=2e-3, atol=1e-5)


def test_processes_that_do_not_share_the_folder_are_told_so(
    tiny_run: MakeRun, start_ranks: StartRanks, tmp_path: Path
) -> None:
    config = both_groups(tiny_run(out=tmp_path / "run"))
    train(config.changed(run={"max_steps": 1}), QUIET)
    blind = (
        "from radio_core.distill import trainer\n"
        "if environment['RANK'] == '1':\n    trainer.find_checkpoints = lambda folder: []\n"
    )
    ranks = start(start_ranks, blind, config, 2, "--resume")
    assert [rank.join() for rank in ranks] == [1, 1]
    text = "".join(rank.text for rank in ranks)
    assert "see different checkpoints" in text
    assert "must be in a file system that all of them share" in text


@pytest.mark.slow
def test_torchrun_starts_a_run(tiny_run: MakeRun, tmp_path: Path) -> None:
    config = both_groups(tiny_run(out=tmp_path / "run"), steps=4)
    write_config(config, tmp_path / "config.yaml")
    launcher = ["torch.distributed.run", "--nproc-per-node", "2", "-m", "radio_core.cli"]
    arguments = ["train", "toy", "--config", str(tmp_path / "config.yaml")]
    done = subprocess.run(
        [sys.executable, "-m", *launcher, *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(f"student after 4 steps: {config.run.out / 'student'}") == 1


@pytest.mark.slow
@pytest.mark.parametrize("data", ["folder", "shards"])
def test_killed_at_random_moments_two_processes_end_as_if_never_killed(
    data: str, tiny_run: MakeRun, start_ranks: StartRanks, tmp_path: Path
) -> None:
    source = make_data(data, tmp_path)
    changes = {"checkpoint_every": 2, "ema": 0.9, "cache": tmp_path / "cache"}
    config = both_groups(tiny_run(sources=(source,), out=tmp_path / "run", **changes), steps=40)
    finish(start(start_ranks, "", config.changed(run={"out": tmp_path / "whole"}), 2))
    moments = random.Random(data)
    kills, options = 0, []
    while kills < 5:
        ranks = start(start_ranks, "", config, 2, *options)
        wait_for_progress(config.run.out, moments.uniform(0.0, 0.1), ranks)
        victims = ranks if moments.random() < 0.5 else [moments.choice(ranks)]
        for rank in victims:
            rank.process.kill()
        codes = [rank.join() for rank in ranks]
        if codes == [0, 0]:
            break
        kills += 1
        options = ["--resume"] if (config.run.out / "config.yaml").exists() else []
    finish(start(start_ranks, "", config, 2, "--resume"))
    for name in ("metrics.jsonl", "student/model.safetensors"):
        assert (config.run.out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    for path in (tmp_path / "whole/checkpoints/step-00000040").iterdir():
        ours = config.run.out / "checkpoints/step-00000040" / path.name
        assert ours.read_bytes() == path.read_bytes()
    assert kills == 5


def make_data(kind: str, folder: Path) -> str:
    """Ten small pictures as a folder, or in two WebDataset shards."""
    rng = np.random.default_rng(0)
    pictures = folder / "pictures"
    pictures.mkdir()
    for number in range(10):
        picture = Image.fromarray(rng.integers(0, 256, (40, 50, 3), np.uint8))
        picture.save(pictures / f"{number:03d}.png")
    if kind == "folder":
        return str(pictures)
    shards = folder / "shards"
    shards.mkdir()
    for shard in range(2):
        with tarfile.open(shards / f"part-{shard:03d}.tar", "w") as tar:
            for number in range(5 * shard, 5 * shard + 5):
                tar.add(pictures / f"{number:03d}.png", f"{number:03d}.png")
    return f"shards:{shards}/part-{{000..001}}.tar"


def wait_for_progress(out: Path, more: float, ranks: list[Any]) -> None:
    """Wait until a run has written a new checkpoint, or ended, and then `more` seconds."""
    before = find_checkpoints(out / "checkpoints")[-1:]
    while all(rank.process.is_alive() for rank in ranks):
        if find_checkpoints(out / "checkpoints")[-1:] != before:
            break
        time.sleep(0.02)
    time.sleep(more)


@pytest.mark.parametrize(
    "moment", ["before a checkpoint", "while a file is written", "while metrics are written"]
)
def test_a_full_disk_spares_the_last_checkpoint(
    moment: str,
    tiny_run: MakeRun,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = tiny_run(checkpoint_every=4)
    write_config(config, tmp_path / "config.yaml")
    fill_disk(moment, monkeypatch)
    monkeypatch.delenv("RADIO_DEBUG", raising=False)
    assert cli.main(["train", "toy", "--config", str(tmp_path / "config.yaml")]) == 1
    error = capsys.readouterr().err
    good = config.run.out / "checkpoints/step-00000004"
    line = next(line for line in error.splitlines() if line.startswith("radio train:"))
    assert "the disk is full: 0.3 MB are free" in line
    assert f"the last good checkpoint is {good}" in line
    assert "Free some space (--keep-checkpoints 1 needs least), then continue with --resume" in line
    assert [path.name for path in (config.run.out / "checkpoints").iterdir()] == ["step-00000004"]
    monkeypatch.undo()
    train(config.changed(run={"resume": True}), QUIET)
    train(config.changed(run={"out": tmp_path / "whole"}), QUIET)
    for name in ("metrics.jsonl", "student/model.safetensors"):
        assert (config.run.out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def fill_disk(moment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the disk run full after step 4, of which there is a checkpoint."""
    save_file, add, written, full = checkpoint.save_file, MetricsLog.add, [], []

    def run_full() -> None:
        full.append(True)
        raise OSError(errno.ENOSPC, "No space left on device")

    def write(tensors: dict[str, torch.Tensor], path: Path) -> None:
        written.append(path)
        if moment == "while a file is written" and len(written) == 4:
            path.write_bytes(b"half")
            run_full()
        save_file(tensors, path)
        if moment == "before a checkpoint" and len(written) == 2:
            full.append(True)

    def log(self: MetricsLog, row: dict[str, Any], speed: float) -> None:
        if moment == "while metrics are written" and row["step"] == 7:
            run_full()
        add(self, row, speed)

    def usage(path: Path) -> SimpleNamespace:
        return SimpleNamespace(free=300_000 if full else 10**12)

    monkeypatch.setattr(checkpoint, "save_file", write)
    monkeypatch.setattr(MetricsLog, "add", log)
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", usage)
