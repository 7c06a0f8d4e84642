import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("llava", reason="needs llava-torch, see the extra 'llava'")
pytest.importorskip("peft", reason="needs the extra 'llava'")

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "launcher",
    [
        ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m"],
        ["-m", "accelerate.commands.launch", "--cpu", "--num_processes=1", "-m"],
    ],
    ids=["torchrun", "accelerate"],
)
def test_launchers_start_the_training(
    launcher: list[str], llava_flags: Callable[..., list[str]], tmp_path: Path
) -> None:
    folder = tmp_path / "llava-toy"
    argv = llava_flags(output_dir=folder, max_steps=2, per_device_train_batch_size=2)
    done = subprocess.run(
        [sys.executable, *launcher, "radio_llava.train", *argv],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert (folder / "model.safetensors").is_file()
