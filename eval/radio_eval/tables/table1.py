"""The paper's Table 1: any models on all tasks, our numbers beside the paper's."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from radio_core.bench.timing import machine, time_in_turns
from radio_core.devices import choose_device
from radio_core.open import SOURCES, known_source, open_model
from radio_core.progress import rich_progress
from radio_core.registry import UnknownName
from radio_core.teachers import TOY_TEACHERS
from radio_core.vision import VisionModel
from radio_core.zoo.releases import find_release
from radio_eval.data.files import file_stamp
from radio_eval.llava_toy import MAX_NEW_TOKENS as TOY_MAX_NEW_TOKENS
from radio_eval.llava_toy import ToyLlavaSizes, prepare_toy_vqa
from radio_eval.results import Json, digest
from radio_eval.runner import Task
from radio_eval.tables.filling import Cell, Filling, noted, slug
from radio_eval.tables.llavas import Llavas, ToyLlavas
from radio_eval.tables.table1_paper import THROUGHPUT, PaperRow, paper_row
from radio_eval.tasks.knn import Knn
from radio_eval.tasks.linear_seg import LinearSeg
from radio_eval.tasks.sam_coco import SamCoco
from radio_eval.tasks.vqa import MAX_NEW_TOKENS, Vqa
from radio_eval.tasks.zero_shot import ZeroShot
from radio_eval.toyworld import ToySizes, toy_tasks
from radio_llava.toy import ToyTraining

FOLDERS = ("imagenet", "ade20k", "voc", "coco", "vqa")
"""Options that name real data."""
_TASKS = {"zero-shot": "zero_shot", "knn": "knn", "toy-seg": "linear_seg", "coco": "sam_miou"}
"""Columns of the toy world that look at the model itself -> names of tasks."""


@dataclass(frozen=True)
class Column:
    """One task."""

    name: str
    title: str
    group: str
    metric: str
    data: str
    toy: bool = True


IMAGENET, SEGMENTATION = "ImageNet1K", "Segmentation (linear)"
LANGUAGE, SAM = "Vision-Language (LLaVA-1.5)", "SAM"
COLUMNS = {
    column.name: column
    for column in (
        Column("zero-shot", "Zero-shot", IMAGENET, "top-1 accuracy", "imagenet"),
        Column("knn", "k-NN", IMAGENET, "top-1 accuracy", "imagenet"),
        Column("ade20k", "ADE20k", SEGMENTATION, "mIoU", "ade20k", toy=False),
        Column("voc", "VOC", SEGMENTATION, "mIoU", "voc", toy=False),
        Column("toy-seg", "toy seg", SEGMENTATION, "mIoU", ""),
        Column("gqa", "GQA", LANGUAGE, "accuracy", "vqa"),
        Column("pope", "POPE", LANGUAGE, "F1 of the popular split", "vqa"),
        Column("textvqa", "TextVQA", LANGUAGE, "accuracy", "vqa"),
        Column("vqav2", "VQAv2", LANGUAGE, "accuracy", "vqa"),
        Column("coco", "COCO", SAM, "mIoU with ground-truth boxes", "coco"),
    )
}
"""Columns by name, in the paper's order."""


@dataclass(frozen=True, kw_only=True)
class ThroughputSizes:
    """How throughput is measured.

    Attributes:
        batch_size: images a call.
        repeats: measured calls, after two that do not count; the median is taken.
    """

    batch_size: int = 16
    repeats: int = 10

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.repeats < 2:
            raise ValueError("throughput needs a batch size of at least 1, and 2 repeats or more")


