"""The features that a RADIO tower hands to a language model."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from radio_core.models.intermediates import block_indices
from radio_core.models.radio import RadioModel
from radio_core.models.vit import ViTConfig
from radio_llava.tower_config import Normalization, TowerConfig

_EPSILON = 1e-6


def feature_dim(radio: RadioModel, config: TowerConfig) -> int:
    """Width C of the features that `config` chooses.

    Raises:
        ValueError: the model has no such adaptor or blocks; those that it has are named.
    """
    if config.adaptor:
        radio.check_adaptors([config.adaptor])
        return next(a.feature_dim for a in radio.config.adaptors if a.name == config.adaptor)
    return radio.embed_dim * len(_blocks(radio, config) or (0,))


def tower_features(
    radio: RadioModel, images: Sequence[Tensor] | Tensor, config: TowerConfig
) -> list[Tensor]:
    """The chosen features of every image; images of the same size share one forward.

    Args:
        radio: the model.
        images: each [3, H, W], RGB in [0, 1], of sides that the model takes; sizes may differ. A
            batch [B, 3, H, W] is a sequence of such images.
        config: which features, in which scale.

    Returns:
        For each image [N, C], the tokens row by row, in the model's dtype.

    Raises:
        ValueError: as `feature_dim`, and for sides that are no multiples of the model's step.
    """
    by_shape: dict[torch.Size, list[int]] = {}
    for index, image in enumerate(images):
        by_shape.setdefault(image.shape, []).append(index)
    features: dict[int, Tensor] = {}
    for indices in by_shape.values():
        batch = _features(radio, torch.stack([images[i] for i in indices]), config)
        features |= zip(indices, normalised(batch, config.normalize), strict=True)
    return [features[i] for i in range(len(features))]


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
    layers = radio.forward_intermediates(
        images, sorted(set(blocks)), output_fmt="NLC", stop_early=True, intermediates_only=True
    )
    of_block = dict(zip(sorted(set(blocks)), layers, strict=True))
    return torch.cat([of_block[block] for block in blocks], dim=-1)


def _blocks(radio: RadioModel, config: TowerConfig) -> list[int]:
    """The chosen blocks counted from 0, in the order asked for; empty for the last features."""
    if config.layers is None:
        return []
    backbone = radio.config.backbone
    if not isinstance(backbone, ViTConfig):
        raise ValueError("layers need a transformer; E-RADIO gives the features of its end only")
    block_indices(config.layers, backbone.depth)  # names the known ones where one is unknown
    return [layer % backbone.depth for layer in config.layers]
