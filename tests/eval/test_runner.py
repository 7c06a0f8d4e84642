"""The contract of tasks: people's own ones, what a model must have, what a result says."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from radio_core.cli import main
from radio_eval.runner import TASKS, Task, run_task
from radio_eval.tasks.zero_shot import ZeroShot

OWN = '''
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch

from radio_core.vision import VisionModel
from radio_eval.runner import Context, Task


@dataclass(frozen=True, kw_only=True)
class Brightness(Task):
    """The mean of a model's features on grey images."""

    levels: int = 4
    """Levels of grey."""
    note: Path = Path("nothing")
    """A place."""

    name: ClassVar[str] = "brightness"
    headline: ClassVar[str] = "mean"
    aside: ClassVar[frozenset[str]] = frozenset({"note"})

    def run(self, model: VisionModel, context: Context) -> Iterator[tuple[str, float]]:
        own, sums = context.processes.share(range(self.levels)), []
        for level in own:
            side = model.spec.input_size
            image = torch.full((1, 3, side, side), level / self.levels, device=model.device)
            sums.append(float(model(image).features.double().mean()))
            context.progress("levels", len(sums), len(own))
        every = [value for part in context.processes.gather(sums) for value in part]
        context.record["shares"] = len(every)
        yield "mean", sum(every) / len(every)
'''


def test_a_file_on_the_path_is_a_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own_task.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    out = tmp_path / "out.json"
    command = ["eval", "own_task:Brightness", "--model", "random:tiny", "--device", "cpu"]
    assert main([*command, "--levels", "3", "--json", str(out)]) == 0
    result = json.loads(out.read_text())
    assert result["parameters"] == {"levels": 3}
    assert (result["task"], result["model"], result["shares"]) == ("brightness", "random:tiny", 3)
    assert result["value"] == result["metrics"]["mean"]
    assert "torch" in result["versions"]
    assert main([*command, "--help"]) == 0
    assert "Levels of grey." in capsys.readouterr().out
    assert main(["eval", "own_task:os"]) == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.slow
def test_own_tasks_run_under_torchrun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_task.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    command = ["eval", "own_task:Brightness", "--model", "random:tiny", "--device", "cpu", "--json"]
    assert main([*command, str(tmp_path / "one.json")]) == 0
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    launcher += ["-m", "radio_core.cli", *command, str(tmp_path / "two.json")]
    done = subprocess.run(
        [sys.executable, *launcher],
        env={**os.environ, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    one, two = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("one", "two"))
    assert two["processes"] == 2
    assert one["value"] == pytest.approx(two["value"])


@pytest.mark.parametrize("name", TASKS.entries)
def test_every_task_says_what_it_is(name: str) -> None:
    kind = TASKS.load(name)
    assert issubclass(kind, Task)
    assert kind.name
    assert kind.headline
    assert kind.__doc__


def test_a_model_that_lacks_something_is_refused(tmp_path: Path, mean_colour: Any) -> None:
    model = mean_colour()
    model.spec = type(model.spec)(
        name="blind", input_size=16, patch_size=8, summary_dim=3, feature_dim=3
    )
    with pytest.raises(ValueError, match="'blind' cannot be evaluated on zero_shot: it has no te"):
        run_task(ZeroShot(data=tmp_path), model)
