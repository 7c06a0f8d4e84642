"""E-RADIO, the efficient student: convolutions first, attention in windows on the small maps."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, NamedTuple

from torch import Tensor, nn

from radio_core.config_file import from_mapping
from radio_core.models.backbone import Backbone, BackboneConfig
from radio_core.models.eradio_blocks import AttentionBlocks, ConvBlocks, ConvBN
from radio_core.vision import Output, check_images

NUM_LEVELS = 4
FIRST_ATTENTION_LEVEL = 2
STEM_STRIDE = 4
MAX_WINDOW_SIZE = 64
MAX_FITTED_WINDOW = 16  # of the released E-RADIO
MAX_RATIO = 8


@dataclass(frozen=True, kw_only=True)
class ERadioConfig(BackboneConfig):
    """The shape of an E-RADIO: two convolutional levels, two of windowed attention, and a neck.

    Level i works at width dim * 2**i on a map with a cell of 4 * 2**i pixels.

    Attributes:
        type: marks this kind of backbone in config.json.
        dim: width of level 0; even.
        in_dim: width between the two convolutions of the stem.
        depths: bottlenecks of levels 0 and 1, block groups of levels 2 and 3.
        num_heads: attention heads of each level; levels 0 and 1 have no use for theirs.
        window_sizes: side of the attention windows of levels 2 and 3, in cells.
        sr_ratios: for levels 2 and 3, the attention blocks of one group: each attends on a map
            that is smaller by this factor. Every factor divides the largest of its level.
        conv_base: shrink and grow maps by learned strided convolutions; otherwise by average
            pooling and nearest upsampling, with a 1x1 convolution.
        conv_groups_ratio: groups of the convolution in front of a block at full size, as a share
            of its channels: 0 dense, 1 depthwise, -1 no such convolution.
        cpb_mlp_hidden: hidden width of the network that computes the relative position bias.
        full_features_head_dim: width of the features and of the summary.
        neck_start_stage: first level whose map goes into the features and gives them their size.
        layer_scale: initial factor of the attention and MLP branches; None for no factor.
    """

    type: Literal["eradio"] = "eradio"
    dim: int
    in_dim: int
    depths: tuple[int, int, int, int]
    num_heads: tuple[int, int, int, int] = (2, 4, 8, 16)
    window_sizes: tuple[int, int] = (16, 16)
    sr_ratios: tuple[tuple[int, ...], tuple[int, ...]] = ((2, 1), (1,))
    conv_base: bool = True
    conv_groups_ratio: float = 0.0
    cpb_mlp_hidden: int = 512
    full_features_head_dim: int
    neck_start_stage: int = 2
    layer_scale: float | None = None

    label = "E-RADIO"
    own_windows = True
    builds_on_meta = True

    def __post_init__(self) -> None:
        bounds: dict[str, tuple[int, int]] = {
            "dim": (2, 2048),
            "in_dim": (1, 4096),
            "depths": (1, 128),
            "num_heads": (1, 1024),
            "window_sizes": (2, MAX_WINDOW_SIZE),
            "cpb_mlp_hidden": (1, 16384),
            "full_features_head_dim": (1, 65536),
            "neck_start_stage": (1, NUM_LEVELS - 1),
        }
        for field, (low, high) in bounds.items():
            value = getattr(self, field)
            if not all(low <= x <= high for x in (value if isinstance(value, tuple) else (value,))):
                raise ValueError(f"{field} must be from {low} to {high}, not {value}")
        if self.dim % 2:
            raise ValueError(f"dim must be even, not {self.dim}")
        if not (self.conv_groups_ratio == -1 or 0 <= self.conv_groups_ratio <= 1):
            raise ValueError(
                f"conv_groups_ratio must be from 0 to 1, or -1, not {self.conv_groups_ratio}"
            )
        for level in range(FIRST_ATTENTION_LEVEL, NUM_LEVELS):
            self._check_attention_level(level)

    def _check_attention_level(self, level: int) -> None:
        ratios, width, heads = self.ratios(level), self.width(level), self.num_heads[level]
        if not 1 <= len(ratios) <= 16 or not all(1 <= r <= MAX_RATIO for r in ratios):
            raise ValueError(
                f"sr_ratios of level {level} must be 1 to 16 numbers from 1 to {MAX_RATIO}, "
                f"not {ratios}"
            )
        if any(max(ratios) % ratio for ratio in ratios):
            raise ValueError(f"each of sr_ratios {ratios} of level {level} must divide the largest")
        if width % heads:
            raise ValueError(f"width {width} of level {level} is not a multiple of {heads} heads")
        if width % self.conv_groups(level):
            raise ValueError(
                f"conv_groups_ratio {self.conv_groups_ratio} gives {self.conv_groups(level)} "
                f"groups, which do not divide the width {width} of level {level}"
            )

    def width(self, level: int) -> int:
        """Channels of a level."""
        return self.dim << level

    def ratios(self, level: int) -> tuple[int, ...]:
        """The entry of `sr_ratios` of attention level 2 or 3."""
        return self.sr_ratios[level - FIRST_ATTENTION_LEVEL]

    def window_size(self, level: int) -> int:
        """The entry of `window_sizes` of attention level 2 or 3."""
        return self.window_sizes[level - FIRST_ATTENTION_LEVEL]

    def conv_groups(self, level: int) -> int:
        """Groups of the convolution in front of a block, or 1 where there is none."""
        return max(1, int(self.conv_groups_ratio * self.width(level)))

    @property
    def embed_dim(self) -> int:
        """Width of the summary and of the features."""
        return self.full_features_head_dim

    @property
    def patch_size(self) -> int:
        """Pixels of one feature cell."""
        return STEM_STRIDE << self.neck_start_stage

    @property
    def resolution_step(self) -> int:
        """Image sides are multiples of it: the cell of the last level, in pixels."""
        return STEM_STRIDE << (NUM_LEVELS - 1)

    def build(self) -> Backbone:
        """The network, with fresh weights."""
        return ERadio(self)

    def fitting_window(self, height: int, width: int) -> int:
        """The largest window in cells that tiles such images; the configured one if none does."""
        cells = min(height, width) // self.resolution_step
        tiling = [side for side in range(2, MAX_FITTED_WINDOW + 1) if cells % side == 0]
        return max(tiling, default=self.window_sizes[-1])

    def fit_windows(self, height: int, width: int) -> "ERadioConfig":
        """The same with windows that tile images of this size in pixels."""
        window = self.fitting_window(height, width)
        return replace(self, window_sizes=(window, window))


_LARGE: dict[str, Any] = {
    "dim": 192,
    "in_dim": 64,
    "depths": (3, 3, 5, 5),
    "full_features_head_dim": 1536,
}
_TINY: dict[str, Any] = {
    "dim": 32,
    "in_dim": 32,
    "depths": (1, 3, 4, 5),
    "full_features_head_dim": 256,
}
_TINY_8X: dict[str, Any] = _TINY | {
    "conv_base": False,
    "conv_groups_ratio": 1.0,
    "cpb_mlp_hidden": 64,
}
_PRESETS: dict[str, dict[str, Any]] = {
    "eradio": _LARGE,
    "eradio_large_fullres_ws16": _LARGE,
    "eradio_xxxtiny": _TINY,
    "eradio_xxxtiny_8x_ws12": _TINY_8X | {"window_sizes": (12, 12)},
    "eradio_xxxtiny_8x_ws16": _TINY_8X | {"neck_start_stage": 1},
}
E_RADIO_B: dict[str, Any] = {"dim": 128, "depths": (3, 3, 4, 3), "full_features_head_dim": 1024}
"""Overrides of "eradio" for E-RADIO-B, of which Table 7 has 118M parameters and no shape."""
# Options that every released model has at the one value which this implementation knows.
_FIXED = {
    **dict.fromkeys(("return_full_features", "use_neck", "yolo_arch"), True),
    **dict.fromkeys(("qkv_bias", "shuffle_down", "downsample_shuffle"), False),
    **dict.fromkeys(("use_swiglu", "multi_query", "use_shift"), False),
}
_WITHOUT_EFFECT = ("mlp_ratio",)
_RENAMED = {"window_size": "window_sizes", "sr_ratio": "sr_ratios"}


def eradio_config(preset: str, **overrides: Any) -> ERadioConfig:
    """The configuration of a registered E-RADIO.

    Args:
        preset: its name in official checkpoints, for example "eradio".
        overrides: options under their official names. `window_size` and `sr_ratio` are lists with
            an entry a level, each a number or a list with one for each attention block; those of
            levels 0 and 1 are ignored.

    Raises:
        ValueError: unknown preset or option, an option that is not supported, or values that do
            not fit together.
    """
    if preset not in _PRESETS:
        raise ValueError(f"unknown E-RADIO {preset!r}; known: {', '.join(_PRESETS)}")
    ours = [f.name for f in fields(ERadioConfig) if f.name not in ("type", *_RENAMED.values())]
    known = (*ours, *_RENAMED, *_FIXED, *_WITHOUT_EFFECT)
    if unknown := [name for name in overrides if name not in known]:
        raise ValueError(f"unknown E-RADIO option {unknown[0]!r}; known: {', '.join(known)}")
    unsupported = [f"{k}={overrides[k]}" for k, v in _FIXED.items() if overrides.get(k, v) != v]
    if unsupported:
        raise ValueError(f"E-RADIO with {', '.join(unsupported)} is not supported")
    values = _PRESETS[preset] | {k: overrides[k] for k in ours if k in overrides}
    for name in _RENAMED.keys() & overrides.keys():
        levels = overrides[name]
        if not isinstance(levels, Sequence) or len(levels) != NUM_LEVELS:
            raise ValueError(f"{name} must be a list of {NUM_LEVELS} levels, not {levels!r}")
        entries = [
            list(level) if isinstance(level, (list, tuple)) else [level]
            for level in levels[FIRST_ATTENTION_LEVEL:]
        ]
        if name == "window_size":
            for sides in entries:
                if len(set(sides)) != 1:
                    raise ValueError(f"{name} {sides}: the blocks of a level must share one size")
            entries = [sides[0] for sides in entries]
        values[_RENAMED[name]] = entries
    return from_mapping(ERadioConfig, values)


class ERadioMaps(NamedTuple):
    """Every map that a forward pass goes through; level i has width dim * 2**i.

    Attributes:
        stem: [B, dim, H/4, W/4].
        before: for each level its map [B, width, h, w], cells of 4 * 2**i pixels.
        after: the same after the level's downsampling, [B, 2 * width, h/2, w/2]; the last level
            has none.
        full: the features, [B, embed_dim, H / patch_size, W / patch_size].
    """

    stem: Tensor
    before: tuple[Tensor, ...]
    after: tuple[Tensor, ...]
    full: Tensor


class ERadio(Backbone):
    """A hybrid of convolutions and windowed attention for image sides that are multiples of 32.

    Windows are part of the architecture; there is no windowed mode to switch on as in the ViT.
    """

    config: ERadioConfig

    def __init__(self, config: ERadioConfig) -> None:
        super().__init__(config)
        self.patch_embed = Stem(config.in_dim, config.dim)
        self.levels = nn.ModuleList(Level(config, level) for level in range(NUM_LEVELS))
        self.high_res_neck = Neck(config)
        self.apply(_init_linear)

    def forward(self, images: Tensor, window_size: int | None = None) -> Output:
        """Run on normalised images.

        Args:
            images: [B, 3, H, W], normalised; H and W multiples of 32.
            window_size: only None, see `change_window_size`.

        Returns:
            The summary [B, 1, C], the mean of the features, and the features
            [B, C, H / patch_size, W / patch_size].

        Raises:
            ValueError: H or W is not a multiple of 32, or a window size was given.
        """
        if window_size is not None:
            raise ValueError(
                "E-RADIO has no windowed (ViTDet) mode: leave window_size None; its own windows "
                "are set by change_window_size"
            )
        features = self.forward_levels(images).full
        return Output(features.flatten(2).mean(dim=2)[:, None], features)

    def forward_levels(self, images: Tensor) -> ERadioMaps:
        """The maps of the stem, of every level and of the neck.

        Args:
            images: [B, 3, H, W], normalised; H and W multiples of 32.
        """
        check_images(images, self.config.resolution_step)
        stem = x = self.patch_embed(images)
        before, after = [], []
        for level in self.levels:
            full_size, x = level(x)
            before.append(full_size)
            after.append(x)
        return ERadioMaps(stem, tuple(before), tuple(after), self.high_res_neck(before))

    def change_window_size(self, window_size: int) -> None:
        """Set the side of every attention window, in cells of its map.

        The relative position biases follow, from the same weights.

        Raises:
            ValueError: not from 1 to 64.
        """
        if not 1 <= window_size <= MAX_WINDOW_SIZE:
            raise ValueError(f"window size must be from 1 to {MAX_WINDOW_SIZE}, not {window_size}")
        for blocks in self._attention_blocks():
            blocks.window_size = window_size
            if self.deployed:
                blocks.freeze_biases()

    def fit_windows(self, height: int, width: int) -> None:
        """Choose windows that tile images of this size in pixels, at most 16 cells wide."""
        self.change_window_size(self.config.fitting_window(height, width))

    def set_optimal_window_size(
        self, image_size: int | tuple[int, int], max_window: int = 16
    ) -> None:
        """Choose windows that images of one size fill without resizing inside the model.

        Args:
            image_size: side, or (height, width), in pixels.
            max_window: upper bound of the window size, in cells.

        Raises:
            ValueError: a side is below 32 pixels, or max_window below 1.
        """
        side = image_size if isinstance(image_size, int) else min(image_size)
        step = self.config.resolution_step
        cells = side // step
        if cells < 1 or max_window < 1:
            raise ValueError(
                f"image size {image_size} must be at least {step} pixels and "
                f"max_window {max_window} at least 1"
            )
        self.change_window_size(max(n for n in range(1, max_window + 1) if cells % n == 0))

    def switch_to_deploy(self) -> "ERadio":
        """Make inference faster, for good: the same outputs up to rounding, in eval mode only.

        Merges the BatchNorms of stem and levels into their convolutions, which changes the names
        in the state dict, and keeps the relative position biases instead of recomputing them.
        Afterwards the model cannot be trained; `change_window_size` still works.

        Returns:
            The model itself.
        """
        self.eval()
        for module in (*self.patch_embed.modules(), *self.levels.modules()):
            if isinstance(module, ConvBN):
                module.fold()
        for blocks in self._attention_blocks():
            blocks.freeze_biases()
        self.deployed = True
        return self

    def train(self, mode: bool = True) -> "ERadio":
        """Training or eval mode, as in any module.

        Raises:
            ValueError: training after `switch_to_deploy`.
        """
        if mode and self.deployed:
            raise ValueError("E-RADIO after switch_to_deploy cannot be trained: load it again")
        super().train(mode)
        return self

    def _attention_blocks(self) -> list[AttentionBlocks]:
        return [m for m in self.levels.modules() if isinstance(m, AttentionBlocks)]


class Stem(nn.Module):
    """Two convolutions of stride 2."""

    def __init__(self, in_dim: int, dim: int) -> None:
        super().__init__()
        self.conv_down = nn.Sequential(
            ConvBN(3, in_dim, 3, stride=2), nn.ReLU(), ConvBN(in_dim, dim, 3, stride=2), nn.ReLU()
        )

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] to [B, dim, H/4, W/4]."""
        out: Tensor = self.conv_down(images)
        return out


