"""What a table of the paper is: columns, rows and claims."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from radio_core.distill.config import TrainConfig
from radio_eval.paper.claims import Claim
from radio_eval.paper.recipe import RESOLUTION

Change = Callable[[TrainConfig], TrainConfig]


@dataclass(frozen=True, kw_only=True)
class Score:
    """The headline of an evaluator, in percent.

    Attributes:
        title: heading of the column.
        task: of the evaluator.
        image_size: side in pixels of the images.
    """

    title: str
    task: str
    image_size: int = RESOLUTION


@dataclass(frozen=True, kw_only=True)
class Logged:
    """A mean over the last fifth of the rows of a training's log.

    Attributes:
        title: heading of the column.
        keys: columns of metrics.jsonl whose mean is taken; a run that lacks one has no value.
        scale: factor, e.g. 100 for percent.
    """

    title: str
    keys: tuple[str, ...]
    scale: float = 1.0


Metric = Score | Logged


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One row of a table.

    Attributes:
        title: what the row is called.
        change: makes it from the common recipe.
        paper: metric -> the paper's printed number.
    """

    title: str
    change: Change
    paper: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class PaperTable:
    """One table of the paper.

    Attributes:
        name: as the command calls it, e.g. "table3".
        title: what is compared.
        setting: how the paper did it, and what differs here.
        metrics: name -> column.
        variants: name -> row.
        claims: what the paper says of it.
    """

    name: str
    title: str
    setting: tuple[str, ...]
    metrics: Mapping[str, Metric]
    variants: Mapping[str, Variant]
    claims: tuple[Claim, ...]

    def __post_init__(self) -> None:
        for claim in self.claims:
            assert claim.metric in self.metrics
            assert {claim.higher, claim.lower or claim.higher} <= set(self.variants)
        for variant in self.variants.values():
            assert set(variant.paper) <= set(self.metrics)

    @property
    def paper(self) -> dict[str, Mapping[str, float]]:
        """Variant -> metric -> printed number."""
        return {name: variant.paper for name, variant in self.variants.items()}


ZERO_SHOT = Score(title="zero-shot", task="zero_shot")
KNN = Score(title="k-NN", task="knn")
SEGMENTATION = Score(title="segmentation mIoU", task="linear_seg")


def unchanged(config: TrainConfig) -> TrainConfig:
    """The common recipe as it is."""
    return config