@dataclass(frozen=True, kw_only=True)
class Table1Options:
    """The paper's Table 1: any models on all tasks, our numbers beside the paper's.

    Without folders of data, everything happens in the toy world, and each model gets a small LLaVA
    of its own. With folders (--imagenet, --ade20k, --voc, --coco, --vqa) the protocols are those of
    `radio eval TASK`. Cells that were not run, or that a model cannot do, stay empty.

    Writes OUT/table1.md, .csv, .html and .json after every cell. A run that was interrupted, or
    repeated with more models or tasks, does only what is missing or has changed.
    """

    models: str = ",".join(("toy", *TOY_TEACHERS))
    """Models with commas between them, as `radio eval TASK --model` takes them."""
    tasks: str = ""
    """Columns with commas between them: zero-shot, knn, ade20k, voc (toy-seg in the toy world),
    gqa, pope, textvqa, vqav2, coco. All that there is data for by default."""
    out: Path = Path("runs/table1")
    """Folder for everything that is written."""
    data: Path | None = None
    """Folder of the toy world's data, made there unless it is there; OUT/data by default."""
    imagenet: Path | None = None
    """ImageNet, for zero-shot and knn: {train,val}/CLASS/*.jpg, or WebDataset shards."""
    ade20k: Path | None = None
    """ADE20K: {images,annotations}/{training,validation}."""
    voc: Path | None = None
    """VOC2012: JPEGImages, SegmentationClass, ImageSets/Segmentation."""
    coco: Path | None = None
    """COCO: val2017/ and annotations/instances_val2017.json."""
    vqa: Path | None = None
    """LLaVA's playground/data/eval, for gqa, pope, textvqa and vqav2."""
    llava: tuple[str, ...] = ()
    """MODEL=DIR for each model that has a LLaVA: what its training with that vision tower wrote."""
    sam_checkpoint: str = "toy-sam"
    """SAM whose neck and mask decoder go behind RADIO on --coco, such as vit_h:FILE.pth."""
    iterations: int = 160_000
    """Optimizer steps of the segmentation heads on --ade20k and --voc."""
    vqa_batch_size: int = 32
    """Questions asked at once."""
    device: str = "auto"
    """Where the models run, such as "cuda:1"; "auto" takes a GPU where there is one."""
    throughput: ThroughputSizes = field(default_factory=ThroughputSizes)
    """How images a second are measured."""
    sizes: ToySizes = field(default_factory=ToySizes)
    """How much of the toy world zero-shot, knn, toy-seg and coco see."""
    llava_sizes: ToyLlavaSizes = field(default_factory=lambda: ToyLlavaSizes(train=4000, val=50))
    """How much of the toy world the toy LLaVAs see."""
    training: ToyTraining = field(
        default_factory=lambda: ToyTraining(pretrain_steps=50, instruct_steps=200)
    )
    """Steps and rates of the toy LLaVAs, the same for all models."""
    llava_resolution: int = 64
    """Long edge in pixels of the images in a toy LLaVA with RADIO; teachers have their own size."""

    def __post_init__(self) -> None:
        given = [f"--{name}" for name in FOLDERS if getattr(self, name) is not None]
        if given and self.data is not None:
            raise ValueError(
                f"--data is the toy world's: leave it out, or leave out {', '.join(given)}"
            )
        if self.llava and self.vqa is None:
            raise ValueError("--llava needs the questions: --vqa DIR")
        if min(self.iterations, self.vqa_batch_size, self.llava_resolution) < 1:
            raise ValueError("iterations, batch size and resolution must be at least 1")
        _ = self.sources, self.columns, self.llava_folders

    @property
    def toy(self) -> bool:
        """Whether it happens in the toy world, as no folder is named."""
        return all(getattr(self, name) is None for name in FOLDERS)

    @property
    def sources(self) -> tuple[str, ...]:
        """The models."""
        names = [name.strip() for name in self.models.split(",") if name.strip()]
        if not names:
            raise ValueError("--models names no model; for example --models toy,toy-clip")
        seen: dict[str, str] = {}
        for name in names:
            if not known_source(name):
                raise UnknownName(f"unknown model {name!r}; known: {', '.join(SOURCES)}")
            release = find_release(name)
            full = name if release is None else release.name
            if full in seen:
                raise ValueError(f"--models names {full} twice: as {seen[full]!r} and as {name!r}")
            seen[full] = name
        return tuple(names)

    @property
    def columns(self) -> tuple[Column, ...]:
        """The columns that are wanted, in the paper's order."""
        known = {name: c for name, c in COLUMNS.items() if (c.toy if self.toy else c.data)}
        wanted = [name.strip() for name in self.tasks.split(",") if name.strip()]
        for name in wanted:
            if name not in COLUMNS:
                raise UnknownName.of("task", name, COLUMNS)
            if name not in known and self.toy:
                raise ValueError(
                    f"the toy world has the task toy-seg in place of {name}: name the folder of "
                    f"the real data with --{name} DIR"
                )
            if name not in known:
                raise ValueError(f"{name} is a task of the toy world: leave out folders of data")
        if not wanted:
            wanted = [n for n, c in known.items() if self.toy or getattr(self, c.data) is not None]
        return tuple(column for name, column in known.items() if name in wanted)

    @property
    def llava_folders(self) -> dict[str, Path]:
        """What --llava says: model -> directory."""
        folders: dict[str, Path] = {}
        for text in self.llava:
            model, equals, folder = text.partition("=")
            if not equals or not folder:
                raise ValueError(f"--llava {text!r} must be MODEL=DIR")
            if model not in self.sources:
                raise ValueError(f"--llava {text}: --models has {', '.join(self.sources)}")
            if model in folders:
                raise ValueError(f"--llava names the LLaVA of {model} twice")
            folders[model] = Path(folder)
        return folders


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What the table knows of a model without having it in memory."""

    parameters: int | None
    resolution: int
    identity: Json
    lacks: Mapping[str, str]


@dataclass(kw_only=True)
class Row:
    """One model."""

    source: str
    facts: Facts | None = None
    cells: dict[str, Cell] = field(default_factory=dict)
    failure: str = ""

    @property
    def paper(self) -> PaperRow | None:
        """The paper's row of the model."""
        return paper_row(self.source)

    def value(self, column: str) -> float | None:
        """Our number of a column or of "throughput"; None for an empty cell."""
        return self.cells[column].value if column in self.cells else None


