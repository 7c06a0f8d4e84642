"""What the three trainings share: schedule, averaging of weights, progress."""

import math
import time
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn


def sincos_grid(rows: int, width: int) -> Tensor:
    """Fixed 2-D sine-cosine positions [rows*rows, width], the initialisation that learns fast."""
    axis = torch.arange(rows, dtype=torch.float32)
    quarter = width // 4
    omega = 1.0 / (100.0 ** (torch.arange(quarter) / quarter))
    angles = axis[:, None] * omega[None]
    waves = torch.cat([angles.sin(), angles.cos()], dim=1)
    y = waves[:, None].expand(rows, rows, 2 * quarter)
    x = waves[None].expand(rows, rows, 2 * quarter)
    grid = torch.cat([y, x], dim=2).reshape(rows * rows, 4 * quarter)
    return nn.functional.pad(grid, (0, width - 4 * quarter))


def adamw(module: nn.Module, lr: float, weight_decay: float = 0.05) -> torch.optim.AdamW:
    """AdamW without decay on vectors and biases."""
    matrices = [p for p in module.parameters() if p.requires_grad and p.ndim > 1]
    vectors = [p for p in module.parameters() if p.requires_grad and p.ndim <= 1]
    groups: list[dict[str, Any]] = [
        {"params": matrices},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=lr, weight_decay=weight_decay, betas=(0.9, 0.98))


class Progress:
    """Cosine schedule with warm-up that follows steps, and a line of the losses now and then."""

    def __init__(self, optimizer: torch.optim.Optimizer, lr: float, steps: int) -> None:
        self.optimizer, self.lr, self.steps = optimizer, lr, steps
        self.started = time.monotonic()

    def __iter__(self) -> Iterator[float]:
        """Yield the fraction done, 0 … 1, once a step."""
        warmup = max(self.steps // 25, 1)
        for step in range(self.steps):
            decay = 0.5 * (1 + math.cos(math.pi * step / self.steps))
            for group in self.optimizer.param_groups:
                group["lr"] = self.lr * min((step + 1) / warmup, 1.0) * max(decay, 0.01)
            self.step = step
            yield step / self.steps

    def update(self, loss: Tensor, parts: Mapping[str, float], every: int = 100) -> None:
        """Back-propagate, clip, step, report."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        params = [p for group in self.optimizer.param_groups for p in group["params"]]
        nn.utils.clip_grad_norm_(params, 1.0)
        self.optimizer.step()
        if self.step % every == 0 or self.step == self.steps - 1:
            line = "  ".join(f"{name} {value:.3f}" for name, value in parts.items())
            minutes = (time.monotonic() - self.started) / 60
            print(f"step {self.step}/{self.steps}  {minutes:.1f} min  {line}", flush=True)
