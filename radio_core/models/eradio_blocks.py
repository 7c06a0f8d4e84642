"""The parts of E-RADIO: convolutions with BatchNorm, and attention in windows of a map.

Maps are [B, C, H, W], in memory plain or channels last, as the images are.
"""

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from radio_core.models.block import Attention, Mlp, WindowGrid
from radio_core.vision import any_size

if TYPE_CHECKING:
    from radio_core.models.eradio import ERadioConfig

COORDINATE_RANGE = 8  # largest relative coordinate, whatever the window size
MAX_BIAS = 16


class ConvBN(nn.Module):
    """A convolution and its BatchNorm, which `fold` merges."""

    def __init__(
        self, in_dim: int, out_dim: int, kernel_size: int, *, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__()
        padding = kernel_size // 2
        self.conv = nn.Conv2d(
            in_dim, out_dim, kernel_size, stride, padding, groups=groups, bias=False
        )
        self.bn: nn.Module = nn.BatchNorm2d(out_dim)

    def forward(self, x: Tensor) -> Tensor:
        """[B, in_dim, H, W] to [B, out_dim, H / stride, W / stride]."""
        conv = self.conv
        out: Tensor = self.bn(_as_product(conv, x) if _weight_dominates(conv, x) else conv(x))
        return out

    def fold(self) -> None:
        """Merge the BatchNorm (its statistics, not the batch's) into the convolution."""
        if isinstance(self.bn, nn.BatchNorm2d):
            self.conv = fuse_conv_bn_eval(self.conv, self.bn)
            self.bn = nn.Identity()


def _weight_dominates(conv: nn.Conv2d, x: Tensor) -> bool:
    """The weight is far larger than all patches of the map, and x is on a CPU.

    There a convolution rearranges its weight on every call, which then costs more than cutting
    the patches out: 77 ms against 60 for 1536 channels at 16 x 16 cells.
    """
    if torch.compiler.is_compiling() or x.device.type != "cpu" or conv.groups != 1:
        return False
    cells = x.shape[0] * x.shape[2] * x.shape[3] // conv.stride[0] ** 2
    return conv.out_channels > 2 * cells


def _as_product(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """The same convolution as one matrix product on the patches of the map."""
    rows, cols = (-(-side // conv.stride[0]) for side in x.shape[2:])
    padding = conv.kernel_size[0] // 2
    patches = F.unfold(x, conv.kernel_size, padding=padding, stride=conv.stride)
    out: Tensor = conv.weight.flatten(1) @ patches
    if conv.bias is not None:
        out = out + conv.bias[:, None]
    return out.reshape(x.shape[0], conv.out_channels, rows, cols)


class ConvUnit(ConvBN):
    """A ConvBN followed by SiLU."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, in_dim, H, W] to [B, out_dim, H / stride, W / stride]."""
        return F.silu(super().forward(x))


class Bottleneck(nn.Module):
    """Two 3x3 convolutions, added to their input."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.cv1 = ConvUnit(dim, dim, 3)
        self.cv2 = ConvUnit(dim, dim, 3)

    def forward(self, x: Tensor) -> Tensor:
        """[B, dim, H, W] to the same shape."""
        out: Tensor = x + self.cv2(self.cv1(x))
        return out


class ConvBlocks(nn.Module):
    """A cross-stage unit: half of the channels passes a chain of bottlenecks, all are joined."""

    def __init__(self, dim: int, depth: int) -> None:
        super().__init__()
        half = dim // 2
        self.cv1 = ConvUnit(dim, 2 * half, 1)
        self.cv2 = ConvUnit((2 + depth) * half, dim, 1)
        self.m = nn.ModuleList(Bottleneck(half) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        """[B, dim, H, W] to the same shape."""
        maps = list(self.cv1(x).chunk(2, dim=1))
        for bottleneck in self.m:
            maps.append(bottleneck(maps[-1]))
        out: Tensor = self.cv2(torch.cat(maps, dim=1))
        return out


class RelativeBias(nn.Module):
    """The additive attention bias of a window, computed from the distance of two cells."""

    def __init__(self, num_heads: int, window_size: int, hidden_dim: int) -> None:
        super().__init__()
        # Distances stay in the unit of the window that the weights were trained with.
        self.trained_window_size = window_size
        self.cpb_mlp = nn.Sequential(
            nn.Linear(2, hidden_dim), nn.ReLU(), nn.Linear(hidden_dim, num_heads, bias=False)
        )
        self.frozen: Tensor | None
        self.register_buffer("frozen", None, persistent=False)

    def forward(self, window_size: int) -> Tensor:
        """The bias [1, heads, window_size**2, window_size**2] of (query, key), row-major cells."""
        return self.compute(window_size) if self.frozen is None else self.frozen

    def freeze(self, window_size: int) -> None:
        """From now on return the present bias for this window size."""
        self.frozen = self.compute(window_size).detach()

    def compute(self, window_size: int) -> Tensor:
        """The bias of the present weights, shaped as in `forward`."""
        weight = next(self.cpb_mlp.parameters())
        offsets = torch.arange(1 - window_size, window_size, device=weight.device)
        scaled = offsets.float() * (COORDINATE_RANGE / (self.trained_window_size - 1))
        axis = scaled.sign() * (scaled.abs() + 1).log2() / math.log2(COORDINATE_RANGE)
        table = torch.cartesian_prod(axis, axis)  # [offsets, 2], row then column
        by_offset = MAX_BIAS * self.cpb_mlp(table.to(weight.dtype)).sigmoid()
        cells = torch.arange(window_size, device=weight.device)
        shift = cells[:, None] - cells + window_size - 1  # [s, s] of (query, key) on one axis
        rows, cols = shift[:, None, :, None], shift[None, :, None, :]
        index = (rows * (2 * window_size - 1) + cols).flatten()
        # Selecting columns is several times faster than indexing by rows and cols.
        bias: Tensor = by_offset.t().contiguous().index_select(1, index)  # [heads, s**4]
        return bias.view(1, -1, window_size**2, window_size**2)


class WindowAttention(Attention):
    """Attention inside windows without biases of the layers; its mask is `pos_emb_funct`'s."""

    def __init__(self, dim: int, num_heads: int, window_size: int, cpb_hidden_dim: int) -> None:
        super().__init__(dim, num_heads, qkv_bias=False, proj_bias=False)
        self.pos_emb_funct = RelativeBias(num_heads, window_size, cpb_hidden_dim)


class AttentionBlock(nn.Module):
    """A transformer block on the windows of a map that is smaller by a factor, then averaged
    with its input.

    Args:
        config: of the whole backbone.
        level: 2 or 3.
        ratio: the factor; at 1 a convolution, added to its input, comes first.
    """

    def __init__(self, config: "ERadioConfig", level: int, ratio: int) -> None:
        super().__init__()
        width = config.width(level)
        self.pre_conv: nn.Module | None = None
        self.downsample_op: nn.Module = nn.Identity()
        self.downsample_mixer: nn.Module = nn.Identity()
        self.upsample: nn.Module = nn.Identity()
        self.upsample_op: nn.Module = nn.Identity()
        if ratio == 1:
            groups = config.conv_groups(level)
            no_conv = config.conv_groups_ratio < 0
            self.pre_conv = nn.Identity() if no_conv else ConvBN(width, width, 3, groups=groups)
        elif config.conv_base:
            self.downsample_op = nn.Conv2d(width, width, ratio, stride=ratio)
            self.upsample_op = nn.ConvTranspose2d(width, width, ratio, stride=ratio)
        else:
            self.downsample_op = nn.AvgPool2d(ratio)
            self.downsample_mixer = ConvBN(width, width, 1)
            self.upsample = nn.Upsample(scale_factor=ratio, mode="nearest")
            self.upsample_op = ConvBN(width, width, 1)
        self.norm1 = nn.LayerNorm(width)
        self.attn = WindowAttention(
            width, config.num_heads[level], config.window_size(level), config.cpb_mlp_hidden
        )
        self.norm2 = nn.LayerNorm(width)
        self.mlp = Mlp(width, 4 * width, bias=False)
        self.gamma1: nn.Parameter | None = None
        self.gamma2: nn.Parameter | None = None
        if config.layer_scale is not None:
            self.gamma1 = nn.Parameter(torch.full((width,), config.layer_scale))
            self.gamma2 = nn.Parameter(torch.full((width,), config.layer_scale))

    def forward(self, x: Tensor, window_size: int) -> Tensor:
        """[B, C, H, W] to the same shape; both sides multiples of window_size * ratio cells."""
        shortcut = x
        layout = torch.contiguous_format if x.is_contiguous() else torch.channels_last
        if self.pre_conv is not None:
            x = self.pre_conv(x) + x
        x = self.downsample_mixer(self.downsample_op(x))
        size = (x.shape[2], x.shape[3])
        windows = WindowGrid(*size, window_size)
        tokens = windows.cut(windows.to_window_order(x.flatten(2).transpose(1, 2)))
        bias = self.attn.pos_emb_funct(window_size)
        tokens = tokens + _scaled(self.attn(self.norm1(tokens), bias), self.gamma1)
        tokens = tokens + _scaled(self.mlp(self.norm2(tokens)), self.gamma2)
        x = windows.to_row_major(windows.join(tokens)).transpose(1, 2).unflatten(2, size)
        # Tokens are channels last; the convolutions of a plain model are slower on such maps.
        x = x.contiguous(memory_format=layout)
        x = self.upsample_op(self.upsample(x))
        return 0.5 * (x + shortcut)


def _scaled(x: Tensor, gamma: Tensor | None) -> Tensor:
    return x if gamma is None else x * gamma


class AttentionGroup(nn.Module):
    """One attention block for each ratio of the level, in sequence."""

    def __init__(self, config: "ERadioConfig", level: int) -> None:
        super().__init__()
        self.attention_blocks = nn.ModuleList(
            AttentionBlock(config, level, ratio) for ratio in config.ratios(level)
        )

    def forward(self, x: Tensor, window_size: int) -> Tensor:
        """[B, C, H, W] to the same shape."""
        for block in self.attention_blocks:
            x = block(x, window_size)
        return x


class AttentionBlocks(nn.ModuleList):
    """The groups of an attention level; a map that windows do not fit is resized meanwhile.

    Attributes:
        window_size: side of the windows in cells; may be changed.
    """

    def __init__(self, config: "ERadioConfig", level: int) -> None:
        super().__init__(AttentionGroup(config, level) for _ in range(config.depths[level]))
        self.window_size = config.window_size(level)
        self.max_ratio = max(config.ratios(level))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to the same shape."""
        step = self.window_size * self.max_ratio
        size = (x.shape[2], x.shape[3])
        fitting = tuple((side + step - 1) // step * step for side in size)
        fits = not any_size(*size) and fitting == size
        if not fits:
            x = F.interpolate(x, fitting, mode="nearest")
        for group in self:
            x = group(x, self.window_size)
        return x if fits else F.interpolate(x, size, mode="nearest")

    def freeze_biases(self) -> None:
        """Keep the relative position biases of the present window size instead of recomputing."""
        for module in self.modules():
            if isinstance(module, RelativeBias):
                module.freeze(self.window_size)
