"""From a network to a graph for any batch size and any image size, in terms all runtimes share."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.overrides import TorchFunctionMode

from radio_core.export.exportable import Exportable

INPUT = "images"
"""Name of the input of every graph."""

_LARGE_SIDES = (5000, 7000)
_CUBIC = -0.5  # of the kernel that torch (as Pillow) uses with antialiasing


def trace(exportable: Exportable) -> ExportedProgram:
    """The graph of a prepared network, in which batch size, height and width vary as its card
    allows.

    ValueError if the network decides by its sizes what it does, so that no graph has it all.
    """
    card, module = exportable.card, exportable.module
    shapes: dict[int, Any] = {0: Dim("batch", min=1)}
    # Nobody reads the example's values. Its sides are so large, and so unlike, that nothing fits
    # by accident (a map into one window, for example): torch would take that for a property of all.
    sides = card.fixed_size
    if sides is None:
        step = card.resolution_step
        shapes |= {2: step * Dim("rows", min=1), 3: step * Dim("cols", min=1)}
        module = _WholeSteps(module, step)
        height, width = (-(-side // step) * step for side in _LARGE_SIDES)
        sides = (height, width)
    try:
        with torch.no_grad(), ExportableResize():
            program = torch.export.export(
                module, (torch.empty(2, 3, *sides),), dynamic_shapes={INPUT: shapes}
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
    if module is not exportable.module:
        _drop_slices(program)
    program.example_inputs = None  # a package would keep them
    return program


class _WholeSteps(nn.Module):
    """Tells torch, in a way that it can calculate with, that image sides are multiples of a step.

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
    slices = [images]
    while found := [u for u in slices[-1].users if u.target == torch.ops.aten.slice.Tensor]:
        slices += found
    if len(slices) > 1:
        slices[-1].replace_all_uses_with(images)
        for node in reversed(slices[1:]):
            graph.erase_node(node)
        program.graph_module.recompile()


class ExportableResize(TorchFunctionMode):
    """While active, `F.interpolate` avoids what other runtimes cannot do; the results stay.

    They disagree about nearest neighbours for sizes that are only known when the graph runs, and
    TensorRT has no antialiasing.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.interpolate:
            return _interpolate(*args, **kwargs)
        return func(*args, **kwargs)


def _interpolate(input: Tensor, size: Any = None, *args: Any, **kwargs: Any) -> Tensor:
    mode = kwargs.get("mode", "nearest")
    if args or size is None or input.ndim != 4:
        return F.interpolate(input, size, *args, **kwargs)
    rows, cols = (size, size) if isinstance(size, int) else size
    if mode == "nearest":
        return nearest(input, rows, cols)
    if kwargs.get("antialias") and mode in _KERNELS and not kwargs.get("align_corners"):
        return antialiased(input, rows, cols, mode)
    return F.interpolate(input, size, **kwargs)


def nearest(x: Tensor, rows: int, cols: int) -> Tensor:
    """`F.interpolate(x, (rows, cols), mode="nearest")` of a map [B, C, h, w], by selection."""
    for dim, length in ((2, rows), (3, cols)):
        cells = torch.arange(length, device=x.device).float()
        x = x.index_select(dim, (cells * (x.shape[dim] / length)).long())
    return x


def antialiased(x: Tensor, rows: int, cols: int, mode: str) -> Tensor:
    """`F.interpolate(x, (rows, cols), mode=mode, antialias=True)` of [B, C, h, w], by products."""
    down = _weights(x.shape[2], rows, mode, x.device).to(x.dtype)  # [rows, h]
    right = _weights(x.shape[3], cols, mode, x.device).to(x.dtype)  # [cols, w]
    return down @ (x @ right.t())


def _weights(source: int, target: int, mode: str, device: torch.device) -> Tensor:
    """The share [target, source] that each cell of a source line has in each of the target."""
    support, kernel = _KERNELS[mode]
    scale = torch.ones(1, device=device) * (source / target)
    centres = (torch.arange(target, device=device).float() + 0.5) * scale
    cells = torch.arange(source, device=device).float() + 0.5
    distance = (cells - centres[:, None]).abs() / scale.clamp(min=1)
    shares = torch.where(distance < support, kernel(distance), torch.zeros_like(distance))
    return shares / shares.sum(dim=1, keepdim=True)


def _keys(x: Tensor) -> Tensor:
    """The cubic kernel of Keys at distances x from 0 to 2."""
    near = ((_CUBIC + 2) * x - (_CUBIC + 3)) * x * x + 1
    far = ((_CUBIC * x - 5 * _CUBIC) * x + 8 * _CUBIC) * x - 4 * _CUBIC
    return torch.where(x < 1, near, far)


_KERNELS: dict[str, tuple[int, Callable[[Tensor], Tensor]]] = {
    "bilinear": (1, lambda x: 1 - x),
    "bicubic": (2, _keys),
}
"""Mode -> (reach of its kernel in cells, the kernel at distances below it)."""
