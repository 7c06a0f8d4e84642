"""What a vision tower is made of, and the features that a RADIO model hands to a language model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from radio_core.config_file import from_mapping
from radio_core.models.intermediates import block_indices
from radio_core.models.radio import RadioModel
from radio_llava.images import Aspect

Normalization = Literal["none", "layer_norm", "unit_scale"]

RECORDED = "radio_tower"
"""Field of a LLaVA model's config.json that holds the `TowerConfig`."""
FLAGS = ("resolution", "aspect", "layers", "adaptor", "normalize")
"""Names of the training flags that choose them, after "radio_"."""
_EPSILON = 1e-6


@dataclass(frozen=True, kw_only=True)
class TowerConfig:
    """One vision tower, as a LLaVA model's config.json records it.

    Attributes:
        model: the RADIO model, as `radio_core.load_model` takes it: "radio_h", "toy", a path.
        resolution: long edge of the resized image, in pixels.
        aspect: "native" keeps the image's own aspect ratio; "pad" puts it in the middle of a
            square of the mean colour; "square" stretches it to a square.
        layers: blocks of the backbone whose features are put side by side, negative ones counted
            from the end; None for the features after the last.
        adaptor: name of an adaptor, for its features in place of the backbone's; "" for none.
        normalize: scale of the features. "layer_norm" gives each token mean 0 and variance 1 over
            the channels; "unit_scale" gives it a root mean square of 1; neither has parameters.
    """

    model: str
    resolution: int = 432
    aspect: Aspect = "native"
    layers: tuple[int, ...] | None = None
    adaptor: str = ""
    normalize: Normalization = "none"

    def __post_init__(self) -> None:
        if not self.model:
            raise ValueError("a vision tower needs a model: a release's name, 'toy' or a path")
        if self.resolution < 1:
            raise ValueError(f"resolution {self.resolution}: must be at least 1 pixel")
        for value, known in ((self.aspect, Aspect), (self.normalize, Normalization)):
            if value not in get_args(known):
                raise ValueError(f"unknown choice {value!r}; known: {', '.join(get_args(known))}")
        if self.layers is not None and not self.layers:
            raise ValueError("layers: name at least one block, or leave it out for the last")
        if self.layers is not None and self.adaptor:
            raise ValueError(
                "choose layers or an adaptor: an adaptor reads the features of the last block"
            )


def recorded_tower(model: str, args: Any) -> dict[str, Any]:
    """The fields of the `TowerConfig` that a LLaVA model's config has for this very tower."""
    recorded = dict(getattr(args, RECORDED, None) or {})
    return recorded if recorded.get("model") == model else {}


def tower_config_of(model: str, args: Any) -> TowerConfig:
    """The configuration of a tower by `radio_...` flags in `args`, and what is recorded there.

    Flags win; they are None where they are not given.
    """
    flags = {name: getattr(args, f"radio_{name}", None) for name in FLAGS}
    given = {name: value for name, value in flags.items() if value is not None}
    return from_mapping(TowerConfig, recorded_tower(model, args) | given | {"model": model})


def feature_dim(radio: RadioModel, config: TowerConfig) -> int:
    """Width C of the features that `config` chooses; ValueError names the known ones."""
    if config.adaptor:
        radio.check_adaptors([config.adaptor])
        return next(a.feature_dim for a in radio.config.adaptors if a.name == config.adaptor)
    return radio.embed_dim * len(_blocks(radio, config) or (0,))


def token_side(radio: RadioModel, config: TowerConfig) -> int:
    """Pixels of one token; adaptors that upsample have smaller ones than the backbone."""
    upsample = {spec.name: spec.upsample for spec in radio.config.adaptors}
    return radio.patch_size // upsample.get(config.adaptor, 1)


