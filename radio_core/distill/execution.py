"""How networks are executed: in bfloat16, recomputed, compiled, or sharded (FSDP2)."""

import contextlib
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from radio_core.distill.config import TrainConfig
from radio_core.models.radio import RadioModel
from radio_core.processes import Processes


def autocast(config: TrainConfig, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """The precision of a config, for the student and for teachers that run beside it."""
    if config.precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


def set_up_student(student: RadioModel, config: TrainConfig, ranks: Processes) -> None:
    """Apply activation_checkpointing, compile and parallel of a config, in place.

    Raises:
        ValueError: the student cannot be executed so.
    """
    if config.activation_checkpointing:
        student.backbone.checkpoint_activations()
    if config.compile:
        for unit in student.backbone.units():
            unit.compile()
    if config.parallel == "fsdp":
        if ranks.size == 1:
            raise ValueError(
                "parallel fsdp needs several processes: start them with torchrun "
                "--nproc-per-node N -m radio_core.cli train ..."
            )
        shard_student(student, ranks)


def shard_student(student: RadioModel, ranks: Processes) -> None:
    """Shard the weights in place: each block of the backbone by itself, then the rest.

    Their gradients are then the mean over the processes, and every process must run the same
    number of forward and backward passes.
    """
    device = next(student.parameters()).device
    mesh = init_device_mesh(device.type, (ranks.size,))
    for unit in student.backbone.units():
        fully_shard(unit, mesh=mesh)
    fully_shard(student, mesh=mesh)


def touch_heads(student: RadioModel) -> Tensor:
    """Zero, with a zero gradient for every head.

    What is sharded together is reduced together, so each process must have the same gradients:
    also those of heads whose teachers it does not run.
    """
    values = [parameter.sum() for parameter in student.adaptors.parameters()]
    return 0 * torch.stack(values).sum()


def forget_heads(student: RadioModel, used: Collection[str]) -> None:
    """Drop the gradients of heads whose teachers no process ran, so that they stay as they are."""
    for name, adaptor in student.adaptors.items():
        if name not in used:
            for parameter in adaptor.parameters():
                parameter.grad = None


def idle_pass(student: RadioModel, side: int) -> Tensor:
    """A forward pass without meaning, for a process that has fewer samples than others: zero.

    Args:
        student: sharded.
        side: of the image in pixels, one that the student takes.
    """
    weight = next(student.parameters())
    images = torch.zeros(1, 3, side, side, device=weight.device)
    features: Tensor = student(images, "NCHW", (), 0).features
    return 0 * features.sum()
