"""The vision transformer of the student: configuration and architecture."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from radio_core.models.backbone import Backbone, BackboneConfig, TokenStates
from radio_core.models.block import (
    DEFAULT_NUM_GLOBAL,
    Block,
    FeedForward,
    WindowGrid,
    window_schedule,
)
from radio_core.models.position import PatchGenerator, Positions
from radio_core.vision import Output, Resolution, check_images

LAYER_NORM_EPS = 1e-6


@dataclass(frozen=True, kw_only=True)
class ViTConfig(BackboneConfig):
    """The shape of a vision transformer.

    Attributes:
        type: marks this kind of backbone in config.json.
        patch_size: side of a patch in pixels.
        embed_dim: width of the tokens.
        depth: number of blocks.
        num_heads: attention heads; divides embed_dim.
        mlp_ratio: hidden width of the MLP / embed_dim.
        ffn: "mlp", or the "swiglu" of DINOv2's giant (two thirds of the MLP's width).
        init_values: initial LayerScale; None for no LayerScale.
        num_cls_tokens: class tokens, one per teacher that has a summary.
        num_registers: further learned tokens that are never an output.
        grid_size: rows = columns of the learned position grid.
        positions: how the grid serves other sizes, see `position.Positions`; "cpe" is the paper's
            Cropped Position Embedding, "grid" its baseline (Table 5).
        pos_align_corners: resize the grid as the releases up to C-RADIOv3 were trained; the
            official code has since changed to False for all of them.
        pos_dropout: chance in training that a sample gets no positions.
        patch_bias: the patch embedding has a bias (DINOv2-style students).
        stem: "patch" (one matrix per patch) or "conv" (a small convolutional network).
        summary: "cls" (all class tokens), "first" (the first one alone), or "avg" (mean of the
            patch features instead, paper Table 6).
        feature_start: index of the first token that `forward` counts as a feature, where a
            released model does not cut at its first patch; its features are then no map.
        final_norm: LayerNorm after the last block.
        num_windowed: windowed layers between two global ones (windowed attention only).
        num_global: number of global layers, 4 when both are None (windowed attention only).
    """

    type: Literal["vit"] = "vit"
    patch_size: int
    embed_dim: int
    depth: int
    num_heads: int
    mlp_ratio: float = 4.0
    ffn: FeedForward = "mlp"
    init_values: float | None = None
    num_cls_tokens: int = 1
    num_registers: int = 0
    grid_size: int = 128
    positions: Positions = "cpe"
    pos_align_corners: bool = False
    pos_dropout: float = 0.1
    patch_bias: bool = False
    stem: Literal["patch", "conv"] = "patch"
    summary: Literal["cls", "first", "avg"] = "cls"
    feature_start: int | None = None
    final_norm: bool = False
    num_windowed: int | None = None
    num_global: int | None = None

    label = "ViT"
    supports_windows = True
    builds_on_meta = True

    def __post_init__(self) -> None:
        bounds = {"patch_size": 1024, "embed_dim": 65536, "depth": 1024, "num_heads": 1024}
        lowest = {"num_cls_tokens": 0, "num_registers": 0, "grid_size": 1, "num_windowed": 0}
        lowest |= {"feature_start": 0}
        for field in (*bounds, *lowest, "num_global"):
            value, low, high = getattr(self, field), lowest.get(field, 1), bounds.get(field, 2048)
            if value is not None and not (isinstance(value, int) and low <= value <= high):
                raise ValueError(f"{field} must be from {low} to {high}, not {value!r}")
        if self.embed_dim % self.num_heads:
            raise ValueError(
                f"embed_dim {self.embed_dim} is not a multiple of num_heads {self.num_heads}"
            )
        if not 0 < self.mlp_ratio <= 64 or not 0 <= self.pos_dropout < 1:
            raise ValueError("mlp_ratio must be in (0, 64] and pos_dropout in [0, 1)")
        if self.summary != "avg" and not self.num_cls_tokens:
            raise ValueError(
                f'summary "{self.summary}" needs num_cls_tokens of at least 1; or use "avg"'
            )

    @property
    def num_summary_tokens(self) -> int:
        """Summary tokens that the backbone returns."""
        return self.num_cls_tokens if self.summary == "cls" else 1

    @property
    def num_prefix_tokens(self) -> int:
        """Tokens in front of the patches: class tokens (unless averaging) and registers."""
        return self.num_registers + (0 if self.summary == "avg" else self.num_cls_tokens)

    @property
    def num_blocks(self) -> int:
        """The depth."""
        return self.depth

    @property
    def fixed_size(self) -> Resolution | None:
        """The size of the position grid, where its positions are fixed."""
        return Resolution(*2 * (self.max_resolution,)) if self.positions == "fixed" else None

    @property
    def max_resolution(self) -> int:
        """Side of the position grid in pixels."""
        return self.grid_size * self.patch_size

    def build(self) -> "VisionTransformer":
        """The network, with fresh weights."""
        return VisionTransformer(self)

    def with_summary_tokens(self, count: int) -> "ViTConfig":
        """The same with `count` class tokens, at least 1."""
        return self.with_fields(num_cls_tokens=max(count, 1))


_PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {"embed_dim": 128, "depth": 5, "num_heads": 2, "num_registers": 2}
    | {"patch_size": 8, "grid_size": 32, "stem": "conv", "num_windowed": 2},
    "small": {"embed_dim": 384, "depth": 12, "num_heads": 6},
    "base": {"embed_dim": 768, "depth": 12, "num_heads": 12},
    "large": {"embed_dim": 1024, "depth": 24, "num_heads": 16},
    "huge": {"embed_dim": 1280, "depth": 32, "num_heads": 16},
}
_GRID_PIXELS = 2048


def vit_config(preset: str, *, patch_size: int | None = None, **overrides: Any) -> ViTConfig:
    """The configuration of a usual size.

    Args:
        preset: "tiny" (toy world), "small", "base", "large" or "huge".
        patch_size: pixels; None for the preset's own (8 for tiny, 16 otherwise).
        overrides: any field of `ViTConfig`.

    Raises:
        ValueError: unknown preset, or values that do not fit together.
    """
    if preset not in _PRESETS:
        raise ValueError(f"unknown preset {preset!r}; known: {', '.join(_PRESETS)}")
    values = {"patch_size": 16, **_PRESETS[preset]}
    if patch_size is not None:
        values["patch_size"] = patch_size
    # The grid covers 2048 pixels (paper 3.3: 128 positions a side at patch 16).
    values.setdefault("grid_size", round(_GRID_PIXELS / values["patch_size"]))
    return ViTConfig(**{**values, **overrides})


def schedule_text(num_windowed: int | None, num_global: int | None) -> str:
    """Which layers stay global in windowed mode, for people."""
    if num_windowed is not None:
        return f"{num_windowed} per global"
    return f"{num_global or DEFAULT_NUM_GLOBAL} global"


class VisionTransformer(Backbone):
    """A ViT for any resolution, with several class tokens, registers and optional windows."""

    config: ViTConfig

    def __init__(self, config: ViTConfig) -> None:
        super().__init__(config)
        self.num_prefix_tokens = config.num_prefix_tokens
        self._recomputes_blocks = False
        width = config.embed_dim
        self.patch_generator = PatchGenerator(config)
        self.blocks = nn.ModuleList(
            Block(
                width,
                config.num_heads,
                config.mlp_ratio,
                ffn=config.ffn,
                init_values=config.init_values,
                eps=LAYER_NORM_EPS,
            )
            for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS) if config.final_norm else nn.Identity()
        self.blocks.apply(_init_linear)

    def forward(self, images: Tensor, window_size: int | None = None) -> Output:
        """Run on normalised images.

        Args:
            images: [B, 3, H, W], normalised.
            window_size: side in patches of the attention windows; None for global attention.

        Returns:
            Summary tokens [B, S, C] and features [B, C, H / patch_size, W / patch_size].

        Raises:
            ValueError: H or W is not a multiple of patch_size (times window_size).
        """
        states = self.run_blocks(images, window_size)
        return self.as_output(self.final_norm(states.final), states.grid)

    def final_norm(self, tokens: Tensor) -> Tensor:
        """The norm behind the last block, [B, prefix + h*w, C] to the same shape."""
        out: Tensor = self.norm(tokens)
        return out

    def units(self) -> list[nn.Module]:
        """The blocks."""
        return list(self.blocks)

    def checkpoint_activations(self) -> None:
        """Keep no activations inside the blocks for the backward pass; compute them again there."""
        self._recomputes_blocks = True

    def run_blocks(
        self,
        images: Tensor,
        window_size: int | None = None,
        *,
        collect: Sequence[int] = (),
        depth: int | None = None,
    ) -> TokenStates:
        """Token sequences after the blocks with the indices `collect` and after the last one.

        Args:
            images: [B, 3, H, W], normalised.
            window_size: as in `forward`.
            collect: block indices from 0.
            depth: run only this many blocks; None for all.
        """
        if window_size is not None and window_size < 1:
            raise ValueError(f"window_size must be at least 1 patch, not {window_size}")
        check_images(images, self.patch_size * (window_size or 1))
        rows, cols = (side // self.patch_size for side in images.shape[-2:])
        windows = None if window_size is None else WindowGrid(rows, cols, window_size)
        config = self.config
        schedule = window_schedule(config.depth, config.num_windowed, config.num_global)
        tokens = self.patch_generator(images)
        if windows is not None:
            tokens = self._map_patches(windows.to_window_order, tokens)
        prefix = None  # the prefix tokens while `tokens` is cut into windows, set aside unchanged
        collected = []
        for i, block in enumerate(self.blocks[:depth]):
            if windows is not None and schedule[i]:
                if prefix is None:
                    prefix, patches = self._split_prefix(tokens)
                    tokens = windows.cut(patches)
            elif windows is not None and prefix is not None:
                tokens, prefix = torch.cat([prefix, windows.join(tokens)], dim=1), None
            if self._recomputes_blocks and torch.is_grad_enabled():
                tokens = checkpoint(block, tokens, use_reentrant=False)
            else:
                tokens = block(tokens)
            if i in collect:
                collected.append(self._row_major(tokens, prefix, windows))
        return TokenStates(self._row_major(tokens, prefix, windows), collected, (rows, cols))

    def _row_major(
        self, tokens: Tensor, prefix: Tensor | None, windows: WindowGrid | None
    ) -> Tensor:
        """Tokens in the middle of a forward pass to [B, prefix + h*w, C], patches row-major."""
        if windows is None:
            return tokens
        if prefix is not None:
            tokens = torch.cat([prefix, windows.join(tokens)], dim=1)
        return self._map_patches(windows.to_row_major, tokens)

    def _map_patches(self, function: Callable[[Tensor], Tensor], tokens: Tensor) -> Tensor:
        prefix, patches = self._split_prefix(tokens)
        return torch.cat([prefix, function(patches)], dim=1)

    def _split_prefix(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """[B, prefix + N, C] to the prefix tokens and the patches."""
        return tokens[:, : self.num_prefix_tokens], tokens[:, self.num_prefix_tokens :]

    def as_output(self, tokens: Tensor, grid: tuple[int, int]) -> Output:
        """The tokens after the last block as what `forward` returns.

        Args:
            tokens: [B, prefix + h*w, C].
            grid: (h, w).

        Returns:
            Summary tokens [B, S, C] and features [B, C, h, w]; with a `feature_start`, the
            features are all tokens from there on, as [B, C, 1, N].
        """
        start = self.config.feature_start
        output = self.layer_output(tokens, grid)
        if self.config.summary == "first":
            output = output._replace(summary=tokens[:, :1])
        if start is not None:
            output = output._replace(features=tokens[:, start:].transpose(1, 2).unsqueeze(2))
        return output

    def layer_output(self, tokens: Tensor, grid: tuple[int, int]) -> Output:
        """The tokens after any block: all class tokens [B, S, C] and the patches [B, C, h, w].

        Args:
            tokens: [B, prefix + h*w, C].
            grid: (h, w).
        """
        prefix, patches = self._split_prefix(tokens)
        if self.config.summary == "avg":
            summary = patches.mean(dim=1, keepdim=True)
        else:
            summary = prefix[:, : self.config.num_cls_tokens]
        return Output(summary, patches.transpose(1, 2).unflatten(2, grid))


def _init_linear(module: nn.Module) -> None:
    if isinstance(module, nn.Linear) and not module.weight.is_meta:
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