def tower_features(
    radio: RadioModel, images: Sequence[Tensor] | Tensor, config: TowerConfig
) -> list[Tensor]:
    """The chosen features [N, C] of every image, in the model's dtype.

    Images [3, H, W], RGB in [0, 1], have sides that the model takes; those of one size share a
    forward.
    """

    def encode(batch: Tensor) -> Tensor:
        return normalised(_features(radio, batch, config), config.normalize)

    tokens = encode_by_size(images, encode)
    check_overflow(tokens, next(radio.backbone.parameters()).dtype, config.model)
    return tokens


def encode_by_size(
    images: Sequence[Tensor] | Tensor, encode: Callable[[Tensor], Tensor]
) -> list[Tensor]:
    """`encode` [B, 3, H, W] -> [B, N, C] for images [3, H, W] of any sizes: [N, C] of each."""
    by_shape: dict[torch.Size, list[int]] = {}
    for index, image in enumerate(images):
        by_shape.setdefault(image.shape, []).append(index)
    tokens: dict[int, Tensor] = {}
    for indices in by_shape.values():
        batch = encode(torch.stack([images[i] for i in indices]))
        tokens |= zip(indices, batch, strict=True)
    return [tokens[index] for index in range(len(tokens))]


def check_overflow(tokens: Sequence[Tensor], dtype: torch.dtype, model: str) -> None:
    """Raise ValueError where features of a model that computes in float16 are not finite."""
    if dtype == torch.float16 and not all(bool(x.isfinite().all()) for x in tokens):
        raise ValueError(
            f"features of {model} overflow in float16: use bfloat16 (--bf16 True) or float32"
        )


def freeze_unused(radio: RadioModel, config: TowerConfig) -> None:
    """Freeze the parameters that the chosen features do not depend on, whatever the images.

    Distributed training fails on parameters that never get a gradient, and an optimizer would let
    them decay.
    """
    step = radio.min_resolution_step
    height, width = radio.nearest_supported_resolution(step, step)
    with torch.enable_grad():
        image = torch.zeros(1, 3, height, width, device=next(radio.parameters()).device)
        nodes: list[Any] = [_features(radio, image, config).grad_fn]
    used: set[int] = set()
    seen: set[Any] = set()
    while nodes:  # walks the graph back to the parameters
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):  # the end of a path: gradients are added up here
            used.add(id(node.variable))
        nodes.extend(earlier for earlier, _ in node.next_functions)
    for parameter in radio.parameters():
        if id(parameter) not in used:
            parameter.requires_grad_(False)


def normalised(features: Tensor, how: Normalization) -> Tensor:
    """Features [..., C] in another scale, see `TowerConfig`; computed in float32."""
    if how == "none":
        return features
    wide = features.float()
    if how == "layer_norm":
        return F.layer_norm(wide, wide.shape[-1:], eps=_EPSILON).to(features.dtype)
    scale = torch.rsqrt(wide.pow(2).mean(dim=-1, keepdim=True) + _EPSILON)
    return (wide * scale).to(features.dtype)


def _features(radio: RadioModel, images: Tensor, config: TowerConfig) -> Tensor:
    """[B, 3, H, W] to [B, N, C]."""
    if config.adaptor:
        return radio.forward_all(images, [config.adaptor], "NLC")[config.adaptor].features
    blocks = _blocks(radio, config)
    if not blocks:
        return radio.forward_all(images, feature_fmt="NLC")["backbone"].features
    distinct = sorted(set(blocks))
    layers = radio.forward_intermediates(
        images, distinct, output_fmt="NLC", stop_early=True, intermediates_only=True
    )
    return torch.cat([layers[distinct.index(block)] for block in blocks], dim=-1)


def _blocks(radio: RadioModel, config: TowerConfig) -> list[int]:
    """The chosen blocks counted from 0, in the order asked for; empty for the last features."""
    if config.layers is None:
        return []
    backbone = radio.config.backbone
    if not backbone.num_blocks:
        raise ValueError(
            f"layers need a transformer; {backbone.label} gives the features of its end only"
        )
    block_indices(config.layers, backbone.num_blocks)  # names the known ones if one is unknown
    return [layer % backbone.num_blocks for layer in config.layers]