@dataclass(kw_only=True)
class Table1:
    """The whole table, filled row by row."""

    rows: Sequence[Row]
    columns: Sequence[Column]
    toy: bool
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def failed(self) -> bool:
        """Whether anything went wrong."""
        return any(row.failure or any(c.failed for c in row.cells.values()) for row in self.rows)

    def best(self, column: str) -> float | None:
        """The highest of our numbers in a column, where there are different ones."""
        values = {value for row in self.rows if (value := row.value(column)) is not None}
        return max(values) if len(values) > 1 else None


def fill_table1(
    options: Table1Options, table: Table1, filling: Filling, written: Callable[[], object]
) -> None:
    """Load every model and run every task on it; what goes wrong is noted in the cells."""
    run = _Run(options, filling)
    for row in table.rows:
        with noted() as wrong:
            run.load(row)
        if wrong and row.facts is None:
            row.failure = f"the model cannot be loaded: {wrong[0]}"
        elif wrong:
            row.cells[THROUGHPUT] = Cell(note=wrong[0], failed=True)
        written()
        for column in table.columns if row.facts is not None else ():
            with noted() as wrong:
                row.cells[column.name] = run.cell(row, column)
            if wrong:
                row.cells[column.name] = Cell(note=wrong[0], failed=True)
            written()


