"""Any network of timm as a student: its last feature maps at one stride, and their mean."""

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from radio_core.models.backbone import Backbone, BackboneConfig
from radio_core.vision import Output, Resolution, check_images

# How timm's transformers are told to take images of any size, newest name first; a network that
# knows neither is built as it is. Convolutional networks take any size anyway.
_ANY_SIZE: tuple[dict[str, Any], ...] = ({"dynamic_img_size": True}, {"strict_img_size": False}, {})
_NAME = re.compile(r"[a-z0-9_]{1,100}")
MAX_IMAGE_SIZE = 4096


class Pyramid(NamedTuple):
    """What is known of a network without its weights.

    Attributes:
        indices: the feature maps that are used, as timm counts them.
        channels: width of each.
        strides: cell of each in pixels; the first one's is that of the student's features.
        resolution_step: image sides are multiples of it, in pixels.
        fixed: `resolution_step` itself is the only side that works.
    """

    indices: tuple[int, ...]
    channels: tuple[int, ...]
    strides: tuple[int, ...]
    resolution_step: int
    fixed: bool


@dataclass(frozen=True, kw_only=True)
class TimmConfig(BackboneConfig):
    """A network of timm, with fresh weights.

    Attributes:
        type: marks this kind of backbone in config.json.
        name: as timm lists it, without the tag of pretrained weights, e.g. "regnety_064".
        feature_stride: cell of the features in pixels: the network's maps of this stride and of
            coarser ones are brought to one size and put side by side. 32 gives the last map of
            the usual networks alone, as in the paper's Table 7. A network without such a map gives
            its next coarser one, or its last.
        image_size: side in pixels that a network for one size (MaxViT, CoAtNet) is built for;
            None for timm's own.
    """

    type: Literal["timm"] = "timm"
    name: str
    feature_stride: int = 16
    image_size: int | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.feature_stride <= 256:
            raise ValueError(f"feature_stride must be from 1 to 256, not {self.feature_stride}")
        if self.image_size is not None and not 1 <= self.image_size <= MAX_IMAGE_SIZE:
            raise ValueError(f"image_size must be from 1 to {MAX_IMAGE_SIZE} pixels")
        assert self.pyramid  # an unknown or unfit network is refused here

    @property
    def pyramid(self) -> Pyramid:
        """The feature maps of the network that are used."""
        return _describe(self.name, self.feature_stride, self.image_size)

    @property
    def embed_dim(self) -> int:
        """Width of the summary and of the features."""
        return sum(self.pyramid.channels)

    @property
    def patch_size(self) -> int:
        """Pixels of one feature cell."""
        return self.pyramid.strides[0]

    @property
    def label(self) -> str:
        """timm's name."""
        return self.name

    @property
    def resolution_step(self) -> int:
        """Image sides are multiples of this many pixels."""
        return self.pyramid.resolution_step

    @property
    def fixed_size(self) -> Resolution | None:
        """The only image size that the network takes; None if it takes any."""
        return Resolution(*2 * (self.resolution_step,)) if self.pyramid.fixed else None

    def build(self) -> "TimmStudent":
        """The network, with fresh weights."""
        return TimmStudent(self)


