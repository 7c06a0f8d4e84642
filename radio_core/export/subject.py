"""What is exported: a network that maps images to a tuple of tensors, and its card."""

import copy
import dataclasses
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from radio_core import __version__
from radio_core.export.card import AdaptorCard, ExportCard, Precision
from radio_core.models.adaptors import AdaptorConfig
from radio_core.models.backbone import Backbone
from radio_core.models.config import DTYPES
from radio_core.models.radio import FeatureFormat, RadioModel
from radio_core.vision import Resolution, nearest_resolution

Watch = Callable[[str, int, int], None]
"""Called as watch(what, done, total) during long work; total is 0 where it is not known."""

_LARGE_SIDES = (5000, 7000)

INPUT = "images"
"""Name of the input."""


def unwatched(what: str, done: int, total: int) -> None:
    """A watch that ignores everything."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A network in eval mode, ready to be exported.

    Attributes:
        module: images [B, 3, H, W] float32 -> one float32 tensor for each of `card.outputs`.
        card: its contract.
    """

    module: nn.Module
    card: ExportCard

    def prepared(self, precision: Precision) -> "Subject":
        """A copy of it as it goes into a file: what only training needs is fused, weights cast."""
        module = copy.deepcopy(self.module)
        for part in module.modules():
            if isinstance(part, Backbone):
                part.switch_to_deploy()
            if isinstance(part, nn.Sequential):
                _fold_batch_norms(part)
        return Subject(
            module=module.to(DTYPES[precision]).eval(),
            card=dataclasses.replace(self.card, precision=precision),
        )

    @torch.inference_mode()
    def run(self, images: Tensor) -> dict[str, Tensor]:
        """Images [B, 3, H, W] in [0, 1] to output name -> tensor."""
        return dict(zip(self.card.outputs, self.module(images), strict=True))


def _fold_batch_norms(layers: nn.Sequential) -> None:
    """Merge each BatchNorm into the convolution before it, while the weights are still float32."""
    children = list(layers.named_children())
    for (name, convolution), (following, norm) in itertools.pairwise(children):
        if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            setattr(layers, name, fuse_conv_bn_eval(convolution, norm))
            setattr(layers, following, nn.Identity())


class NamedOutputs(nn.Module):
    """A model with all that it computes as one tuple: the backbone's output, then each adaptor's.

    Args:
        model: the model.
        adaptors: names of the adaptors that run.
        feature_fmt: layout of all features.
    """

    def __init__(
        self, model: RadioModel, adaptors: Sequence[str], feature_fmt: FeatureFormat
    ) -> None:
        super().__init__()
        self.model = model
        self.adaptors = tuple(adaptors)
        self.feature_fmt: FeatureFormat = feature_fmt

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the outputs, in their order."""
        names = ["summary", "features"]
        for spec in adaptor_configs(self.model, self.adaptors):
            names += [f"{spec.name}_summary"] if spec.summary_dim else []
            names += [f"{spec.name}_features"]
        return tuple(names)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Images [B, 3, H, W] in [0, 1] to float32 outputs."""
        outputs = self.model.forward_all(images, self.adaptors, self.feature_fmt)
        tensors = (tensor for output in outputs.values() for tensor in output)
        return tuple(tensor.float() for tensor in tensors if tensor is not None)


def model_subject(
    model: RadioModel,
    *,
    name: str = "",
    adaptors: Sequence[str] = (),
    size: tuple[int, int] | None = None,
    feature_fmt: FeatureFormat = "NCHW",
) -> Subject:
    """A whole model, to be exported.

    Args:
        model: in float32; its `window_size` decides about windows.
        name: for people; the configured one if empty.
        adaptors: names of the adaptors that the file shall have.
        size: (height, width) in pixels of the only images that the file shall take; None for
            every size that the model takes.
        feature_fmt: layout of all features.

    Raises:
        ValueError: unknown adaptors, a size that the model does not take, windows for a model
            without them, or features that are no map as "NCHW".
    """
    names = model.check_adaptors(adaptors)
    config = model.config
    if config.backbone.feature_start is not None and feature_fmt == "NCHW":
        raise ValueError(
            'the features of this model hold other tokens too: export them as "NLC" '
            "(--feature-fmt NLC)"
        )
    module = NamedOutputs(model, names, feature_fmt)
    module.eval()
    card = ExportCard(
        name=name or config.name,
        toolkit=__version__,
        outputs=module.names,
        patch_size=model.patch_size,
        resolution_step=model.min_resolution_step,
        fixed_size=fixed_size(model, size),
        embed_dim=model.embed_dim,
        summary_dim=model.summary_dim,
        feature_fmt=feature_fmt,
        window_size=model.window_size,
        max_resolution=config.max_resolution,
        preferred_resolution=config.preferred_resolution,
        adaptors=tuple(
            AdaptorCard(
                name=spec.name,
                feature_dim=spec.feature_dim,
                summary_dim=spec.summary_dim,
                upsample=spec.upsample,
                text_tower=spec.text_tower,
            )
            for spec in adaptor_configs(model, names)
        ),
        licence=config.licence,
    )
    return Subject(module=module, card=card)


def adaptor_configs(model: RadioModel, names: Sequence[str]) -> list[AdaptorConfig]:
    """The configurations of some adaptors, in the order of `names`."""
    by_name = {spec.name: spec for spec in model.config.adaptors}
    return [by_name[name] for name in names]


def fixed_size(model: RadioModel, size: tuple[int, int] | None) -> Resolution | None:
    """The only (height, width) of an export: the one asked for, or the only one of the model.

    Raises:
        ValueError: the model does not take the size; the nearest one is named.
    """
    if size is not None:
        nearest = model.nearest_supported_resolution(*size)
        if nearest != size:
            raise ValueError(
                f"the model does not take images of {size[0]}x{size[1]} pixels; the nearest size "
                f"that it takes is {nearest.height}x{nearest.width}"
            )
        return nearest
    # A model that takes one size only calls it the nearest to anything.
    step = model.min_resolution_step
    only = model.nearest_supported_resolution(step, step)
    return only if model.nearest_supported_resolution(9 * step, 7 * step) == only else None


def check_size(card: ExportCard, height: int, width: int) -> None:
    """Raise ValueError, naming the nearest size, unless the network takes height x width pixels."""
    nearest = nearest_size(card, height, width)
    if nearest != (height, width):
        raise ValueError(
            f"image size {height}x{width} does not fit {card.name or 'the model'} (sides are "
            f"multiples of {card.resolution_step} pixels); the nearest valid size is "
            f"{nearest.height}x{nearest.width}"
        )


def nearest_size(card: ExportCard, height: int, width: int) -> Resolution:
    """The image size in pixels nearest to (height, width) that the exported network takes."""
    if card.fixed_size is not None:
        return Resolution(*card.fixed_size)
    return nearest_resolution(height, width, card.resolution_step)


def example_images(card: ExportCard) -> Tensor:
    """Two images [2, 3, H, W] that the network takes, of which nobody may read the values.

    They are so large, and so unlike in their sides, that nothing in the network fits by accident
    (a map into one window, for example): torch would take that for a property of all images.
    """
    height, width = card.fixed_size or (
        -(-side // card.resolution_step) * card.resolution_step for side in _LARGE_SIDES
    )
    return torch.empty(2, 3, height, width)
