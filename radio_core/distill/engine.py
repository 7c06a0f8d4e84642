"""How a step is executed: precision, FSDP2, gradients over micro-batches and processes, BatchNorm.

Every backward pass is weighted with its share of the step, so the gradient of a step is a plain
sum. Torch's DistributedDataParallel would not give it: it averages over processes rather than over
samples, synchronises at every backward pass, and needs to search each time for the heads that a
process did not use. One sum after the last backward pass is exact in all of these cases; what it
gives up is talking while computing.
"""

import contextlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from radio_core.distill.config import EngineConfig
from radio_core.models.radio import RadioModel
from radio_core.processes import Processes


def autocast(config: EngineConfig, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """The precision of a config, for the student and for teachers that run beside it."""
    if config.precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


def whole(tensor: Tensor) -> Tensor:
    """The whole of a tensor that may be sharded over the processes; all of them must call."""
    full: Tensor = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return full


def set_up_student(student: RadioModel, config: EngineConfig, processes: Processes) -> None:
    """Apply activation_checkpointing, compile and parallel of a config, in place.

    With "fsdp" each unit of the backbone is sharded by itself, then the rest. Their gradients are
    then the mean over the processes, and every process must run as many forward and backward
    passes.

    Raises:
        ValueError: the student cannot be executed so.
    """
    if config.activation_checkpointing:
        student.backbone.checkpoint_activations()
    if config.compile:
        for unit in student.backbone.units():
            unit.compile()
    if config.parallel == "fsdp":
        if processes.size == 1:
            raise ValueError(
                "parallel fsdp needs several processes: start them with torchrun "
                "--nproc-per-node N -m radio_core.cli train ..."
            )
        device = next(student.parameters()).device
        mesh = init_device_mesh(device.type, (processes.size,))
        for unit in (*student.backbone.units(), student):
            fully_shard(unit, mesh=mesh)


class Gradients:
    """The gradients of a student with its heads, and of what is trained beside it.

    Args:
        student: the same in every process; perhaps sharded.
        model: all that is trained, the student included.
        processes: that share a step.

    Attributes:
        sharded: parameters are sharded over the processes.
    """

    def __init__(self, student: RadioModel, model: nn.Module, processes: Processes) -> None:
        self._student, self._processes = student, processes
        parameters = [p for p in model.parameters() if p.requires_grad]
        self._sharded = [p for p in parameters if isinstance(p, DTensor)]
        self._plain = [p for p in parameters if not isinstance(p, DTensor)]
        self.sharded = bool(self._sharded)

    def clear(self) -> None:
        """Forget the gradients of the last step."""
        for parameter in (*self._plain, *self._sharded):
            parameter.grad = None

    def add(self, loss: Tensor) -> None:
        """Add the gradient of a weighted loss (a scalar)."""
        if self.sharded:
            # What is sharded together is reduced together, so that all need the same gradients:
            # also those of heads whose teachers this process does not run. It averages over the
            # processes by itself, but a step needs the sum.
            heads = [p.sum() for p in self._student.adaptors.parameters()]
            loss = (loss + 0 * torch.stack(heads).sum()) * self._processes.size
        loss.backward()

    def add_idle(self, side: int) -> None:
        """A pass without meaning, for a process that has fewer samples than others.

        Args:
            side: of the image in pixels, one that the student takes.
        """
        device = next(self._student.parameters()).device
        images = torch.zeros(1, 3, side, side, device=device)
        self.add(0 * self._student(images, "NCHW", (), 0).features.sum())

    def reduce(self, used: Collection[str]) -> None:
        """Make the gradients of all processes their sum.

        A parameter that no process used keeps no gradient, so that the optimizer leaves it alone.

        Args:
            used: teachers that any process has run.
        """
        if self._processes.size == 1:
            return
        mine = [parameter.grad is not None for parameter in self._plain]
        votes = zip(*self._processes.gather(mine), strict=True)
        gradients = []
        for parameter, is_used in zip(self._plain, map(any, votes), strict=True):
            if is_used and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            if parameter.grad is not None:
                gradients.append(parameter.grad)
        self._processes.sum(gradients)
        if self.sharded:  # `add` has multiplied these, too, by the number of processes
            for gradient in gradients:
                gradient /= self._processes.size
            for name, adaptor in self._student.adaptors.items():
                for parameter in adaptor.parameters() if name not in used else ():
                    parameter.grad = None

    def clip(self, most: float) -> bool:
        """Scale the gradients to a norm of at most `most`; False, and nothing done, if the norm
        is not finite."""
        parts = [parameters for parameters in (self._plain, self._sharded) if parameters]
        norms = [
            whole(torch.nn.utils.get_total_norm([p.grad for p in part if p.grad is not None]))
            for part in parts
        ]
        norm = torch.linalg.vector_norm(torch.stack(norms)) if len(norms) > 1 else norms[0]
        if not torch.isfinite(norm):
            return False
        for parameters in parts:
            torch.nn.utils.clip_grads_with_norm_(parameters, most, norm)
        return True


class RunningStatistics:
    """Moves the running statistics of BatchNorm once a step, by the mean over its micro-batches.

    Each micro-batch starts from the statistics before the step, so that their order does not
    matter. What normalises a sample in training is still its own micro-batch in its own process.

    Args:
        model: with any number of BatchNorm layers, or none.
        processes: that share a step.
    """

    def __init__(self, model: nn.Module, processes: Processes) -> None:
        self._processes = processes
        layers = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        pairs = [value for layer in layers for value in (layer.running_mean, layer.running_var)]
        self._values = [value for value in pairs if value is not None]
        self._counts = [c for layer in layers if (c := layer.num_batches_tracked) is not None]
        self.begin()

    def __bool__(self) -> bool:
        return bool(self._values)

    def begin(self) -> None:
        """A step begins."""
        self._before = [value.clone() for value in self._values]
        self._moves = [torch.zeros_like(value) for value in self._values]

    def add(self, weight: float) -> None:
        """A micro-batch has been run, with this weight in the step."""
        for value, before, move in zip(self._values, self._before, self._moves, strict=True):
            move += weight * (value - before)
            value.copy_(before)

    def end(self) -> None:
        """All micro-batches of the step have been run, in every process."""
        self._processes.sum(self._moves)
        for value, before, move in zip(self._values, self._before, self._moves, strict=True):
            value.copy_(before + move)
        for count in self._counts:
            count.zero_()  # it serves layers without momentum only, of which there are none


class WeightAverage:
    """avg <- d avg + (1 - d) w after each step, d = min(decay, (1 + n) / (10 + n)) at step n.

    The smaller d of the first steps lets the average forget the weights before training. Buffers
    are not averaged.

    Args:
        model: whose parameters are followed; perhaps sharded, then so is the average.
        decay: in (0, 1).

    Attributes:
        tensors: the averages by the parameters' names.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self._model = model
        self.tensors = {name: p.detach().clone() for name, p in model.named_parameters()}

    @torch.no_grad()
    def update(self, number: int) -> None:
        """Take over the weights after the optimizer step with this number, from 1."""
        decay = min(self.decay, (1 + number) / (10 + number))
        for name, parameter in self._model.named_parameters():
            self.tensors[name].lerp_(parameter.detach(), 1 - decay)

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over averages from a checkpoint, of the same names, shapes and sharding.

        Raises:
            ValueError: the names differ.
        """
        if tensors.keys() != self.tensors.keys():
            names = sorted(tensors.keys() ^ self.tensors.keys())
            raise ValueError(f"the moving average has other weights: {', '.join(names[:5])}")
        for name, value in tensors.items():
            self.tensors[name].copy_(value)


def build_optimizer(model: nn.Module, lr: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW; weight decay on matrices only, not on vectors and scalars of whatever shape."""
    groups: list[dict[str, Any]] = []
    for decays in (True, False):
        for sharded in (True, False):  # torch updates a group at once, which must be of one kind
            parameters: Sequence[Tensor] = [
                p
                for p in model.parameters()
                if p.requires_grad
                and (p.numel() > max(p.shape)) == decays
                and isinstance(p, DTensor) == sharded
            ]
            decay = weight_decay if decays else 0.0
            if parameters:
                groups.append({"params": parameters, "decays": decays, "weight_decay": decay})
    return torch.optim.AdamW(groups, lr=lr, weight_decay=weight_decay)
