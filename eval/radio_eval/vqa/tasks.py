"""Where the files of each VQA task are: in the toy world's export, and in LLaVA's own folders."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from radio_core.data.images import printable

TASKS = ("gqa", "textvqa", "pope", "vqav2", "scienceqa")


@dataclass(frozen=True, kw_only=True)
class VqaData:
    """The files of one task.

    Attributes:
        task: one of `TASKS`.
        questions: LLaVA's question lines; of ScienceQA its entries (llava_test_CQM-A.json).
        images: folder below which the questions name their images.
        annotations: the right answers: GQA's questions, TextVQA's or VQAv2's annotations, POPE's
            label files, one a split. Without them nothing is scored.
        problems: ScienceQA's problems.json.
        splits: ScienceQA's pid_splits.json.
        split: name of a list in it.
    """

    task: str
    questions: Path
    images: Path
    annotations: tuple[Path, ...] = ()
    problems: Path | None = None
    splits: Path | None = None
    split: str = "test"

    def __post_init__(self) -> None:
        check_task(self.task)
        if (self.problems is None) != (self.splits is None):
            raise ValueError("ScienceQA needs both problems.json and pid_splits.json, or neither")
        if self.task != "pope" and len(self.annotations) > 1:
            raise ValueError(f"{self.task} has one file of annotations, not several")

    @property
    def is_labelled(self) -> bool:
        """Whether the right answers are known."""
        return bool(self.problems if self.task == "scienceqa" else self.annotations)


@dataclass(frozen=True, kw_only=True)
class _Layout:
    """Files of a task below a folder, {split} standing for the split; the first that is there."""

    questions: str
    images: str
    annotations: tuple[str, ...] = ()
    science_split: str = ""


_TOY = {
    "gqa": _Layout(
        questions="gqa/llava_gqa_{split}.jsonl",
        images="images",
        annotations=("gqa/{split}_balanced_questions.json",),
    ),
    "textvqa": _Layout(
        questions="textvqa/llava_textvqa_{split}.jsonl",
        images="images",
        annotations=("textvqa/TextVQA_0.5.1_{split}.json",),
    ),
    "pope": _Layout(
        questions="pope/llava_pope_{split}.jsonl",
        images="images",
        annotations=("pope/{split}/coco_pope_*.json",),
    ),
    "vqav2": _Layout(
        questions="vqav2/llava_vqav2_{split}.jsonl",
        images="images",
        annotations=("vqav2/{split}_annotations.json",),
    ),
    "scienceqa": _Layout(
        questions="scienceqa/llava_{split}_CQM-A.json", images="images", science_split="{split}"
    ),
}
_LLAVA = {
    "gqa": _Layout(
        questions="gqa/llava_gqa_testdev_balanced.jsonl",
        images="gqa/data/images",
        annotations=(
            "gqa/data/testdev_balanced_questions.json",
            "gqa/data/questions*/testdev_balanced_questions.json",
        ),
    ),
    "textvqa": _Layout(
        questions="textvqa/llava_textvqa_val_v051_ocr.jsonl",
        images="textvqa/train_images",
        annotations=("textvqa/TextVQA_0.5.1_val.json",),
    ),
    "pope": _Layout(
        questions="pope/llava_pope_test.jsonl",
        images="pope/val2014",
        annotations=("pope/coco/coco_pope_*.json", "pope/coco_pope_*.json"),
    ),
    "vqav2": _Layout(
        questions="vqav2/llava_vqav2_mscoco_test-dev2015.jsonl",
        images="vqav2/test2015",  # the right answers are not public
    ),
    "scienceqa": _Layout(
        questions="scienceqa/llava_test_CQM-A.json",
        images="scienceqa/images/test",
        science_split="test",
    ),
}


def check_task(task: str) -> None:
    """Raise ValueError, with the known ones, unless there is such a task."""
    if task not in TASKS:
        raise ValueError(f"unknown task {task!r}; known: {', '.join(TASKS)}")


def find_vqa_data(task: str, folder: Path, split: str = "") -> VqaData:
    """The files of a task.

    Args:
        task: one of `TASKS`.
        folder: `vqa/` of the toy world's export, LLaVA's playground/data/eval, or the task's own
            folder in one of them.
        split: of the toy world, "val" if empty; LLaVA's folders have one split a task.

    Raises:
        ValueError: an unknown task, a split of LLaVA's folders, or neither layout is there; what
            was looked for is named.
    """
    check_task(task)
    root = folder
    if folder.name == task and not (folder / task).is_dir():
        root = folder.parent
    looked_for = []
    for layout in (_TOY[task], _LLAVA[task]):
        questions = root / layout.questions.format(split=split or "val")
        if questions.is_file():
            if split and layout is _LLAVA[task]:
                raise ValueError(
                    f"LLaVA's folders have one split of {task}: leave out --split {split}"
                )
            return _found(task, root, layout, questions, split or "val")
        looked_for.append(printable(questions))
    raise ValueError(
        f"no questions of {task}: looked for {' and '.join(looked_for)}. Files in other places "
        "are named with --questions and --images"
    )


def _found(task: str, root: Path, layout: _Layout, questions: Path, split: str) -> VqaData:
    images = root / layout.images
    if task != "scienceqa":
        annotations = tuple(_annotations(root, layout, split))
        return VqaData(task=task, questions=questions, images=images, annotations=annotations)
    problems, splits = (root / task / name for name in ("problems.json", "pid_splits.json"))
    labelled = problems.is_file() and splits.is_file()
    return VqaData(
        task=task,
        questions=questions,
        images=images,
        problems=problems if labelled else None,
        splits=splits if labelled else None,
        split=layout.science_split.format(split=split),
    )


def _annotations(root: Path, layout: _Layout, split: str) -> Iterator[Path]:
    for pattern in layout.annotations:
        paths = sorted(root.glob(pattern.format(split=split)))
        if paths:
            yield from paths
            return
