"""The toy world's LLaVA: its bundled language model, and a training of a few minutes."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

FINISHED = "config.json"
"""What a training writes last of all that `load_pretrained_model` needs."""
TRAINED = "llava-toy"
"""Folder of the model that a training has finished."""
QUICKSTART_MODEL = Path("runs/llava-quickstart/toy") / TRAINED
"""Where `radio llava quickstart` leaves its model."""

_SHARED_FLAGS = {
    "mm_projector_type": "mlp2x_gelu",
    "mm_vision_select_layer": "-2",
    "mm_use_im_start_end": "False",
    "mm_use_im_patch_token": "False",
    "bf16": "False",
    "fp16": "False",
    "tf32": "False",
    "use_cpu": "True",
    "weight_decay": "0.0",
    "warmup_ratio": "0.05",
    "lr_scheduler_type": "cosine",
    "model_max_length": "1024",
    "lazy_preprocess": "True",
    "dataloader_num_workers": "0",
    "logging_steps": "10",
    "save_strategy": "no",
    "report_to": "none",
}


def toy_llm_folder() -> Path:
    """Directory of the bundled language model "toy-llm", a Llama of two million weights."""
    return Path(str(files("radio_llava"))) / "weights" / "toy-llm"


@dataclass(frozen=True, kw_only=True)
class ToyTraining:
    """LLaVA-1.5's two stages, small."""

    batch_size: int = 16
    """Samples a step."""
    pretrain_steps: int = 100
    """Of stage 1 (captions; the projector alone)."""
    instruct_steps: int = 500
    """Of stage 2 (questions; the projector and the language model)."""
    pretrain_learning_rate: float = 4e-3
    """Of stage 1."""
    instruct_learning_rate: float = 1e-3
    """Of stage 2."""
    seed: int = 0
    """Of the weights and of the order of the samples."""

    def __post_init__(self) -> None:
        if min(self.batch_size, self.pretrain_steps, self.instruct_steps) < 1:
            raise ValueError("batch_size and the steps of both stages must be at least 1")


def train_toy_llava(
    out: Path,
    *,
    tower: str,
    data: Path,
    images: Path,
    training: ToyTraining,
    options: Mapping[str, str] | None = None,
) -> Path:
    """Train a LLaVA on the toy world through LLaVA's own code; returns the model's folder.

    `data` is the `vqa` folder of an export, `images` laid out like its `images`; `options` are
    further flags for both stages. What is finished is not repeated.
    """
    from radio_llava.train import main  # imports torch

    shared = _SHARED_FLAGS | {
        "model_name_or_path": str(toy_llm_folder()),
        "vision_tower": tower,
        "image_folder": str(images),
        "per_device_train_batch_size": str(training.batch_size),
        "seed": str(training.seed),
        **(options or {}),
    }
    # LLaVA tells what a model is by the folder's name
    first, second = out / f"{TRAINED}-pretrain", out / TRAINED
    projector = first / "mm_projector.bin"
    stage_1 = {
        "version": "plain",
        "data_path": str(data / "llava" / "pretrain_train.json"),
        "tune_mm_mlp_adapter": "True",
        "learning_rate": str(training.pretrain_learning_rate),
        "max_steps": str(training.pretrain_steps),
        "output_dir": str(first),
    }
    stage_2 = {
        "version": "v1",
        "data_path": str(data / "llava" / "instruct_train.json"),
        "pretrain_mm_mlp_adapter": str(projector),
        "learning_rate": str(training.instruct_learning_rate),
        "max_steps": str(training.instruct_steps),
        "output_dir": str(second),
    }
    for stage, written in ((stage_1, projector), (stage_2, second / FINISHED)):
        if not written.is_file():
            main(
                [part for name, value in (shared | stage).items() for part in (f"--{name}", value)]
            )
    return second
