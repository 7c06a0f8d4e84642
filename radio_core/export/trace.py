"""From a network to a graph for any batch size and any image size."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx import Node

from radio_core.export.resize import ExportableResize
from radio_core.export.subject import INPUT, Subject, example_images


def trace(subject: Subject) -> ExportedProgram:
    """The graph of a network, in which batch size, height and width vary as its card allows.

    Args:
        subject: as `Subject.prepared` returns it.

    Raises:
        ValueError: the network decides by its sizes what it does, so that no graph has it all.
    """
    card = subject.card
    shapes: dict[int, Any] = {0: Dim("batch", min=1)}
    module: nn.Module = subject.module
    if card.fixed_size is None:
        step = card.resolution_step
        shapes |= {2: step * Dim("rows", min=1), 3: step * Dim("cols", min=1)}
        module = _WholeSteps(module, step)
    try:
        with torch.no_grad(), ExportableResize():
            program = torch.export.export(
                module, (example_images(card),), dynamic_shapes={INPUT: shapes}
            )
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().partition("\n")[0]
        advice = (
            "export it for one size (--size HEIGHTxWIDTH)"
            if card.fixed_size is None
            else "torch.export does not understand it"
        )
        raise ValueError(
            f"{card.name or 'the model'} cannot be exported: {advice}: {reason}"
        ) from error
    if module is not subject.module:
        _drop_slices(program)
    program.example_inputs = None  # a package would keep them
    return program


class _WholeSteps(nn.Module):
    """Says in a way that torch can calculate with that image sides are multiples of a step.

    Torch knows it of the input only when the graph is done. Until then every size inside would be
    a nest of divisions with remainder, which takes minutes to reason about; of the slices here it
    is plain. They change nothing, and are dropped from the finished graph.
    """

    def __init__(self, module: nn.Module, step: int) -> None:
        super().__init__()
        self.module = module
        self.step = step

    def forward(self, images: Tensor) -> Any:
        height, width = (side // self.step * self.step for side in images.shape[-2:])
        return self.module(images[:, :, :height, :width])


def _drop_slices(program: ExportedProgram) -> None:
    """Let the graph take the input itself where it takes the slices of `_WholeSteps`."""
    graph = program.graph
    images = next(node for node in graph.nodes if node.op == "placeholder" and node.name == INPUT)
    slices: list[Node] = []
    node = images
    while found := [user for user in node.users if user.target == torch.ops.aten.slice.Tensor]:
        (node,) = found
        slices.append(node)
    if not slices:
        return
    node.replace_all_uses_with(images)
    for node in reversed(slices):
        graph.erase_node(node)
    program.graph_module.recompile()
