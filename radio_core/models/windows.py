"""Windowed attention as in ViTDet: which layers are windowed, and the order of the patches."""

from dataclasses import dataclass

from torch import Tensor

DEFAULT_NUM_GLOBAL = 4


def window_schedule(
    depth: int, num_windowed: int | None = None, num_global: int | None = None
) -> list[bool]:
    """Which of `depth` layers attend inside windows (True) and which globally (False).

    Layers come in periods: windowed layers, then one global layer. The last layer is global.

    Args:
        depth: number of layers.
        num_windowed: windowed layers in each period; wins over `num_global`.
        num_global: number of periods, 4 when both are None. A depth below twice this number, or
            `num_windowed` 0, leaves a period of one layer: then every layer is global.

    Returns:
        One bool a layer, e.g. depth 8 and num_windowed 2: WWG WWG WG.
    """
    if num_windowed is not None:
        period = num_windowed + 1
    else:
        period = max(depth // (num_global or DEFAULT_NUM_GLOBAL), 1)
    return [i < depth - 1 and i % period != period - 1 for i in range(depth)]


@dataclass(frozen=True)
class WindowGrid:
    """A map of rows x cols patches cut into windows of side `window_size` patches.

    Both sides are multiples of `window_size`.
    """

    rows: int
    cols: int
    window_size: int

    def to_window_order(self, patches: Tensor) -> Tensor:
        """Row-major patches [B, rows*cols, C] to window order (window by window), same shape."""
        batch, _, width = patches.shape
        side = self.window_size
        x = patches.reshape(batch, self.rows // side, side, self.cols // side, side, width)
        return x.transpose(2, 3).reshape(batch, self.rows * self.cols, width)

    def to_row_major(self, patches: Tensor) -> Tensor:
        """Patches in window order [B, rows*cols, C] back to row-major order, same shape."""
        batch, _, width = patches.shape
        side = self.window_size
        x = patches.reshape(batch, self.rows // side, self.cols // side, side, side, width)
        return x.transpose(2, 3).reshape(batch, self.rows * self.cols, width)

    def cut(self, patches: Tensor) -> Tensor:
        """Patches in window order [B, rows*cols, C] to windows [B * windows, window_size**2, C]."""
        return patches.reshape(-1, self.window_size**2, patches.shape[-1])

    def join(self, windows: Tensor) -> Tensor:
        """Windows [B * windows, window_size**2, C] to patches [B, rows*cols, C] in window order."""
        return windows.reshape(-1, self.rows * self.cols, windows.shape[-1])