class TimmStudent(Backbone):
    """The last maps of a timm network, each normalised over its channels, side by side.

    The normalisation brings maps of different stages (and networks whose features grow without
    bound, such as NFNets) to one scale; what mixes the stages is the first layer of every head.
    """

    config: TimmConfig

    def __init__(self, config: TimmConfig) -> None:
        super().__init__(config)
        pyramid = config.pyramid
        self.network = _create(config.name, pyramid.indices, config.image_size)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for width in pyramid.channels)

    def forward(self, images: Tensor, window_size: int | None = None) -> Output:
        """Run on normalised images.

        Args:
            images: [B, 3, H, W], normalised; H and W multiples of `resolution_step`.
            window_size: only None; windows, where a network has them, are part of it.

        Returns:
            The summary [B, 1, C], the mean of the features, and the features
            [B, C, H / patch_size, W / patch_size].

        Raises:
            ValueError: sides that do not fit, or a window size was given.
        """
        if window_size is not None:
            raise ValueError(f"{self.config.name} has no windowed (ViTDet) mode: window_size None")
        pyramid = self.config.pyramid
        check_images(images, pyramid.resolution_step)
        height, width = images.shape[-2:]
        only = self.config.fixed_size
        if only not in (None, (height, width)):
            side = pyramid.resolution_step
            raise ValueError(f"{self.config.name} takes images of {side}x{side} pixels only")
        grid = (height // self.patch_size, width // self.patch_size)
        maps = []
        for norm, features in zip(self.norms, _channels_last(self.network, images), strict=True):
            scaled = norm(features).permute(0, 3, 1, 2)  # [B, C_i, h_i, w_i]
            maps.append(scaled if scaled.shape[-2:] == grid else F.interpolate(scaled, size=grid))
        joined = torch.cat(maps, dim=1)
        return Output(joined.flatten(2).mean(dim=2)[:, None], joined)


def _channels_last(network: nn.Module, images: Tensor) -> list[Tensor]:
    """The network's maps as [B, h, w, C]; networks of the Swin family have them so already."""
    maps: list[Tensor] = network(images)
    layout = getattr(network, "output_fmt", "NCHW")  # an enum, where the network names it
    if getattr(layout, "value", layout) == "NHWC":
        return maps
    return [features.permute(0, 2, 3, 1) for features in maps]


def _create(name: str, indices: Sequence[int] | None, image_size: int | None) -> nn.Module:
    """The network as timm's extractor of feature maps, for images of any size where it can."""
    import timm

    options: dict[str, Any] = {} if indices is None else {"out_indices": tuple(indices)}
    if image_size is not None:
        options["img_size"] = image_size
    refused: Exception | None = None
    for any_size in _ANY_SIZE:
        try:
            return timm.create_model(
                name, pretrained=False, features_only=True, **options, **any_size
            )
        except TypeError as error:  # this network has no such argument
            refused = error
        except (RuntimeError, AssertionError, AttributeError, ValueError) as error:
            raise ValueError(f"timm's {name} cannot give feature maps: {error}") from error
    raise ValueError(
        f"timm's {name} takes any image size: leave image_size None ({refused})"
        if image_size is not None
        else f"timm's {name} cannot give feature maps: {refused}"
    )


@functools.lru_cache(maxsize=64)
def _describe(name: str, feature_stride: int, image_size: int | None) -> Pyramid:
    """Find out about a network on the meta device: nothing is computed or allocated.

    Raises:
        ValueError: not a network of timm, or one without feature maps.
    """
    _check_name(name)
    with torch.device("meta"):
        whole: Any = _create(name, None, image_size)
        info: list[dict[str, Any]] = whole.feature_info.info
    last = {int(level["reduction"]): index for index, level in enumerate(info)}
    strides = sorted(stride for stride in last if stride >= feature_stride) or [max(last)]
    indices = tuple(last[stride] for stride in strides)
    channels = tuple(int(info[index]["num_chs"]) for index in indices)
    with torch.device("meta"):
        network = _create(name, indices, image_size)
    step, fixed = _image_sides(name, network, tuple(strides), image_size)
    return Pyramid(indices, channels, tuple(strides), step, fixed)


def _check_name(name: str) -> None:
    """Refuse what timm would download, or does not know."""
    import timm

    if _NAME.fullmatch(name) and timm.is_model(name):
        return
    near = timm.list_models(f"*{name}*") if _NAME.fullmatch(name) else []
    hint = f"; similar: {', '.join(near[:8])}" if near else ""
    raise ValueError(
        f"unknown timm network {name!r}{hint}; timm.list_models() has all (without the tag of "
        "pretrained weights)"
    )


def _image_sides(
    name: str, network: nn.Module, strides: tuple[int, ...], image_size: int | None
) -> tuple[int, bool]:
    """(step of the image sides, whether the step is the only side), by trying on meta tensors."""

    def works(height: int, width: int) -> bool:
        images = torch.empty(1, 3, height, width, device="meta")
        try:
            with torch.no_grad():
                maps = _channels_last(network, images)
        except (RuntimeError, AssertionError, ValueError, IndexError):
            return False
        wanted = [(height // stride, width // stride) for stride in strides]
        return [tuple(features.shape[1:3]) for features in maps] == wanted

    coarsest = strides[-1]
    if works(5 * coarsest, 7 * coarsest):
        return coarsest, False
    config = getattr(network, "pretrained_cfg", None) or getattr(
        getattr(network, "model", None), "pretrained_cfg", {}
    )
    side = image_size or int(config["input_size"][-1])
    if works(2 * side, side):
        return side, False
    if works(side, side):
        return side, True
    raise ValueError(f"timm's {name} gives no maps with cells of {strides} pixels: not a student")
