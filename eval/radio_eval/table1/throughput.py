"""Images a second of a model, at its own resolution, on the device at hand."""

from dataclasses import asdict, dataclass
from typing import Any

import torch

from radio_core.bench.timing import machine, time_in_turns
from radio_eval.eval_model import EvalModel


@dataclass(frozen=True, kw_only=True)
class ThroughputOptions:
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

    def identity(self, device: torch.device) -> dict[str, Any]:
        """What the number depends on besides the model, as JSON types."""
        return {**asdict(self), "precision": "float32", "machine": machine(device)}


def measure_throughput(
    model: EvalModel, options: ThroughputOptions, device: torch.device
) -> dict[str, Any]:
    """Time a model's features (its summary, if it has none) on random square images.

    Returns:
        "value" (images a second by the median), "ms" of a call, "spread_percent", "image_size".

    Raises:
        ValueError: it has neither features nor a summary.
    """
    function = model.features or model.summary
    if function is None:
        raise ValueError(f"model {model.name!r} has no features to time")
    side = model.image_size
    images = torch.rand(options.batch_size, 3, side, side, device=device)
    encode = function
    with torch.inference_mode():
        timing = time_in_turns({"model": lambda: encode(images)}, options.repeats, device=device)
    seconds = timing["model"].median
    return {
        "value": options.batch_size / seconds,
        "ms": round(1000 * seconds, 3),
        "spread_percent": round(100 * timing["model"].spread, 2),
        "image_size": side,
    }
