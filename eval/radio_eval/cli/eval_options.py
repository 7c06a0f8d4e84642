"""The options that every `radio eval` task has."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from radio_core.devices import choose_device
from radio_eval.contract import Evaluator
from radio_eval.eval_model import EvalModel
from radio_eval.models import load_eval_model
from radio_eval.processes import Processes
from radio_eval.progress import Progress
from radio_eval.report.sections import Show


@dataclass(frozen=True, kw_only=True)
class EvalOptions(ABC):
    """What every evaluation takes."""

    model: str
    """A release ("radio_h"), a file or folder with a RADIO model, the bundled "toy", a teacher
    ("toy-clip"), timm:NAME, open_clip:NAME/PRETRAINED, hf:ID, random:tiny, or a file that
    `radio export` wrote (.onnx; .engine and .pt2 are programs: only those that you trust). Folders
    are taken by timm:DIR, open_clip:local-dir:DIR and hf:DIR too."""
    data: Path
    """Folder of the data set."""
    json: Path | None = None
    """File for the result: metrics, every parameter of the protocol, versions, seconds."""
    report: Path | None = None
    """HTML file for the result with pictures, whole in itself."""

    @abstractmethod
    def evaluator(self) -> Evaluator:
        """Read the data and return the evaluator."""

    def load_model(self) -> EvalModel:
        """Load the model."""
        return load_eval_model(self.model)

    @abstractmethod
    def run(
        self, progress: Progress, processes: Processes, show: Show | None = None
    ) -> dict[str, Any]:
        """Evaluate with all processes, and return the result as JSON types.

        Args:
            progress: listener.
            processes: those that were started together; only the first writes the result.
            show: takes the sections of a report; None where there is none, at the other processes
                for example.
        """


def own_device(name: str, processes: Processes, model: str = "") -> torch.device:
    """The device of a process: each on a machine takes its own GPU, unless one is named.

    Args:
        name: as `choose_device` takes it, and `model`.
        processes: those that were started together.
        model: that shall run there.
    """
    device = choose_device(name, model)
    if device.type == "cuda" and device.index is None and processes.count > 1:
        return torch.device("cuda", processes.local_rank % torch.cuda.device_count())
    return device