class _Run:
    """One filling of the table: the task of every column, and the LLaVAs of the models."""

    def __init__(self, options: Table1Options, filling: Filling) -> None:
        self.options, self.filling = options, filling
        self.device = choose_device(options.device)
        names = {column.name for column in options.columns}
        questions = {name for name in names if COLUMNS[name].group == LANGUAGE}
        vqa, tokens, cache = options.vqa, MAX_NEW_TOKENS, options.out / "cache"
        self.llavas = Llavas(folders=options.llava_folders, device=options.device)
        self.tasks: dict[str, Task | None] = dict.fromkeys(names)  # None: there is no data
        if options.toy:
            root = options.data or options.out / "data"
            with rich_progress(filling.console) as progress:
                if names - questions:
                    found = toy_tasks(root, options.sizes, progress, cache=cache)
                    self.tasks |= {n: found[_TASKS[n]] for n in names - questions}
                if questions:
                    vqa = prepare_toy_vqa(root / "llava", options.llava_sizes, progress)
                    tokens = TOY_MAX_NEW_TOKENS
                    self.llavas = ToyLlavas(
                        out=options.out / "llava",
                        data=vqa,
                        sizes=options.llava_sizes,
                        training=options.training,
                        resolution=options.llava_resolution,
                        device=options.device,
                        announce=filling.announce,
                    )
        if options.imagenet is not None:
            self.tasks["zero-shot"] = ZeroShot(data=options.imagenet, cache=cache)
            self.tasks["knn"] = Knn(data=options.imagenet, cache=cache)
        for name, folder in (("ade20k", options.ade20k), ("voc", options.voc)):
            if folder is not None:
                self.tasks[name] = LinearSeg(data=folder, iterations=options.iterations)
        if options.coco is not None:
            sam = options.sam_checkpoint
            self.tasks["coco"] = SamCoco(data=options.coco, sam_checkpoint=sam)
        for name in questions if vqa is not None else ():
            size = options.vqa_batch_size
            asked = Vqa(task=cast(Any, name), data=vqa, answers=Path(), batch_size=size)
            self.tasks[name] = dataclasses.replace(asked, max_new_tokens=tokens)

    def load(self, row: Row) -> None:
        """Find out what the model is and how fast; it does not stay in memory."""
        self.filling.announce(f"{row.source}: loading")
        model, sizes = open_model(row.source, device=self.device), self.options.throughput
        crop = model.crop
        identity = {
            "model": row.source,
            "weights": model.fingerprint(),
            "spec": asdict(model.spec),
            "crop": None if crop is None else asdict(crop),
        }
        row.facts = Facts(
            parameters=backbone_parameters(model),
            resolution=model.spec.input_size if crop is None else crop.size,
            identity=identity,
            lacks={n: "" if task is None else task.lacks(model) for n, task in self.tasks.items()},
        )

        def measure() -> Cell:
            self.filling.announce(f"{row.source}: throughput")
            result = measure_throughput(model, sizes, self.device)
            return Cell(value=result["value"], result=result)

        identity |= {**asdict(sizes), "precision": "float32", "machine": machine(self.device)}
        row.cells[THROUGHPUT] = self.filling.cell(row.source, THROUGHPUT, identity, measure)

    def cell(self, row: Row, column: Column) -> Cell:
        """Run a task on a model, or on the LLaVA that has it for its eyes."""
        assert row.facts is not None
        source, asked, task = row.source, column.group == LANGUAGE, self.tasks[column.name]
        lacking = self.llavas.lacks(source) if asked else row.facts.lacks[column.name]
        if lacking:
            return Cell(note=lacking if asked else "")
        if task is None:
            raise ValueError(f"no data: name its folder with --{column.data} DIR")
        identity = {**row.facts.identity, **task.identity()}
        if isinstance(task, SamCoco):  # the file behind the name of the SAM
            file = Path(task.sam_checkpoint.rpartition(":")[2])
            identity["sam_file"] = file_stamp(file).decode()
        llava = {**row.facts.identity, **self.llavas.identity(source)} if asked else {}
        identity |= {"llava": llava} if asked else {}

        def make() -> Cell:
            self.filling.announce(f"{source}: {column.title}")
            name = f"{slug(source)}.{column.name}-{digest(identity)}"
            work = self.options.out / "work" / name
            if isinstance(task, Vqa):
                pope, answers = column.name == "pope", work / "answers.jsonl"
                ask, model = dataclasses.replace(task, answers=answers), self.llavas.answerer
                headline = "popular.f1" if pope else ""
                cell = self.filling.run(ask, model(source, llava), source, headline)
                return dataclasses.replace(cell, note=vqa_note(cell, pope, answers))
            placed = task
            if isinstance(task, LinearSeg | SamCoco):
                placed = dataclasses.replace(task, out=work)
            return self.filling.run(placed, placed.open_model(source, self.device), source)

        return self.filling.cell(source, column.name, identity, make)


def vqa_note(cell: Cell, pope: bool, answers: Path) -> str:
    """What must be said of the number, or why there is none."""
    metrics = cell.result["metrics"]
    if pope and cell.value is not None:
        constant = {0.0: "no", 100.0: "yes"}.get(metrics.get("popular.yes_ratio"))
        return f"every answer to the popular questions is {constant}" if constant else ""
    if pope and metrics.get("accuracy") is not None:
        return "the questions of POPE have no popular split"
    return f"{cell.note}; the answers are in {answers}" if cell.value is None else ""


def measure_throughput(model: VisionModel, sizes: ThroughputSizes, device: torch.device) -> Json:
    """Time a model on random square images of its own size.

    Returns:
        "value" (images a second by the median), "ms" of a call, "spread_percent", "image_size".
    """
    side = model.spec.input_size
    images = torch.rand(sizes.batch_size, 3, side, side, device=device)
    with torch.inference_mode():
        found = time_in_turns({"model": lambda: model(images)}, sizes.repeats, device=device)
    timing = found["model"]
    return {
        "value": sizes.batch_size / timing.median,
        "ms": round(1000 * timing.median, 3),
        "spread_percent": round(100 * timing.spread, 2),
        "image_size": side,
    }


def backbone_parameters(model: VisionModel) -> int | None:
    """Number of weights of the vision backbone: no adaptors, text towers, necks or decoders.

    None for a network whose weights are not at hand, such as an exported file.
    """
    for path in ("radio.backbone", "model.visual", "sam.image_encoder", ""):
        found: Any = model  # RADIO, open_clip and SAM have their backbones there, others are one
        for name in filter(None, path.split(".")):
            found = getattr(found, name, None)
        if isinstance(found, nn.Module) and not (path == "" and hasattr(model, "radio")):
            return sum(parameter.numel() for parameter in found.parameters())
    return None
