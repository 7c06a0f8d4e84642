"""LLaVA's published scripts, and the launchers that they are started with."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("llava", reason="needs llava-torch, see the extra 'llava'")
pytest.importorskip("peft", reason="needs the extra 'llava'")

from radio_core import load_model
from radio_llava import compat, train

# scripts/v1_5/pretrain.sh of LLaVA's repository from --version on, and what its other two scripts
# have besides or instead. Paths are the test's.
PRETRAIN = """--version plain --vision_tower openai/clip-vit-large-patch14-336
--mm_projector_type mlp2x_gelu --tune_mm_mlp_adapter True --mm_vision_select_layer -2
--mm_use_im_start_end False --mm_use_im_patch_token False --bf16 True --num_train_epochs 1
--per_device_train_batch_size 32 --per_device_eval_batch_size 4 --gradient_accumulation_steps 1
--evaluation_strategy no --save_strategy steps --save_steps 24000 --save_total_limit 1
--learning_rate 1e-3 --weight_decay 0. --warmup_ratio 0.03 --lr_scheduler_type cosine
--logging_steps 1 --tf32 True --model_max_length 2048 --gradient_checkpointing True
--dataloader_num_workers 4 --lazy_preprocess True --report_to wandb"""
FINETUNE = """--version v1 --image_aspect_ratio pad --group_by_modality_length True
--per_device_train_batch_size 16 --save_steps 50000 --learning_rate 2e-5"""
LORA = """--lora_enable True --lora_r 128 --lora_alpha 256 --mm_projector_lr 2e-5
--learning_rate 2e-4"""
# No deepspeed, no TF32 and no network on this CPU; and a smaller model, of less memory and time.
HERE = """--vision_tower toy --tf32 False --report_to none --use_cpu True --dataloader_num_workers 1
--per_device_train_batch_size 4 --radio_resolution 64 --lora_r 4"""


def flags(*scripts: str) -> dict[str, str]:
    """The flags of scripts; later ones win."""
    words = " ".join(scripts).split()
    return dict(zip(words[::2], words[1::2], strict=True))


def command_line(values: dict[str, Any]) -> list[str]:
    return [word for name, value in values.items() for word in (name, str(value))]


@pytest.fixture
def paths(tiny_llama: Path, toy_conversations: Path, tmp_path: Path) -> dict[str, Any]:
    """The flags of a script that are paths."""
    return {
        "--model_name_or_path": tiny_llama,
        "--data_path": toy_conversations / "train.json",
        "--image_folder": toy_conversations,
        "--output_dir": tmp_path / "llava-toy",
    }


@pytest.fixture
def see_arguments(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[str]], list[str]]:
    """Runs the training up to where LLaVA's begins; returns the arguments that it gets."""
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setattr(sys, "argv", ["train"])
    seen: list[str] = []
    own = compat.apply_to_training()
    monkeypatch.setattr(own, "train", lambda **_: seen.extend(sys.argv[1:]))

    def run(argv: list[str]) -> list[str]:
        assert train.main(argv) == 0
        return seen

    return run


def test_what_deepspeeds_launcher_gives_is_passed_on(
    see_arguments: Callable[[list[str]], list[str]],
) -> None:
    argv = ["--local_rank=0", "--deepspeed", "./scripts/zero2.json", "--bf16", "True"]
    assert see_arguments(argv) == argv
    assert "deepspeed" not in sys.modules


def test_every_process_tells_llava_its_rank(
    see_arguments: Callable[[list[str]], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")  # as torchrun and accelerate do
    assert see_arguments(["--bf16", "True"]) == ["--bf16", "True", "--local_rank=1"]


@pytest.mark.slow
def test_the_published_scripts_run_with_module_and_tower_changed(
    paths: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["train"])
    stage_1 = flags(PRETRAIN, HERE) | paths
    assert train.main(command_line(stage_1)) == 0
    projector = paths["--output_dir"] / "mm_projector.bin"
    later = {"--pretrain_mm_mlp_adapter": projector, "--output_dir": tmp_path / "llava-tuned"}
    stage_2 = flags(PRETRAIN, FINETUNE, HERE) | paths | later
    del stage_2["--tune_mm_mlp_adapter"]
    assert train.main(command_line(stage_2)) == 0
    config = json.loads((tmp_path / "llava-tuned" / "config.json").read_text())
    assert (config["mm_vision_tower"], config["image_aspect_ratio"]) == ("toy", "pad")
    lora = stage_2 | flags(LORA) | {"--lora_r": 4, "--output_dir": tmp_path / "llava-lora"}
    assert train.main(command_line(lora)) == 0
    assert (tmp_path / "llava-lora" / "adapter_config.json").is_file()


@pytest.mark.slow
def test_two_processes_train_an_unfrozen_tower_on_samples_of_all_kinds(
    paths: dict[str, Any], mixed_conversations: Path
) -> None:
    choices = {"--unfreeze_mm_vision_tower": True, "--radio_adaptor": "clip", "--max_steps": 2}
    choices |= {"--data_path": mixed_conversations, "--per_device_train_batch_size": 3}
    values = flags(PRETRAIN, FINETUNE, HERE) | paths | choices
    del values["--tune_mm_mlp_adapter"], values["--image_aspect_ratio"]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m"]
    launch([*launcher, "radio_llava.train", *command_line(values)])
    from safetensors.torch import load_file

    trained = load_file(paths["--output_dir"] / "model.safetensors")
    released = load_model("toy").bfloat16().state_dict()
    name = "backbone.blocks.0.attn.qkv.weight"
    assert not torch.equal(trained[f"model.vision_tower.radio.{name}"], released[name])
    config = json.loads((paths["--output_dir"] / "config.json").read_text())
    assert config["radio_tower"]["adaptor"] == "clip"


@pytest.mark.slow
def test_accelerate_starts_the_training(paths: dict[str, Any]) -> None:
    launcher = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes=1", "-m"]
    values = flags(PRETRAIN, HERE) | paths | {"--max_steps": 1}
    launch([*launcher, "radio_llava.train", *command_line(values)])
    assert (paths["--output_dir"] / "mm_projector.bin").is_file()


def launch(arguments: list[str]) -> None:
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
