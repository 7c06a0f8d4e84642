"""A resumed run equals an uninterrupted one bit for bit, also after kill -9 at any moment."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from radio_core.config_file import write_config
from radio_core.distill.checkpoint import find_checkpoints
from radio_core.distill.config import TrainConfig
from radio_core.distill.trainer import train

MakeRun = Callable[..., TrainConfig]
QUIET = Console(quiet=True)

# What a child process does before it starts `radio train`: arrange its own end.
KILL = "import os, signal; kill = lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL)\n"
IN_A_STEP = """
from radio_core.distill.step import TrainStep
update = TrainStep.update
def replaced(self, lr, decay):
    steps.append(lr)
    return END() if len(steps) == AT else update(self, lr, decay)
steps, TrainStep.update = [], replaced
"""
KILLS = {
    "in the middle of step 14": IN_A_STEP.replace("END", "kill").replace("AT", "14"),
    "while checkpoint 20 is written": """
from radio_core.distill import checkpoint
save = checkpoint.save_file
checkpoint.save_file = lambda tensors, path: (
    kill() if "partial-00000020" in str(path) and "optimizer" in str(path) else save(tensors, path)
)
""",
    "while the cache is filled": """
from radio_core.distill import cache
cache._MAX_SHARD_VIEWS = 8
save = cache.save_file
cache.save_file = lambda tensors, path, **more: (
    kill() if "shard-000002" in path.name else save(tensors, path, **more)
)
""",
}


def start(setup: str, config: TrainConfig, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run `radio train` in a process of its own, after some preparations."""
    write_config(config, folder / "config.yaml")
    arguments = ["train", "toy", "--config", str(folder / "config.yaml")]
    code = (
        f"{KILL}{setup}\nimport sys\nfrom radio_core.cli import main\nsys.exit(main({arguments}))"
    )
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        start_new_session=True,
    )


def content(folder: Path) -> dict[str, bytes]:
    """All that must be equal between two runs: last checkpoint, student and logged losses."""
    paths = [folder / "metrics.jsonl", *folder.glob("student/*")]
    paths += list(folder.glob("checkpoints/step-00000020/*"))
    assert len(paths) == 7
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def same(one: Path, other: Path) -> None:
    """Fail, naming the files, unless both runs ended alike."""
    ours, theirs = content(one), content(other)
    assert [name for name in ours if ours[name] != theirs.get(name)] == []
    left_behind = [path.name for path in (other / "checkpoints").iterdir()]
    assert sorted(left_behind) == ["step-00000010", "step-00000020"]


@pytest.mark.parametrize("moment", KILLS)
def test_killed_and_resumed_equals_uninterrupted(
    moment: str, tiny_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("radio_core.distill.cache._MAX_SHARD_VIEWS", 8)
    cached = 30 if "cache" in moment else 0
    config = tiny_run(cached_views=cached, out=tmp_path / "killed")
    done = start(KILLS[moment], config, tmp_path)
    assert done.returncode == -signal.SIGKILL, done.stderr
    names = [checkpoint.step for checkpoint in find_checkpoints(config.run.out / "checkpoints")]
    assert names == ([] if cached else [10])
    assert not config.run.out.joinpath("student").exists()

    resumed = train(config.changed(run={"resume": True}), QUIET)
    whole = train(config.changed(run={"out": tmp_path / "whole"}), QUIET)
    assert resumed.step == whole.step == 20
    same(tmp_path / "whole", tmp_path / "killed")


@pytest.mark.parametrize("cached", [0, 30])
def test_stopped_by_max_steps_and_resumed_equals_uninterrupted(
    cached: int, tiny_run: MakeRun, tmp_path: Path
) -> None:
    config = tiny_run(cached_views=cached)
    assert train(config.changed(run={"max_steps": 10}), QUIET).step == 10
    train(config.changed(run={"max_steps": 20, "resume": True}), QUIET)
    train(config.changed(run={"out": tmp_path / "whole", "max_steps": 20}), QUIET)
    same(tmp_path / "whole", config.run.out)


def test_stopping_between_logged_steps_leaves_no_extra_row(
    tiny_run: MakeRun, tmp_path: Path
) -> None:
    config = tiny_run(log_every=5)
    train(config.changed(run={"max_steps": 7}), QUIET)
    assert (config.run.out / "metrics.jsonl").read_text().count("\n") == 2  # steps 5 and 7
    train(config.changed(run={"resume": True}), QUIET)
    train(config.changed(run={"out": tmp_path / "whole"}), QUIET)
    assert content(config.run.out) == content(tmp_path / "whole")
    # Resuming what is complete changes nothing.
    train(config.changed(run={"resume": True}), QUIET)
    assert content(config.run.out) == content(tmp_path / "whole")


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_to_every_process_saves_and_the_run_goes_on(
    name: str, tiny_run: MakeRun, tmp_path: Path
) -> None:
    config = tiny_run(out=tmp_path / "stopped", workers=2)
    interrupt = f"interrupt = lambda: (os.killpg(0, signal.{name}), True)[1]\n"
    setup = interrupt + IN_A_STEP.replace("END", "interrupt").replace("AT", "13")
    # The step in which the signal comes must still do its work.
    setup = setup.replace(
        "return interrupt() if", "return interrupt() and update(self, lr, decay) if"
    )
    done = start(setup, config, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "interrupted after step 13; continue with --resume" in done.stderr
    found = find_checkpoints(config.run.out / "checkpoints")
    assert [checkpoint.step for checkpoint in found] == [10, 13]
    assert not config.run.out.joinpath("student").exists()

    train(config.changed(run={"resume": True}, engine={"workers": 0}), QUIET)
    train(config.changed(run={"out": tmp_path / "whole"}, engine={"workers": 0}), QUIET)
    assert content(config.run.out) == content(tmp_path / "whole")


def test_what_a_kill_leaves_behind_does_not_disturb(tiny_run: MakeRun, tmp_path: Path) -> None:
    config = tiny_run()
    train(config.changed(run={"max_steps": 10}), QUIET)
    rubbish = config.run.out / "checkpoints" / ".partial-00000020"
    rubbish.mkdir()
    (rubbish / "model.safetensors").write_bytes(b"half")
    (config.run.out / ".config.yaml.tmp").write_text("recipe: t")
    with (config.run.out / "metrics.jsonl").open("a") as file:
        file.write('{"step": 11, "loss": 1.0}\n{"step": 12, "lo')
    train(config.changed(run={"resume": True}), QUIET)
    train(config.changed(run={"out": tmp_path / "whole"}), QUIET)
    same(tmp_path / "whole", config.run.out)
