"""The models that ship with the package: take the student in, measure all, write their cards.

    python -m scripts.bundled_models student runs/toy-full/student

    radio toyworld export --out runs/held-out --train 1500 --val 600 \\
        --parts classification segmentation coco
    python -m scripts.bundled_models cards --data runs/held-out [--only toy-clip]
"""

import argparse
import json
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from radio_core.cli import main as radio
from radio_core.models import RadioModel
from radio_core.teachers.load import toy_teacher_folder
from radio_core.zoo.releases import BUNDLED
from radio_eval.data.coco import CocoInstances
from radio_eval.scores.baselines import filled_box_miou

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
    """What a card says beside the scores.

    Attributes:
        text: what it is.
        training: the commands that made it.
        tasks: that it is measured by.
    """

    text: str
    training: str
    tasks: tuple[str, ...]


_SCENES = "python -m scripts.toy_teachers scenes --count 40000 --out runs/scenes\n"
_TEACHER = "python -m scripts.toy_teachers {} --scenes runs/scenes"
CARDS = {
    "toy-clip": Card(
        "An `open_clip.CLIP` (64 px, patch 8, width 96, 5 layers; text width 64, 2 layers)\n"
        "trained contrastively on captions of the toy world, with a label loss that fades out.",
        f"{_SCENES}{_TEACHER.format('clip')} --out OUT --steps 2000",
        ("zero-shot", "knn", "linear-seg"),
    ),
    "toy-dino": Card(
        "A `transformers.Dinov2WithRegistersModel` (84 px, patch 7, width 128, 5 layers,\n"
        "4 registers) whose patches were supervised with the shape, colour and texture\n"
        "that they show.",
        f"{_SCENES}{_TEACHER.format('dino')} --out A --steps 2800\n"
        f"{_TEACHER.format('dino')} --init A --out OUT --steps 900",
        ("knn", "linear-seg"),
    ),
    "toy-sam": Card(
        "A `segment_anything.modeling.Sam` (128 px, patch 8, width 80, 4 layers, windows of 8,\n"
        "neck 64) trained on boxes and points.",
        f"{_SCENES}{_TEACHER.format('sam')} --out OUT --steps 4500",
        ("linear-seg", "sam-coco"),
    ),
    "toy": Card(
        "The student of toy-clip, toy-dino and toy-sam, with the adaptors `clip`, `dino_v2` and\n"
        "`sam`.",
        "radio train toy-full --out runs/toy-full\n"
        "python -m scripts.bundled_models student runs/toy-full/student",
        tuple(_TASKS),
    ),
}


def take_student(folder: Path) -> None:
    """Write a trained student's weights in float16, with the name and licence of the release."""
    model = RadioModel.from_pretrained(folder)
    model.config = replace(model.config, name="toy", licence="Apache-2.0")
    model.save_pretrained(BUNDLED["toy"], torch.float16)


def write_card(name: str, data: Path) -> None:
    """Evaluate a model on an export of the toy world, and write README.md beside its weights."""
    card, rows = CARDS[name], []
    for task in card.tasks:
        part, label, extra = _TASKS[task]
        with tempfile.TemporaryDirectory() as scratch:
            result = Path(scratch, "result.json")
            options = ["--model", name, "--data", str(data / part), "--json", str(result), *extra]
            if radio(["eval", task, *options]):
                raise SystemExit(f"radio eval {task} failed")
            value = json.loads(result.read_text())["value"]
        rows.append(f"| {label} | `{' '.join([task, *extra])}` | {value:.1f} |")
    if "sam-coco" in card.tasks:
        boxes = filled_box_miou(CocoInstances(data / "coco", "val2017", 300))
        rows.append(f"| filled boxes (baseline of the line above) | | {boxes:.1f} |")
    table = "\n".join(["| task | TASK and options | % |", "|---|---|---|", *rows])
    folder = BUNDLED["toy"] if name == "toy" else toy_teacher_folder(name)
    (folder / "README.md").write_text(f"""# {name}

{card.text} Licence: Apache-2.0. It knows nothing but the toy world.

Scores on scenes it has not seen (`radio toyworld export --train 1500 --val 600`, then
`radio eval TASK --model {name}`):

{table}

Trained on CPU, float32, seed 0; stored in float16:

```sh
{card.training}
```
""")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    student = commands.add_parser("student", help='take the student of a run in as "toy"')
    student.add_argument("folder", type=Path)
    cards = commands.add_parser("cards", help="measure models and write their cards")
    cards.add_argument("--data", type=Path, required=True)
    cards.add_argument("--only", choices=CARDS, nargs="*", default=list(CARDS))
    options = parser.parse_args()
    if options.command == "student":
        take_student(options.folder)
        return
    for name in options.only:
        write_card(name, options.data)


if __name__ == "__main__":
    main()
