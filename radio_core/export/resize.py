"""Resizing written so that every runtime computes what torch computes.

Runtimes disagree about nearest neighbours for sizes that are only known when the graph runs, and
TensorRT has no antialiasing. Both are put differently here, for the time of an export.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

_CUBIC = -0.5  # of the kernel that torch (as Pillow) uses with antialiasing


class ExportableResize(TorchFunctionMode):
    """While active, `F.interpolate` avoids what other runtimes cannot do; the results stay."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Replace the calls in question, and pass on all others."""
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


def _triangle(x: Tensor) -> Tensor:
    return 1 - x


def _keys(x: Tensor) -> Tensor:
    """The cubic kernel of Keys at distances x from 0 to 2."""
    near = ((_CUBIC + 2) * x - (_CUBIC + 3)) * x * x + 1
    far = ((_CUBIC * x - 5 * _CUBIC) * x + 8 * _CUBIC) * x - 4 * _CUBIC
    return torch.where(x < 1, near, far)


_KERNELS: dict[str, tuple[int, Callable[[Tensor], Tensor]]] = {
    "bilinear": (1, _triangle),
    "bicubic": (2, _keys),
}
"""Mode -> (reach of its kernel in cells, the kernel at distances below it)."""
