"""The features that a RADIO tower hands to a language model."""

from collections.abc import Sequence
from typing import Any

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
        ValueError: as `feature_dim`, for sides that are no multiples of the model's step, and for
            features that are too large for float16 where the model computes in it.
    """
    by_shape: dict[torch.Size, list[int]] = {}
    for index, image in enumerate(images):
        by_shape.setdefault(image.shape, []).append(index)
    features: dict[int, Tensor] = {}
    for indices in by_shape.values():
        batch = _features(radio, torch.stack([images[i] for i in indices]), config)
        features |= zip(indices, normalised(batch, config.normalize), strict=True)
    half = next(radio.backbone.parameters()).dtype == torch.float16
    if half and not all(bool(tokens.isfinite().all()) for tokens in features.values()):
        raise ValueError(
            f"features of {config.model} overflow in float16: use bfloat16 (--bf16 True) or float32"
        )
    return [features[i] for i in range(len(features))]


def freeze_unused(radio: RadioModel, config: TowerConfig) -> None:
    """Freeze the parameters that the chosen features do not depend on, whatever the images.

    Other adaptors' heads, heads of the summary, blocks after the chosen ones: distributed training
    fails on parameters that never get a gradient, and an optimizer would let them decay.

    Args:
        radio: its weights have values. Parameters that are frozen already stay so.
        config: which features.
    """
    step = radio.min_resolution_step
    height, width = radio.nearest_supported_resolution(step, step)
    first = next(radio.parameters())
    with torch.enable_grad():
        image = torch.zeros(3, height, width, device=first.device)
        used = _leaves(_features(radio, image[None], config))
    for parameter in radio.parameters():
        if id(parameter) not in used:
            parameter.requires_grad_(False)


def _leaves(output: Tensor) -> set[int]:
    """The `id` of every parameter that `output` was computed from and that takes gradients."""
    leaves: set[int] = set()
    seen: set[Any] = set()
    nodes: list[Any] = [output.grad_fn]
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):  # the end of a path: gradients are added up here
            leaves.add(id(node.variable))
        nodes.extend(earlier for earlier, _ in node.next_functions)
    return leaves


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