class Level(nn.Module):
    """The blocks of a level, and the way to the next one; the last level has none."""

    def __init__(self, config: ERadioConfig, level: int) -> None:
        super().__init__()
        width = config.width(level)
        self.blocks: ConvBlocks | AttentionBlocks
        if level < FIRST_ATTENTION_LEVEL:
            self.blocks = ConvBlocks(width, config.depths[level])
        else:
            self.blocks = AttentionBlocks(config, level)
        self.downsample = nn.Identity() if level == NUM_LEVELS - 1 else Downsample(width)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[B, width, h, w] to the maps before and after downsampling."""
        x = self.blocks(x)
        return x, self.downsample(x)


class Downsample(nn.Module):
    """Half the sides, twice the channels."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.reduction = ConvBN(dim, 2 * dim, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """[B, dim, H, W] to [B, 2 * dim, H/2, W/2]."""
        out: Tensor = self.reduction(x)
        return out


class Neck(nn.Module):
    """Brings the maps of the last levels to one size and width, and adds them."""

    def __init__(self, config: ERadioConfig) -> None:
        super().__init__()
        self.start = config.neck_start_stage
        self.neck_features_proj = nn.ModuleList(
            _projection(config.width(level), config.embed_dim, 1 << (level - self.start))
            for level in range(self.start, NUM_LEVELS)
        )

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """The maps of all levels (before downsampling) to [B, embed_dim, h, w]."""
        projected = zip(self.neck_features_proj, maps[self.start :], strict=True)
        first, *others = [project(x) for project, x in projected]
        out: Tensor = sum(others, start=first)
        return out


def _projection(dim: int, out_dim: int, upsample: int) -> nn.Module:
    """From one level's map to the size and width of the features."""
    if upsample == 1 and dim == out_dim:
        return nn.Identity()
    return nn.Sequential(
        OrderedDict(
            upsample=nn.Identity() if upsample == 1 else nn.Upsample(scale_factor=upsample),
            conv1=nn.Conv2d(dim, dim, 3, padding=1, groups=dim),
            norm=nn.BatchNorm2d(dim),
            conv2=nn.Conv2d(dim, out_dim, 1),
        )
    )


def _init_linear(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
