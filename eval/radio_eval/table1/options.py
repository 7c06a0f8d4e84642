"""The options of `radio eval table1`."""

from dataclasses import dataclass, field
from pathlib import Path

from radio_core.cli import UsageError
from radio_core.teachers import TOY_TEACHERS
from radio_eval.llava_toy import ToyLlavaSizes
from radio_eval.table1.throughput import ThroughputOptions
from radio_eval.toyworld import ToySizes
from radio_llava.toy import ToyTraining

FOLDERS = ("imagenet", "ade20k", "voc", "coco", "vqa")
"""Options that name real data."""


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
    throughput: ThroughputOptions = field(default_factory=ThroughputOptions)
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
        folders = [f"--{name}" for name in FOLDERS if getattr(self, name) is not None]
        if folders and self.data is not None:
            raise UsageError(
                f"--data is the toy world's: leave it out, or leave out {', '.join(folders)}"
            )
        if self.llava and self.vqa is None:
            raise UsageError("--llava needs the questions: --vqa DIR")
        if min(self.iterations, self.vqa_batch_size, self.llava_resolution) < 1:
            raise UsageError("iterations, batch size and resolution must be at least 1")

    @property
    def kind(self) -> str:
        """Which data is used: "folders", or "toy" where none is named."""
        return "folders" if any(getattr(self, name) is not None for name in FOLDERS) else "toy"

    def llava_folders(self, models: tuple[str, ...]) -> dict[str, Path]:
        """What --llava says: model -> directory.

        Args:
            models: the models of the table.

        Raises:
            UsageError: not MODEL=DIR, another model than those of the table, or one twice.
        """
        folders: dict[str, Path] = {}
        for text in self.llava:
            model, equals, folder = text.partition("=")
            if not equals or not folder:
                raise UsageError(f"--llava {text!r} must be MODEL=DIR")
            if model not in models:
                raise UsageError(f"--llava {text}: --models has {', '.join(models)}")
            if model in folders:
                raise UsageError(f"--llava names the LLaVA of {model} twice")
            folders[model] = Path(folder)
        return folders
