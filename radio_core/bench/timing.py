"""Timing several activities in turns, and describing the machine that they ran on.

`torch.utils.benchmark` times one statement after the other, each with calls of its own to warm up,
and waits for the first GPU alone: here a slower moment of the machine hits all activities alike.
"""

import contextlib
import platform
import statistics
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import torch

from radio_core.progress import Progress, silent

Name = TypeVar("Name", bound=Hashable)
Activity = Callable[[], object]
SPREAD = "medians; the spread is half the distance of the quartiles"
WARMUP_TURNS = 2
_RUNTIMES = ("timm", "onnxruntime", "onnxruntime-gpu", "tensorrt", "tensorrt-rtx")


@dataclass(frozen=True)
class Timing:
    """Seconds of one activity over several repetitions."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle repetition."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """Half the distance between the quartiles, relative to the median."""
        low, _, high = statistics.quantiles(self.seconds, n=4)
        return (high - low) / 2 / self.median

    def __str__(self) -> str:
        """The median in milliseconds, with the spread."""
        return f"{1000 * self.median:.1f} ±{100 * self.spread:.1f}%"


def time_in_turns(
    activities: Mapping[Name, Activity],
    repeats: int,
    *,
    warmup: int = WARMUP_TURNS,
    device: torch.device | None = None,
    clock: Callable[[], float] = time.perf_counter,
    progress: Progress = silent,
) -> dict[Name, Timing]:
    """Run each activity once a turn, so that a slower moment of the machine hits all alike.

    After `warmup` turns, `repeats` (at least 2) count. A GPU named as `device` is waited for; what
    an activity returns is released after the clock stopped.
    """
    if repeats < 2:
        raise ValueError(f"repeats must be at least 2 to have a spread, not {repeats}")
    seconds: dict[Name, list[float]] = {name: [] for name in activities}
    for turn in range(warmup + repeats):
        progress("measuring", turn, warmup + repeats)
        for name, activity in activities.items():
            began = clock()
            result = activity()
            if device is not None and device.type == "cuda":
                torch.cuda.synchronize(device)
            elapsed = clock() - began
            del result
            if turn >= warmup:
                seconds[name].append(elapsed)
    return {name: Timing(tuple(values)) for name, values in seconds.items()}


def machine(device: torch.device) -> dict[str, Any]:
    """What a number depends on besides the program: processor, device, threads and versions."""
    versions = {}
    for package in _RUNTIMES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    # Of the processor's name Python knows little; Linux tells it.
    listing = Path("/proc/cpuinfo")
    lines = listing.read_text(encoding="utf-8").splitlines() if listing.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "cpu": names[0] if names else platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "packages": versions,
        "python": platform.python_version(),
        "system": platform.platform(),
    }
