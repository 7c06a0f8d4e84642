"""E-RADIO, the efficient student: convolutions first, attention in windows on the small maps."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn

from radio_core.models.backbone import Backbone
from radio_core.models.eradio_blocks import AttentionBlocks, ConvBlocks, ConvBN
from radio_core.models.eradio_config import (
    FIRST_ATTENTION_LEVEL,
    MAX_WINDOW_SIZE,
    NUM_LEVELS,
    ERadioConfig,
    eradio_config,
)
from radio_core.vision import Output, check_images

__all__ = ["ERadio", "ERadioConfig", "ERadioMaps", "eradio_config"]


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
