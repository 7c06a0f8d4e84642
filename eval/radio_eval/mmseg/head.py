"""The linear head of the probe as mmseg trains it, and the checkpoint that continues it."""

import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from radio_core.data.images import printable
from radio_core.progress import Progress
from radio_eval.data.segmentation import IGNORED
from radio_eval.mmseg.protocol import LinearSegParameters
from radio_eval.results import Json, Skipped, plain

CHECKPOINT_FILE = "head.pt"
CHECKPOINT_SECONDS = 10.0
"""Time between two checkpoints."""
_FORMAT = "radio eval linear-seg, 2"
_FLOATS_AT_ONCE = 2**26
"""Upsampled logits whose gradient is computed at once: 256 MB, and a few times that in all."""


def make_head(channels: int, num_classes: int) -> nn.Sequential:
    """BatchNorm and a 1x1 convolution with bias: features [B, C, h, w] -> logits [B, K, h, w].

    Always a plain BatchNorm: it sees the features of the whole batch, whichever processes
    computed them, as a synchronised one would.
    """
    classifier = nn.Conv2d(channels, num_classes, kernel_size=1)
    nn.init.normal_(classifier.weight, std=0.01)
    if classifier.bias is not None:
        nn.init.zeros_(classifier.bias)
    return nn.Sequential(nn.BatchNorm2d(channels), classifier)


def pixel_loss(logits: Tensor, labels: Tensor, ignore_index: int = IGNORED) -> Tensor:
    """Cross entropy summed over labelled pixels, divided by all pixels, ignored ones included.

    Logits [B, K, h, w] are upsampled bilinearly to the labels [B, H, W], int64 in [0, K) or
    `ignore_index`.
    """
    upsampled = F.interpolate(logits, size=labels.shape[-2:], mode="bilinear", align_corners=False)
    total = F.cross_entropy(upsampled, labels, ignore_index=ignore_index, reduction="sum")
    return total / labels.numel()


def backward_pixel_loss(logits: Tensor, labels: Tensor, ignore_index: int = IGNORED) -> None:
    """The backward pass of `pixel_loss`, a few images at a time to bound the memory."""
    floats = logits.shape[1] * labels.shape[-2] * labels.shape[-1]
    at_once = max(1, _FLOATS_AT_ONCE // floats)
    gradients = []
    for part, truth in zip(logits.detach().split(at_once), labels.split(at_once), strict=True):
        leaf = part.requires_grad_()
        share = pixel_loss(leaf, truth.long(), ignore_index) * (len(part) / len(logits))
        gradients.append(torch.autograd.grad(share, leaf)[0])
    logits.backward(torch.cat(gradients))


def learning_rate_at(step: int, parameters: LinearSegParameters) -> float:
    """Linear warm-up, then polynomial decay to 0 at the last step, as mmengine's; from step 0."""
    p = parameters
    if step < p.warmup_iterations:
        share = step / max(1, p.warmup_iterations - 1)
        return p.warmup_start + (p.learning_rate - p.warmup_start) * share
    left = (p.iterations - 1 - step) / max(1, p.iterations - 1 - p.warmup_iterations)
    return float(p.learning_rate * left**p.poly_power)


class TrainBatch(NamedTuple):
    """Features [B, C, h, w] float32 and labels [B, H, W] of any integers."""

    features: Tensor
    labels: Tensor


class HeadTrainer:
    """Trains a head; what was done before it was interrupted is not done again.

    No random state is kept: what a step sees follows from its number.

    Args:
        head: the module, on its device.
        parameters: the protocol.
        problems: train files that could not be read; those of an interrupted training are added.
        checkpoint: the file that continues an interrupted training; None keeps nothing.
        identity: what is trained how, as JSON types; only the same training is continued.

    Attributes:
        step: optimizer steps that were made.

    Raises:
        ValueError: the file is no such checkpoint, or one of another training; it says what
            differs.
    """

    def __init__(
        self,
        head: nn.Module,
        parameters: LinearSegParameters,
        problems: Skipped,
        checkpoint: Path | None = None,
        identity: Json | None = None,
    ) -> None:
        self._head, self._parameters, self._problems = head, parameters, problems
        self._file = checkpoint
        self._identity = plain({"format": _FORMAT, **(identity or {})})
        self._optimizer = torch.optim.AdamW(
            head.parameters(), parameters.learning_rate, weight_decay=parameters.weight_decay
        )
        self.step = 0
        if checkpoint is not None and checkpoint.exists():
            self._restore(checkpoint)

    def _restore(self, file: Path) -> None:
        fix = "choose another --out folder, or begin anew with --overwrite"
        try:
            content = torch.load(file, map_location="cpu", weights_only=True)
            found, state = dict(content["identity"]), dict(content["state"])
        except Exception as error:  # torch raises nearly everything on foreign files
            raise ValueError(f"{printable(file)} is no checkpoint of a probe; {fix}") from error
        different = [n for n, value in self._identity.items() if found.get(n) != value]
        if different:
            raise ValueError(
                f"{printable(file)} is a probe with other {', '.join(different)}; {fix}"
            )
        self._head.load_state_dict(state["head"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._problems.reasons.update(state["problems"])
        self.step = state["step"]

    def _save(self, file: Path) -> None:
        """Write the file, whole or not at all."""
        state: dict[str, Any] = {
            "step": self.step,
            "head": self._head.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "problems": dict(self._problems.reasons),
        }
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_name(file.name + ".partial")
        torch.save({"identity": self._identity, "state": state}, partial)
        os.replace(partial, file)

    def train(self, batches: Iterable[TrainBatch], progress: Progress) -> None:
        """Train to the protocol's last step on the batches of all steps from `step` on."""
        p = self._parameters
        self._head.train()
        saved = time.monotonic()
        for features, labels in batches:
            for group in self._optimizer.param_groups:
                group["lr"] = learning_rate_at(self.step, p)
            self._optimizer.zero_grad(set_to_none=True)
            backward_pixel_loss(self._head(features), labels, p.ignore_index)
            self._optimizer.step()
            self.step += 1
            is_due = self.step == p.iterations or time.monotonic() - saved >= CHECKPOINT_SECONDS
            if self._file is not None and is_due:
                self._save(self._file)
                saved = time.monotonic()
            progress("linear-seg head", self.step, p.iterations)
