"""What a model is to the evaluators: a set of functions, None where it cannot do something."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from torch import Tensor

if TYPE_CHECKING:
    from segment_anything.modeling import Sam

ImageFunction = Callable[[Tensor], Tensor]
"""Images [B, 3, H, W], RGB in [0, 1] -> one result an image [B, ...]."""

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class ImageText:
    """Images and texts in one space.

    Attributes:
        encode_image: [B, 3, H, W] in [0, 1] -> [B, D], not necessarily normalised.
        encode_text: T sentences -> [T, D], not necessarily normalised.
    """

    encode_image: ImageFunction
    encode_text: Callable[[Sequence[str]], Tensor]


@dataclass(frozen=True, kw_only=True)
class EvalModel:
    """A frozen model, ready to be evaluated.

    Attributes:
        name: name of its row in tables.
        image_size: side in pixels to which images are brought (the shortest one if not square).
        resize_step: both sides of an image become multiples of it.
        square: it takes square images only.
        summary: images -> [B, D], for kNN.
        features: images -> [B, C, h, w], for dense tasks.
        image_text: for zero-shot classification.
        sam: builds the Segment Anything model that has this model's features inside.
    """

    name: str
    image_size: int
    resize_step: int
    square: bool = False
    summary: ImageFunction | None = None
    features: ImageFunction | None = None
    image_text: ImageText | None = None
    sam: "Callable[[], Sam] | None" = None


def need(capability: T | None, model: EvalModel, what: str, task: str) -> T:
    """The capability, or a ValueError that says which model lacks it for which task."""
    if capability is None:
        raise ValueError(f"model {model.name!r} cannot be evaluated on {task}: it has no {what}")
    return capability
