"""Toy LLaVAs with different eyes: the same training with RADIO, with CLIP, and with none."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image

from radio_core.data.toyworld.export import MANIFEST, export
from radio_core.extras import require
from radio_core.progress import Progress
from radio_core.teachers import load_teacher
from radio_eval.results import Json
from radio_eval.runner import Context, run_task
from radio_eval.tasks.vqa import Vqa
from radio_llava.toy import ToyTraining, train_toy_llava

CONTESTANTS = ("toy", "blind", "toy-clip")
"""RADIO's bundled student; the same with noise for pictures; toy-clip in LLaVA's CLIP tower."""
TASK: Literal["gqa"] = "gqa"
MAX_NEW_TOKENS = 16
"""Most tokens of an answer: those of the toy world are a few words."""
SPLITS = ("train", "val")
_NOISE_SIDE = 32  # pixels; resized like every other picture


@dataclass(frozen=True, kw_only=True)
class ToyLlavaSizes:
    """How much of the toy world the language models see."""

    train: int = 8000
    """Scenes that are trained on."""
    val: int = 200
    """Held-out scenes that are asked about, about eight questions each."""
    seed: int = 0
    """The world."""


def prepare_toy_vqa(folder: Path, sizes: ToyLlavaSizes, progress: Progress) -> Path:
    """Export the toy world's questions, unless that is done; returns their folder."""
    wanted = {"seed": sizes.seed, "train": sizes.train, "val": sizes.val, "parts": ["vqa"]}
    manifest = folder / MANIFEST
    if manifest.is_file() and json.loads(manifest.read_text()) == wanted | {"complete": True}:
        return folder / "vqa"
    export(
        folder,
        sizes.train,
        sizes.val,
        seed=sizes.seed,
        parts=("vqa",),
        overwrite=manifest.is_file(),
        progress=lambda _, done, total: progress("scenes", done, total or 0),
    )
    return folder / "vqa"


def run_contestant(
    name: str, out: Path, data: Path, training: ToyTraining, resolution: int, progress: Progress
) -> Json:
    """Train one LLaVA of `CONTESTANTS` and ask it the held-out questions, unless that is done.

    `resolution` is the long edge in pixels of RADIO's images; toy-clip takes 64. Returns the
    metrics of `Vqa`, and its "settings".
    """
    out.mkdir(parents=True, exist_ok=True)
    tower, options = "toy", {"radio_resolution": str(resolution)}
    if name == "toy-clip":
        tower, options = _clip_tower(out), {}
    images = noise_images(data, out) if name == "blind" else data / "images"
    model = train_toy_llava(
        out, tower=tower, data=data, images=images, training=training, options=options
    )
    task = Vqa(
        task=TASK,
        answers=out / f"{TASK}_answers.jsonl",
        data=data,
        images=images,
        batch_size=32,
        max_new_tokens=MAX_NEW_TOKENS,
    )
    answerer = task.open_model(str(model), torch.device("cpu"))
    result = run_task(task, answerer, Context(progress=progress))
    if result.unscored:
        raise ValueError(f"the answers cannot be scored: {result.unscored}")
    return {**result.metrics, "settings": result.record["settings"]}


def _clip_tower(folder: Path) -> str:
    """toy-clip in the form that LLaVA's own CLIP tower reads, written below `folder`."""
    require("open_clip", extra="clip")
    from radio_llava.clip_vision import save_clip_vision

    place = folder / "toy-clip-vision"
    if not (place / "preprocessor_config.json").is_file():
        save_clip_vision(load_teacher("toy-clip").model, place)
    return str(place.resolve())


def noise_images(data: Path, folder: Path) -> Path:
    """Noise of its own under the name of each of the export's pictures, below `folder`."""
    place = folder / "noise"
    done = place / "complete"
    if done.is_file():
        return place
    rng = np.random.default_rng(0)
    for split in SPLITS:
        (place / split).mkdir(parents=True, exist_ok=True)
        for picture in sorted((data / "images" / split).iterdir()):
            noise = rng.integers(0, 256, (_NOISE_SIDE, _NOISE_SIDE, 3), dtype=np.uint8)
            Image.fromarray(noise).save(place / split / picture.name)
    done.touch()
    return place
