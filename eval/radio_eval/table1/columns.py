"""The columns of the table, in the paper's order."""

from dataclasses import dataclass

from radio_core.cli import UsageError


@dataclass(frozen=True, kw_only=True)
class Column:
    """One task.

    Attributes:
        name: as `--tasks` takes it.
        title: its heading.
        group: the heading above it.
        metric: what the number is, for people.
        where: "toy" or "folders" for a column of that kind of data alone; "" for one of both.
    """

    name: str
    title: str
    group: str
    metric: str
    where: str = ""


IMAGENET, SEGMENTATION = "ImageNet1K", "Segmentation (linear)"
LANGUAGE, SAM = "Vision-Language (LLaVA-1.5)", "SAM"

COLUMNS: dict[str, Column] = {
    column.name: column
    for column in (
        Column(name="zero-shot", title="Zero-shot", group=IMAGENET, metric="top-1 accuracy"),
        Column(name="knn", title="k-NN", group=IMAGENET, metric="top-1 accuracy"),
        Column(name="ade20k", title="ADE20k", group=SEGMENTATION, metric="mIoU", where="folders"),
        Column(name="voc", title="VOC", group=SEGMENTATION, metric="mIoU", where="folders"),
        Column(name="toy-seg", title="toy seg", group=SEGMENTATION, metric="mIoU", where="toy"),
        Column(name="gqa", title="GQA", group=LANGUAGE, metric="accuracy"),
        Column(name="pope", title="POPE", group=LANGUAGE, metric="F1 of the popular split"),
        Column(name="textvqa", title="TextVQA", group=LANGUAGE, metric="accuracy"),
        Column(name="vqav2", title="VQAv2", group=LANGUAGE, metric="accuracy"),
        Column(name="coco", title="COCO", group=SAM, metric="mIoU with ground-truth boxes"),
    )
}
"""Columns by name."""

VQA_COLUMNS = tuple(name for name, column in COLUMNS.items() if column.group == LANGUAGE)


def choose_columns(tasks: str, available: tuple[str, ...], kind: str) -> tuple[Column, ...]:
    """The columns that `--tasks` asks for, in the paper's order.

    Args:
        tasks: names with commas between them; "" for all that there is data for.
        available: columns that there is data for.
        kind: of the data, "toy" or "folders".

    Raises:
        UsageError: an unknown name, or a column of the other kind of data.
    """
    wanted = [name.strip() for name in tasks.split(",") if name.strip()] or list(available)
    for name in wanted:
        if name not in COLUMNS:
            raise UsageError(f"unknown task {name!r}; known: {', '.join(COLUMNS)}")
        where = COLUMNS[name].where
        if where == "folders" and kind == "toy":
            raise UsageError(
                f"the toy world has the task toy-seg in place of {name}: name the folder of the "
                f"real data with --{name} DIR"
            )
        if where == "toy" and kind == "folders":
            raise UsageError(f"{name} is a task of the toy world: leave out the folders of data")
    if not wanted:
        raise UsageError("no task: name the folders of the data, or none for the toy world")
    return tuple(column for name, column in COLUMNS.items() if name in wanted)
