"""The toy world's evaluation sets: exported once, and the tasks that read them."""

import json
from dataclasses import dataclass, fields
from pathlib import Path

from radio_core.data.toyworld.export import MANIFEST, export
from radio_core.progress import Progress
from radio_eval.runner import Task
from radio_eval.tasks.knn import Knn
from radio_eval.tasks.linear_seg import LinearSeg
from radio_eval.tasks.sam_coco import SamCoco
from radio_eval.tasks.zero_shot import ZeroShot


@dataclass(frozen=True, kw_only=True)
class ToySizes:
    """How much of the toy world an evaluation sees."""

    classification_train: int = 800
    classification_val: int = 500
    dense_train: int = 400
    dense_val: int = 120
    sam_val: int = 100
    head_iterations: int = 400
    seed: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            if field.name != "seed" and getattr(self, field.name) < 1:
                raise ValueError(f"{field.name} must be at least 1")


def toy_tasks(
    root: Path,
    sizes: ToySizes,
    progress: Progress,
    *,
    image_size: int | None = None,
    cache: Path | None = None,
) -> dict[str, Task]:
    """Export what is not there yet, and return the four tasks by their names.

    Args:
        root: folder for the exports; complete ones of the same sizes are used again.
        sizes: how much.
        progress: listener.
        image_size: side in pixels of the images for kNN, zero-shot and segmentation; the model's
            own if None.
        cache: folder where summaries are kept; None forgets them.
    """
    counts = {
        "classification": (sizes.classification_train, sizes.classification_val),
        "dense": (sizes.dense_train, sizes.dense_val),
    }
    parts = {"classification": ("classification",), "dense": ("segmentation", "coco")}
    for name, (train, val) in counts.items():
        export_once(root / name, parts[name], train, val, sizes.seed, progress)
    classes, dense = root / "classification" / "classification", root / "dense"
    kept = Path("runs/cache") if cache is None else cache
    tasks: list[Task] = [
        ZeroShot(data=classes, image_size=image_size, cache=kept, no_cache=cache is None),
        Knn(data=classes, image_size=image_size, cache=kept, no_cache=cache is None),
        LinearSeg(
            data=dense / "segmentation",
            protocol="toy",
            iterations=sizes.head_iterations,
            image_size=image_size,
            workers=0,
        ),
        SamCoco(data=dense / "coco", limit=sizes.sam_val),
    ]
    return {task.name: task for task in tasks}


def export_once(
    out: Path, parts: tuple[str, ...], train: int, val: int, seed: int, progress: Progress
) -> None:
    """Export parts of the toy world, unless the folder has them in these sizes."""
    wanted = {"seed": seed, "train": train, "val": val, "parts": sorted(parts), "complete": True}
    manifest = out / MANIFEST
    if manifest.is_file():
        found = json.loads(manifest.read_text(encoding="utf-8"))
        if {**found, "parts": sorted(found.get("parts", []))} == wanted:
            return
    export(
        out,
        train,
        val,
        seed=seed,
        parts=parts,
        overwrite=manifest.is_file(),
        progress=lambda _, done, total: progress(f"toy scenes: {', '.join(parts)}", done, total),
    )
