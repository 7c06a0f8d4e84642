"""Training of the probe's head on batches of features, and the checkpoint that continues it."""

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from radio_core.data.images import printable
from radio_eval.coco.annotations import Skipped
from radio_eval.linear_seg.head import backward_pixel_loss, learning_rate_at
from radio_eval.linear_seg.protocol import LinearSegParameters
from radio_eval.progress import Progress

CHECKPOINT_FILE = "head.pt"
CHECKPOINT_SECONDS = 10.0
"""Time between two checkpoints."""
_FORMAT = "radio eval linear-seg, 1"


class TrainBatch(NamedTuple):
    """Features [B, C, h, w] float32 and labels [B, H, W] of any integers."""

    features: Tensor
    labels: Tensor


@dataclass(frozen=True, kw_only=True)
class HeadState:
    """Where a training stands. No random state: what a step sees follows from its number.

    Attributes:
        step: optimizer steps that were made.
        head: its state dict.
        optimizer: its state dict.
        problems: train files that could not be read, with reasons.
    """

    step: int
    head: dict[str, Any]
    optimizer: dict[str, Any]
    problems: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class HeadCheckpoint:
    """The file that continues an interrupted training.

    Attributes:
        path: the file.
        identity: what is trained how, as JSON types; only the same training is continued.
        seconds: time between two savings.
    """

    path: Path
    identity: dict[str, Any]
    seconds: float = CHECKPOINT_SECONDS

    def load(self) -> HeadState | None:
        """The state in the file; None if there is no file.

        Raises:
            ValueError: not such a file, or one of another training; it says what differs.
        """
        if not self.path.exists():
            return None
        fix = "choose another --out folder, or begin anew with --overwrite"
        try:
            content = torch.load(self.path, map_location="cpu", weights_only=True)
            found, state = dict(content["identity"]), HeadState(**content["state"])
        except Exception as error:  # torch raises nearly everything on foreign files
            raise ValueError(
                f"{printable(self.path)} is no checkpoint of a probe; {fix}"
            ) from error
        wanted = self._identity()
        different = [name for name in wanted if found.get(name) != wanted[name]]
        if different:
            raise ValueError(
                f"{printable(self.path)} is a probe with other {', '.join(different)}; {fix}"
            )
        return state

    def save(self, state: HeadState) -> None:
        """Write the file, whole or not at all."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_name(self.path.name + ".partial")
        torch.save({"identity": self._identity(), "state": vars(state)}, partial)
        os.replace(partial, self.path)

    def _identity(self) -> dict[str, Any]:
        return {"format": _FORMAT, **self.identity}


@dataclass(kw_only=True)
class HeadTrainer:
    """Trains a head; what was done before it was interrupted is not done again.

    Attributes:
        head: the module, on its device.
        parameters: the protocol.
        checkpoint: None keeps nothing.
        problems: train files that could not be read.
        step: optimizer steps that were made.
    """

    head: nn.Module
    parameters: LinearSegParameters
    checkpoint: HeadCheckpoint | None = None
    problems: Skipped = field(default_factory=Skipped)
    step: int = 0

    def __post_init__(self) -> None:
        p = self.parameters
        self._optimizer = torch.optim.AdamW(
            self.head.parameters(), p.learning_rate, weight_decay=p.weight_decay
        )
        state = self.checkpoint.load() if self.checkpoint is not None else None
        if state is not None:
            self.head.load_state_dict(state.head)
            self._optimizer.load_state_dict(state.optimizer)
            self.problems.reasons.update(state.problems)
            self.step = state.step

    def train(self, batches: Iterable[TrainBatch], progress: Progress) -> None:
        """Train to the protocol's last step.

        Args:
            batches: those of all steps from `step` on.
            progress: listener.
        """
        p = self.parameters
        self.head.train()
        saved = time.monotonic()
        for features, labels in batches:
            for group in self._optimizer.param_groups:
                group["lr"] = learning_rate_at(self.step, p)
            self._optimizer.zero_grad(set_to_none=True)
            backward_pixel_loss(self.head(features), labels, p.ignore_index)
            self._optimizer.step()
            self.step += 1
            if self.checkpoint is not None and (
                self.step == p.iterations or time.monotonic() - saved >= self.checkpoint.seconds
            ):
                self.checkpoint.save(self._state())
                saved = time.monotonic()
            progress("linear-seg head", self.step, p.iterations)

    def _state(self) -> HeadState:
        return HeadState(
            step=self.step,
            head=self.head.state_dict(),
            optimizer=self._optimizer.state_dict(),
            problems=dict(self.problems.reasons),
        )
