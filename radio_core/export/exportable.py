"""What is exported: a network that maps images to a tuple of tensors, and its card."""

import copy
import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from radio_core import __version__
from radio_core.export.card import AdaptorCard, ExportCard, Precision
from radio_core.models.backbone import Backbone
from radio_core.models.config import DTYPES
from radio_core.models.radio import FeatureFormat, RadioModel
from radio_core.vision import Resolution, VisionModel


@dataclass(frozen=True, kw_only=True)
class Exportable:
    """A network in eval mode, ready to be exported.

    `module` maps images [B, 3, H, W] float32 to one float32 tensor for each of `card.outputs`.
    """

    module: nn.Module
    card: ExportCard

    def prepared(self, precision: Precision) -> "Exportable":
        """A copy as it goes into a file: what only training needs is fused, weights are cast."""
        module = copy.deepcopy(self.module)
        for part in module.modules():
            if isinstance(part, Backbone):
                part.switch_to_deploy()
            if isinstance(part, nn.Sequential):
                _fold_batch_norms(part)
        return Exportable(
            module=module.to(DTYPES[precision]).eval(),
            card=dataclasses.replace(self.card, precision=precision),
        )

    @torch.inference_mode()
    def run(self, images: Tensor) -> dict[str, Tensor]:
        """Images [B, 3, H, W] in [0, 1] to output name -> tensor."""
        return dict(zip(self.card.outputs, self.module(images), strict=True))


def radio_exportable(
    model: RadioModel,
    *,
    name: str = "",
    adaptors: Sequence[str] = (),
    size: tuple[int, int] | None = None,
    feature_fmt: FeatureFormat = "NCHW",
) -> Exportable:
    """A whole float32 RADIO model; its own `window_size` decides about windows.

    Args:
        model: the model.
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
    by_name = {head.name: head for head in config.adaptors}
    heads = [by_name[name] for name in names]
    outputs = ["summary", "features"]
    for head in heads:
        outputs += [f"{head.name}_summary"] if head.summary_dim else []
        outputs += [f"{head.name}_features"]
    card = ExportCard(
        name=name or config.name,
        toolkit=__version__,
        outputs=tuple(outputs),
        patch_size=model.patch_size,
        resolution_step=model.min_resolution_step,
        fixed_size=_fixed_size(model, size),
        embed_dim=model.embed_dim,
        summary_dim=model.summary_dim,
        feature_fmt=feature_fmt,
        window_size=model.window_size,
        max_resolution=config.max_resolution,
        preferred_resolution=config.preferred_resolution,
        adaptors=tuple(
            AdaptorCard(**{f.name: getattr(head, f.name) for f in dataclasses.fields(AdaptorCard)})
            for head in heads
        ),
        licence=config.licence,
    )
    return Exportable(module=_RadioOutputs(model, names, feature_fmt).eval(), card=card)


def vision_exportable(model: VisionModel, size: tuple[int, int] | None = None) -> Exportable:
    """Any other model, a torch module, for images of one (height, width); of its own square by
    default."""
    spec = model.spec
    if not isinstance(model, nn.Module):
        raise ValueError(f"{spec.name} is no torch module: nothing can be exported of it")
    module = _VisionOutputs(model, spec.checked_size(size)).eval()
    card = ExportCard(
        name=spec.name,
        toolkit=__version__,
        outputs=("features",) if spec.summary_dim is None else ("summary", "features"),
        patch_size=spec.patch_size,
        resolution_step=spec.step,
        fixed_size=module.size,
        embed_dim=spec.feature_dim,
        summary_dim=spec.summary_dim,
        licence=spec.licence,
    )
    return Exportable(module=module, card=card)


class _RadioOutputs(nn.Module):
    def __init__(
        self, model: RadioModel, adaptors: Sequence[str], feature_fmt: FeatureFormat
    ) -> None:
        super().__init__()
        self.model = model
        self.adaptors = tuple(adaptors)
        self.feature_fmt: FeatureFormat = feature_fmt

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        outputs = self.model.forward_all(images, self.adaptors, self.feature_fmt)
        tensors = (tensor for output in outputs.values() for tensor in output)
        return tuple(tensor.float() for tensor in tensors if tensor is not None)


class _VisionOutputs(nn.Module):
    def __init__(self, model: nn.Module, size: Resolution) -> None:
        super().__init__()
        self.model = model
        self.size = size

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        output = self.model(images.to(next(self.parameters()).dtype), self.size)
        return tuple(tensor for tensor in output if tensor is not None)


def _fixed_size(model: RadioModel, size: tuple[int, int] | None) -> Resolution | None:
    """The only (height, width) of an export: the one asked for, or the only one of the model."""
    if size is None:
        return model.config.backbone.fixed_size
    near = model.nearest_supported_resolution(*size)
    if near != size:
        raise ValueError(
            f"the model does not take images of {size[0]}x{size[1]} pixels; the nearest size that "
            f"it takes is {near.height}x{near.width}"
        )
    return near


def _fold_batch_norms(layers: nn.Sequential) -> None:
    """Merge each BatchNorm into the convolution before it, while the weights are still float32."""
    children = list(layers.named_children())
    for (name, convolution), (following, norm) in itertools.pairwise(children):
        if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            setattr(layers, name, fuse_conv_bn_eval(convolution, norm))
            setattr(layers, following, nn.Identity())
