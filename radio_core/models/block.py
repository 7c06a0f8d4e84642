"""What transformers here are made of: pre-norm blocks, and windows as in ViTDet."""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FeedForward = Literal["mlp", "swiglu"]


class Attention(nn.Module):
    """Multi-head softmax attention of a sequence with itself."""

    def __init__(
        self, embed_dim: int, num_heads: int, qkv_bias: bool = True, proj_bias: bool = True
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(embed_dim, 3 * embed_dim, bias=qkv_bias)
        self.proj = nn.Linear(embed_dim, embed_dim, bias=proj_bias)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """[B, N, C] to [B, N, C]; `mask` is added to the scores, [1, heads, N, N]."""
        batch, length, width = x.shape
        qkv = self.qkv(x).reshape(batch, length, 3, self.num_heads, width // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each [B, heads, N, C / heads]
        mask = None if mask is None else mask.to(q.dtype)
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        out: Tensor = self.proj(x.transpose(1, 2).reshape(batch, length, width))
        return out


class Mlp(nn.Module):
    """Two linear layers with an exact GELU between."""

    def __init__(self, embed_dim: int, hidden_dim: int, bias: bool = True) -> None:
        super().__init__()
        self.fc1 = nn.Linear(embed_dim, hidden_dim, bias)
        self.fc2 = nn.Linear(hidden_dim, embed_dim, bias)

    def forward(self, x: Tensor) -> Tensor:
        """[..., C] to [..., C]."""
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out


class SwiGLU(nn.Module):
    """w3(silu(a) * b), where a and b are the halves of w12(x) (Shazeer 2020)."""

    def __init__(self, embed_dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.w12 = nn.Linear(embed_dim, 2 * hidden_dim)
        self.w3 = nn.Linear(hidden_dim, embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        """[..., C] to [..., C]."""
        gate, value = self.w12(x).chunk(2, dim=-1)
        out: Tensor = self.w3(F.silu(gate) * value)
        return out


def swiglu_hidden_dim(embed_dim: int, mlp_ratio: float) -> int:
    """DINOv2's width of a SwiGLU with about the weights of an MLP: a multiple of 8."""
    return (int(int(embed_dim * mlp_ratio) * 2 / 3) + 7) // 8 * 8


class LayerScale(nn.Module):
    """A learned factor per channel."""

    def __init__(self, embed_dim: int, init_value: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((embed_dim,), init_value))

    def forward(self, x: Tensor) -> Tensor:
        """[..., C] to [..., C]."""
        return x * self.gamma


class Block(nn.Module):
    """Pre-norm transformer block: attention, then feed-forward, each added to its input.

    Args:
        embed_dim: width of the tokens.
        num_heads: attention heads; divides embed_dim.
        mlp_ratio: hidden width of the MLP / embed_dim.
        ffn: "mlp" or "swiglu".
        init_values: initial LayerScale; None for no LayerScale.
        qkv_bias: give the projection to queries, keys and values a bias.
        eps: of both LayerNorms.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        *,
        ffn: FeedForward = "mlp",
        init_values: float | None = None,
        qkv_bias: bool = True,
        eps: float = 1e-6,
    ) -> None:
        super().__init__()
        scale = init_values
        self.norm1 = nn.LayerNorm(embed_dim, eps=eps)
        self.attn = Attention(embed_dim, num_heads, qkv_bias)
        self.ls1 = nn.Identity() if scale is None else LayerScale(embed_dim, scale)
        self.norm2 = nn.LayerNorm(embed_dim, eps=eps)
        self.mlp: Mlp | SwiGLU
        if ffn == "swiglu":
            self.mlp = SwiGLU(embed_dim, swiglu_hidden_dim(embed_dim, mlp_ratio))
        else:
            self.mlp = Mlp(embed_dim, int(embed_dim * mlp_ratio))
        self.ls2 = nn.Identity() if scale is None else LayerScale(embed_dim, scale)

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, C] to [B, N, C]."""
        x = x + self.ls1(self.attn(self.norm1(x)))
        x = x + self.ls2(self.mlp(self.norm2(x)))
        return x


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
