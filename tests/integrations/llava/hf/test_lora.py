"""The example that fine-tunes with LoRA under accelerate's launcher."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

pytest.importorskip("peft", reason="needs the extra 'llava'")
pytest.importorskip("accelerate", reason="needs the extra 'train'")

from radio_core.models import RadioModel
from radio_llava.hf import load_llava

pytestmark = pytest.mark.slow


def test_the_example_trains_and_its_result_loads(
    checkout: Path, mixed_conversations: Path, tmp_path: Path, radio: RadioModel
) -> None:
    if not (checkout / "scripts" / "llava_lora.py").exists():
        pytest.skip("needs the source tree")
    command = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1"]
    command += ["-m", "scripts.llava_lora", "--out", str(tmp_path), "--resolution", "64"]
    command += ["--data", str(mixed_conversations), "--steps", "25"]
    command += ["--images", str(mixed_conversations.parent), "--batch-size", "4"]
    command += ["--learning-rate", "3e-3"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(
        command, cwd=checkout, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    losses = json.loads((tmp_path / "losses.json").read_text())
    assert len(losses) == 25
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])
    model, processor = load_llava(tmp_path)
    saved = model.model.vision_tower.radio.state_dict()
    frozen = radio.state_dict()
    assert [name for name in saved if not torch.equal(saved[name], frozen[name])] == []
    assert not any("lora" in name for name in model.state_dict())
    picture = Image.open(mixed_conversations.parent / "1.png")
    parts = [{"type": "image", "image": picture}, {"type": "text", "text": "What colour?"}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": parts}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    start = inputs["input_ids"].shape[1]
    answer = model.generate(**inputs, do_sample=False, max_new_tokens=2, min_new_tokens=2)
    assert answer.shape[1] == start + 2
