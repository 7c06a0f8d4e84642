"""Measure the bundled models on held-out scenes and write their model cards.

radio toyworld export --out runs/held-out --train 1500 --val 600 --parts classification \
    segmentation coco
python -m scripts.model_cards --data runs/held-out [--only toy-clip]
"""

import argparse
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

from radio_core.teachers.load import toy_teacher_folder
from radio_core.zoo.registry import BUNDLED
from radio_eval.baselines import filled_box_miou
from radio_eval.cli.evaluate import evaluate
from radio_eval.coco.instances import CocoInstances

_PROBE = ["--protocol", "toy", "--iterations", "2000", "--label-stride", "2"]
_PROBE += ["--learning-rate", "1e-3", "--warmup-iterations", "50"]
_TASKS: dict[str, tuple[str, str, list[str]]] = {
    "zero-shot": ("classification", "zero-shot accuracy (36 classes)", []),
    "knn": ("classification", "kNN accuracy (36 classes)", []),
    "linear-seg": ("segmentation", "linear-probe mIoU (background + 6 shapes)", _PROBE),
    "sam-coco": ("coco", "SAM mIoU with ground-truth boxes", ["--limit", "300"]),
}


@dataclass(frozen=True)
class Card:
    """What a card says beside the scores."""

    folder: Path
    text: str
    training: str
    tasks: tuple[str, ...]


_TEACHER_TRAINING = "python -m scripts.toy_teachers.scenes --count 40000 --out runs/scenes\n"
CARDS = {
    "toy-clip": Card(
        toy_teacher_folder("toy-clip"),
        "An `open_clip.CLIP` (64 px, patch 8, width 96, 5 layers; text width 64, 2 layers)\n"
        "trained contrastively on captions of the toy world, with a label loss that fades out.",
        _TEACHER_TRAINING
        + "python -m scripts.toy_teachers.clip --scenes runs/scenes --out OUT --steps 2000",
        ("zero-shot", "knn", "linear-seg"),
    ),
    "toy-dino": Card(
        toy_teacher_folder("toy-dino"),
        "A `transformers.Dinov2WithRegistersModel` (84 px, patch 7, width 128, 5 layers,\n"
        "4 registers) whose patches were supervised with the shape, colour and texture\n"
        "that they show.",
        _TEACHER_TRAINING
        + "python -m scripts.toy_teachers.dino --scenes runs/scenes --out A --steps 2800\n"
        "python -m scripts.toy_teachers.dino --scenes runs/scenes --init A --out OUT --steps 900",
        ("knn", "linear-seg"),
    ),
    "toy-sam": Card(
        toy_teacher_folder("toy-sam"),
        "A `segment_anything.modeling.Sam` (128 px, patch 8, width 80, 4 layers, windows of 8,\n"
        "neck 64) trained on boxes and points.",
        _TEACHER_TRAINING
        + "python -m scripts.toy_teachers.sam --scenes runs/scenes --out OUT --steps 4500",
        ("linear-seg", "sam-coco"),
    ),
    "toy": Card(
        BUNDLED["toy"],
        "The student of toy-clip, toy-dino and toy-sam, with the adaptors `clip`, `dino_v2` and\n"
        "`sam`.",
        "radio train toy-full --out runs/toy-full\n"
        "python -m scripts.bundle_student runs/toy-full/student",
        tuple(_TASKS),
    ),
}


def main() -> None:
    """Evaluate and write README.md beside the weights."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--only", choices=CARDS, nargs="*", default=list(CARDS))
    options = parser.parse_args()
    boxes = filled_box_miou(CocoInstances(options.data / "coco", "val2017", 300))
    for name in options.only:
        rows = [_measure(name, task, options.data) for task in CARDS[name].tasks]
        if "sam-coco" in CARDS[name].tasks:
            rows.append(f"| filled boxes (baseline of the line above) | | {boxes:.1f} |")
        (CARDS[name].folder / "README.md").write_text(_page(name, CARDS[name], rows))


def _measure(name: str, task: str, data: Path) -> str:
    folder, label, extra = _TASKS[task]
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "result.json"
        evaluate([task, "--model", name, "--data", str(data / folder), "--json", str(file), *extra])
        value = json.loads(file.read_text())["value"]
    return f"| {label} | `{' '.join([task, *extra])}` | {value:.1f} |"


def _page(name: str, card: Card, rows: list[str]) -> str:
    table = "\n".join(["| task | TASK and options | % |", "|---|---|---|", *rows])
    return f"""# {name}

{card.text} Licence: Apache-2.0. It knows nothing but the toy world.

Scores on scenes it has not seen (`radio toyworld export --train 1500 --val 600`, then
`radio eval TASK --model {name}`):

{table}

Trained on CPU, float32, seed 0; stored in float16:

```sh
{card.training}
```
"""


if __name__ == "__main__":
    main()
