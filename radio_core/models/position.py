"""From pixels to tokens: stems, class tokens, and the learned grid of positions with CPE.

With Cropped Position Embedding each training sample sees a random crop of the grid, interpolated to
its own number of patches, so that the model learns to work at any resolution (paper section 3.3,
Kim et al. 2023).
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from radio_core.vision import any_size

if TYPE_CHECKING:
    from radio_core.models.vit import ViTConfig


class PatchEmbed(nn.Linear):
    """Cuts the image into patches and multiplies each, flattened (channel, row, column)."""

    def __init__(self, patch_size: int, embed_dim: int, bias: bool = False) -> None:
        super().__init__(3 * patch_size**2, embed_dim, bias)
        self.patch_size = patch_size

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] to row-major tokens [B, H/p * W/p, embed_dim]."""
        batch, channels, height, width = images.shape
        p = self.patch_size
        x = images.reshape(batch, channels, height // p, p, width // p, p)
        x = x.permute(0, 2, 4, 1, 3, 5).reshape(batch, -1, channels * p * p)
        return F.linear(x, self.weight, self.bias)


class ConvStem(nn.Module):
    """Halves the image log2(patch_size) times by 3x3 convolutions with BatchNorm and ReLU.

    A small student learns much faster behind it than behind `PatchEmbed`. The number of channels
    doubles from layer to layer up to `embed_dim`; a 1x1 convolution ends it.

    Raises:
        ValueError: patch_size is not a power of two, at least 2.
    """

    def __init__(self, patch_size: int, embed_dim: int) -> None:
        super().__init__()
        steps = patch_size.bit_length() - 1
        if steps < 1 or patch_size != 1 << steps:
            raise ValueError(f"a conv stem needs patch_size 2, 4, 8, 16, ..., not {patch_size}")
        layers: list[nn.Module] = []
        width = 3
        for step in range(steps):
            wider = max(embed_dim >> (steps - 1 - step), 8)
            layers += [
                nn.Conv2d(width, wider, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(wider),
                nn.ReLU(inplace=True),
            ]
            width = wider
        self.layers = nn.Sequential(*layers, nn.Conv2d(width, embed_dim, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] to row-major tokens [B, H/p * W/p, embed_dim]."""
        x: Tensor = self.layers(images)
        return x.flatten(2).transpose(1, 2)


_PART: ContextVar[tuple[int, int] | None] = ContextVar("part of a batch", default=None)


@contextmanager
def part_of_batch(first: int, whole: int) -> Iterator[None]:
    """Within this context, batches are the samples from `first` on of one with `whole` samples.

    Args:
        first: place of a forward pass's first sample in the whole batch.
        whole: samples of the whole batch.
    """
    token = _PART.set((first, whole))
    try:
        yield
    finally:
        _PART.reset(token)


def uniform(batch: int, *shape: int, device: torch.device) -> Tensor:
    """Uniform numbers in [0, 1) from torch's global generator, as [batch, *shape] float32."""
    first, whole = _PART.get() or (0, batch)
    assert first + batch <= whole, "the part lies within its batch"
    return torch.rand(whole, *shape, device=device)[first : first + batch]


Positions = Literal["cpe", "grid", "fixed", "dinov2"]
"""How the stored R x R grid serves an image of h x w patches.

- "cpe": random crops in training; in evaluation the grid is resized to max(h, w) squared, of which
  the top-left h x w is kept, so that the aspect of the field stays.
- "grid": the top-left corner, stretched only where the grid is too small.
- "fixed": R x R patches and nothing else (a plain ViT).
- "dinov2": resized to h x w by antialiased bicubic interpolation, as DINOv2 does.
"""

MIN_CROP_SIDE = math.sqrt(0.1)
MAX_LOG_ASPECT = math.log(4 / 3)


class PrefixTokens(nn.Module):
    """The learned rows put in front of the patches: class tokens, then registers."""

    def __init__(self, num_tokens: int, embed_dim: int) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.empty(num_tokens, embed_dim))
        if not self.token.is_meta:  # where drawing would import torch's compiler, for a second
            nn.init.normal_(self.token, std=embed_dim**-0.5)

    def forward(self, patches: Tensor) -> Tensor:
        """[B, N, C] to [B, num_tokens + N, C]."""
        return torch.cat([self.token.expand(patches.shape[0], -1, -1), patches], dim=1)


class PatchGenerator(nn.Module):
    """Pixels to the token sequence [class tokens | registers | patches + positions] of a ViT."""

    def __init__(self, config: "ViTConfig") -> None:
        super().__init__()
        self.config = config
        self.patch_size, self.grid_size = config.patch_size, config.grid_size
        width, prefix = config.embed_dim, config.num_prefix_tokens
        self.embedder: nn.Module
        if config.stem == "conv":
            self.embedder = ConvStem(config.patch_size, width)
        else:
            self.embedder = PatchEmbed(config.patch_size, width, config.patch_bias)
        self.pos_embed = nn.Parameter(torch.empty(1, self.grid_size**2, width))
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        self.cls_token = PrefixTokens(prefix, width) if prefix else None

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images [B, 3, H, W] to tokens [B, num_prefix_tokens + h*w, C]."""
        rows, cols = (side // self.patch_size for side in images.shape[-2:])
        patches: Tensor = self.embedder(images)
        tokens = patches + self.positions(images.shape[0], rows, cols)
        return tokens if self.cls_token is None else self.cls_token(tokens)

    def positions(self, batch: int, rows: int, cols: int) -> Tensor:
        """Positions of rows x cols patches: [1, rows*cols, C], or [B, rows*cols, C] in training.

        Training draws from torch's global random generator (see `sample_draws`).

        Raises:
            ValueError: another size than the grid's own with "fixed" positions.
        """
        if not any_size(rows, cols) and (rows, cols) == (self.grid_size, self.grid_size):
            positions: Tensor = self.pos_embed
        else:
            field = self.pos_embed.float().unflatten(1, (self.grid_size, self.grid_size))
            field = self._fitted(field.permute(0, 3, 1, 2), batch, rows, cols)
            positions = field.flatten(2).transpose(1, 2).to(self.pos_embed.dtype)
        if self.training and self.config.pos_dropout > 0:
            keep = uniform(batch, 1, 1, device=positions.device) > self.config.pos_dropout
            positions = torch.where(keep, positions, 0)
        return positions

    def _fitted(self, field: Tensor, batch: int, rows: int, cols: int) -> Tensor:
        """The grid [1, C, R, R] as [1 or B, C, rows, cols]."""
        if self.config.positions == "fixed":
            side = self.grid_size * self.patch_size
            raise ValueError(f"this model takes images of {side}x{side} pixels only")
        if self.config.positions == "dinov2":
            return F.interpolate(field, size=(rows, cols), mode="bicubic", antialias=True)
        if self.config.positions == "grid":
            return self._fit_top_left(field, rows, cols)
        if self.training:
            return _random_crops(field, batch, rows, cols)
        # A plain max would fix an exported graph to one of its cases.
        longest = cast(int, torch.sym_max(rows, cols))
        return _corner(self._resize(field, longest, longest), rows, cols)

    def _fit_top_left(self, field: Tensor, rows: int, cols: int) -> Tensor:
        """The top-left corner of the grid [1, C, R, R], stretched only where R is too small."""
        height = cast(int, torch.sym_min(rows, self.grid_size))
        width = cast(int, torch.sym_min(cols, self.grid_size))
        field = _corner(field, height, width)
        fits = not any_size(rows, cols) and field.shape[-2:] == (rows, cols)
        return field if fits else self._resize(field, rows, cols)

    def _resize(self, field: Tensor, rows: int, cols: int) -> Tensor:
        return F.interpolate(
            field, size=(rows, cols), mode="bilinear", align_corners=self.config.pos_align_corners
        )


def _corner(field: Tensor, rows: int, cols: int) -> Tensor:
    """The top-left corner of a map [1, C, R, R]: [1, C, rows, cols]."""
    if not any_size(rows, cols):
        return field[..., :rows, :cols]
    # A view's layout would depend on the sizes; torch would fix the graph to one of its cases.
    for dim, length in ((2, rows), (3, cols)):
        field = field.index_select(dim, torch.arange(length, device=field.device))
    return field


def _random_crops(field: Tensor, batch: int, rows: int, cols: int) -> Tensor:
    """One random window of the grid [1, C, R, R] for each sample, sampled to [B, C, rows, cols].

    The window's side is uniform in [sqrt(0.1), 1] of the grid, its aspect log-uniform in
    [3/4, 4/3], applied to both sides as the released models were trained.
    """
    device = field.device
    scale = MIN_CROP_SIDE + (1 - MIN_CROP_SIDE) * uniform(batch, device=device)
    aspect = (MAX_LOG_ASPECT * (2 * uniform(batch, device=device) - 1)).exp()
    extent = torch.stack([scale * aspect, scale / aspect], dim=1).clamp(max=1)  # [B, (x, y)]
    offset = uniform(batch, 2, device=device) * (1 - extent)
    x = torch.linspace(0, 1, cols, device=device) * extent[:, :1] + offset[:, :1]  # [B, cols]
    y = torch.linspace(0, 1, rows, device=device) * extent[:, 1:] + offset[:, 1:]  # [B, rows]
    points = torch.stack(
        [x[:, None, :].expand(-1, rows, -1), y[:, :, None].expand(-1, -1, cols)], dim=-1
    )
    # The samples are stacked along the rows of one picture: the grid is never copied per sample.
    points = points.reshape(1, batch * rows, cols, 2) * 2 - 1
    sampled = F.grid_sample(field, points, mode="bilinear", align_corners=True)
    return sampled.reshape(-1, batch, rows, cols).transpose(0, 1)
