"""The gradient of a step: summed over micro-batches and processes, clipped, applied.

Every backward pass is weighted with its share of the step, so the gradient of the step is a plain
sum. Torch's DistributedDataParallel would not give it: it averages over processes rather than over
samples, synchronises at every backward pass, and needs to search each time for the heads that a
process did not use. One sum after the last backward pass is exact in all of these cases; what it
gives up is talking while computing.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from radio_core.distill.distributed import whole
from radio_core.processes import Processes


class Gradients:
    """The gradients of a model's parameters in this process.

    Args:
        model: whose parameters are trained, the same in every process; perhaps partly sharded.
        ranks: the processes.
    """

    def __init__(self, model: nn.Module, ranks: Processes) -> None:
        self.ranks = ranks
        parameters = [p for p in model.parameters() if p.requires_grad]
        self._sharded = [p for p in parameters if isinstance(p, DTensor)]
        self._plain = [p for p in parameters if not isinstance(p, DTensor)]

    @property
    def sharded(self) -> bool:
        """Whether parameters are sharded over the processes."""
        return bool(self._sharded)

    def clear(self) -> None:
        """Forget the gradients of the last step."""
        for parameter in (*self._plain, *self._sharded):
            parameter.grad = None

    def add(self, loss: Tensor) -> None:
        """Add the gradient of a weighted loss (a scalar)."""
        # Sharded parameters average over the processes by themselves; a step needs the sum.
        (loss * self.ranks.size if self.sharded else loss).backward()

    def reduce(self) -> None:
        """Make the gradients of all processes their sum.

        A parameter that no process used keeps no gradient, so that the optimizer leaves it alone.
        """
        if self.ranks.size == 1:
            return
        mine = [parameter.grad is not None for parameter in self._plain]
        used = [any(votes) for votes in zip(*self.ranks.gather(mine), strict=True)]
        gradients = []
        for parameter, is_used in zip(self._plain, used, strict=True):
            if is_used and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            if parameter.grad is not None:
                gradients.append(parameter.grad)
        self.ranks.sum(gradients)
        if self.sharded:  # `add` has multiplied these, too, by the number of processes
            for gradient in gradients:
                gradient /= self.ranks.size

    def clip(self, most: float) -> bool:
        """Scale the gradients to a norm of at most `most`; False, and nothing done, if the norm
        is not finite."""
        parts = [parameters for parameters in (self._plain, self._sharded) if parameters]
        norms = [whole(_norm(parameters)) for parameters in parts]
        norm = torch.linalg.vector_norm(torch.stack(norms)) if len(norms) > 1 else norms[0]
        if not torch.isfinite(norm):
            return False
        for parameters in parts:
            torch.nn.utils.clip_grads_with_norm_(parameters, most, norm)
        return True


def _norm(parameters: Sequence[Tensor]) -> Tensor:
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm: Tensor = torch.nn.utils.get_total_norm(gradients)
    return norm
