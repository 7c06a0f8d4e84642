"""The options of `radio paper TABLE`."""

from dataclasses import dataclass, field
from pathlib import Path

from radio_core.cli import UsageError
from radio_eval.toyworld import ToySizes

_LEAST_STEPS = 10


@dataclass(frozen=True, kw_only=True)
class PaperSizes:
    """How much of the toy world the evaluations see.

    Attributes:
        classification_train: images that k-NN compares with.
        classification_val: images that k-NN and zero-shot classify.
        dense_train: images that the segmentation head learns from.
        dense_val: images for segmentation.
        head_iterations: optimizer steps of the segmentation head.
    """

    classification_train: int = 1000
    classification_val: int = 1000
    dense_train: int = 400
    dense_val: int = 200
    head_iterations: int = 400

    def __post_init__(self) -> None:
        self.toy()  # checks the numbers

    def toy(self) -> ToySizes:
        """The same for `prepare_toy_data`; SAM is in no table."""
        return ToySizes(
            classification_train=self.classification_train,
            classification_val=self.classification_val,
            dense_train=self.dense_train,
            dense_val=self.dense_val,
            sam_val=1,
            head_iterations=self.head_iterations,
        )


@dataclass(frozen=True, kw_only=True)
class PaperOptions:
    """Repeat one of the paper's ablations in the toy world.

    Trains a student for each row of the table and each seed, evaluates it, and says of each of the
    paper's claims whether it comes out, with the spread over the seeds. Writes OUT/tableN.md, .html
    and .json after every student.

    Students, teacher outputs and finished evaluations stay in OUT and are shared by the tables: a
    run that was interrupted, or repeated with more seeds, does only what is missing or has changed.
    """

    out: Path = Path("runs/paper")
    """Folder for everything that is written; run one table at a time there."""
    seeds: int = 3
    """Students of each row: seeds 0 ... n - 1. A seed decides weights, data, crops and order."""
    steps: int = 500
    """Optimizer steps of each student."""
    views: int = 3000
    """Scenes to train on, each with one crop; their teacher outputs are computed once a seed."""
    device: str = "auto"
    """Where models run, such as "cuda:1"; "auto" takes a GPU where there is one."""
    json: Path | None = None
    """Another file for what OUT/tableN.json has."""
    sizes: PaperSizes = field(default_factory=PaperSizes)
    """How much of the toy world the evaluations see."""

    def __post_init__(self) -> None:
        if self.seeds < 2:
            raise UsageError(f"--seeds must be at least 2, not {self.seeds}: one has no spread")
        if self.steps < _LEAST_STEPS or self.views < 1:
            raise UsageError(f"--steps must be at least {_LEAST_STEPS} and --views at least 1")
