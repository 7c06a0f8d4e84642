"""What fills each column: in the toy world, or with the folders of real data."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from radio_eval.cli.classification import KnnOptions, ZeroShotOptions
from radio_eval.cli.eval_options import EvalOptions
from radio_eval.cli.linear_seg import LinearSegOptions
from radio_eval.cli.sam_coco import SamCocoOptions
from radio_eval.data import file_stamp
from radio_eval.llava_toy import MAX_NEW_TOKENS as TOY_MAX_NEW_TOKENS
from radio_eval.llava_toy import prepare_toy_vqa
from radio_eval.progress import Progress
from radio_eval.table1.columns import VQA_COLUMNS, Column
from radio_eval.table1.llavas import GivenLlavas, ToyLlavas
from radio_eval.table1.options import Table1Options
from radio_eval.table1.tasks import EvaluatorTask, NoData, Task, VqaTask
from radio_eval.tasks.vqa import MAX_NEW_TOKENS
from radio_eval.toyworld import prepare_toy_data

_FLAGS = {"zero-shot": "imagenet", "knn": "imagenet", **dict.fromkeys(VQA_COLUMNS, "vqa")}
"""Columns whose data has another flag than their name."""
_CACHE = "cache"


def available_columns(options: Table1Options) -> tuple[str, ...]:
    """The columns that there is data for."""
    if options.kind == "toy":
        return ("zero-shot", "knn", "toy-seg", *VQA_COLUMNS, "coco")
    names = ("zero-shot", "knn", "ade20k", "voc", *VQA_COLUMNS, "coco")
    return tuple(name for name in names if _folder(options, name) is not None)


def toy_tasks(
    options: Table1Options,
    columns: tuple[Column, ...],
    progress: Progress,
    announce: Callable[[str], None],
) -> dict[str, Task]:
    """The tasks in the toy world, whose data is made where it is missing.

    Args:
        options: of the command.
        columns: those that are wanted.
        progress: hears of the making of data.
        announce: hears that a LLaVA is trained.
    """
    root, sizes = options.data or options.out / "data", options.sizes
    names = {column.name for column in columns}
    if names - set(VQA_COLUMNS):
        prepare_toy_data(root, sizes, progress)
    tasks: dict[str, Task] = _evaluator_tasks(
        options,
        imagenet=root / "classification" / "classification",
        segmentation={"toy-seg": root / "dense" / "segmentation"},
        coco=root / "dense" / "coco",
    )
    if names & set(VQA_COLUMNS):
        vqa = prepare_toy_vqa(root / "llava", options.llava_sizes, progress)
        llavas = ToyLlavas(
            out=options.out / "llava",
            data=vqa,
            sizes=options.llava_sizes,
            training=options.training,
            resolution=options.llava_resolution,
            device=options.device,
            announce=announce,
        )
        tasks |= _vqa_tasks(options, vqa, llavas, TOY_MAX_NEW_TOKENS)
    return tasks


def folder_tasks(options: Table1Options, models: tuple[str, ...]) -> dict[str, Task]:
    """The tasks on the folders that the options name; those without one say so when they run.

    Raises:
        UsageError: --llava does not fit the models.
    """
    llavas = GivenLlavas(folders=options.llava_folders(models), device=options.device)
    tasks: dict[str, Task] = {
        name: NoData(flag=f"--{_FLAGS.get(name, name)}")
        for name in ("zero-shot", "knn", "ade20k", "voc", *VQA_COLUMNS, "coco")
    }
    segmentation = {"ade20k": options.ade20k, "voc": options.voc}
    tasks |= _evaluator_tasks(
        options,
        imagenet=options.imagenet,
        segmentation={name: folder for name, folder in segmentation.items() if folder},
        coco=options.coco,
    )
    if options.vqa is not None:
        tasks |= _vqa_tasks(options, options.vqa, llavas, MAX_NEW_TOKENS)
    return tasks


def _folder(options: Table1Options, column: str) -> Path | None:
    folder: Path | None = getattr(options, _FLAGS.get(column, column))
    return folder


def _evaluator_tasks(
    options: Table1Options,
    *,
    imagenet: Path | None,
    segmentation: dict[str, Path],
    coco: Path | None,
) -> dict[str, Task]:
    """The tasks that look at the model itself, as far as their data is named."""
    common: dict[str, Any] = {"device": options.device}
    tasks: dict[str, Task] = {}

    def add(name: str, capability: str, make: Callable[[str, Path], EvalOptions]) -> None:
        tasks[name] = EvaluatorTask(capability=capability, options=make)

    if imagenet is not None:
        common_here = {**common, "data": imagenet, "cache": options.out / _CACHE}
        add("zero-shot", "image_text", lambda m, _: ZeroShotOptions(model=m, **common_here))
        add("knn", "summary", lambda m, _: KnnOptions(model=m, **common_here))
    for name, folder in segmentation.items():
        numbers = _segmentation_numbers(options)
        add(name, "features", partial(_linear_seg, data=folder, **common, **numbers))
    if coco is not None:
        limit = options.sizes.sam_val if options.kind == "toy" else None
        sam = options.sam_checkpoint
        tasks["coco"] = EvaluatorTask(
            capability="sam",
            options=lambda m, work: SamCocoOptions(
                model=m, data=coco, sam_checkpoint=sam, limit=limit, out=work, **common
            ),
            extra={"sam": sam, "sam_file": file_stamp(Path(sam.rpartition(":")[2])).decode()},
        )
    return tasks


def _segmentation_numbers(options: Table1Options) -> dict[str, Any]:
    if options.kind == "toy":
        return {"protocol": "toy", "iterations": options.sizes.head_iterations, "workers": 0}
    return {"protocol": "mmseg", "iterations": options.iterations}


def _linear_seg(model: str, work: Path, **fields: Any) -> LinearSegOptions:
    return LinearSegOptions(model=model, out=work, **fields)


def _vqa_tasks(
    options: Table1Options, folder: Path, llavas: GivenLlavas, max_new_tokens: int
) -> dict[str, Task]:
    return {
        name: VqaTask(
            task=name,
            folder=folder,
            llavas=llavas,
            batch_size=options.vqa_batch_size,
            max_new_tokens=max_new_tokens,
        )
        for name in VQA_COLUMNS
    }
