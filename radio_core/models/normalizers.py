"""Normalisation of the backbone's features that some releases carry: centred, rotated, scaled."""

from typing import Literal

import torch
from torch import Tensor, nn

AlphaScheme = Literal["none", "pre-alpha", "post-alpha"]


class FeatureNormalizer(nn.Module):
    """f -> (f - mean) tx^T on the features; summaries stay as they are."""

    mean: Tensor
    tx: Tensor

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(embed_dim))
        self.register_buffer("tx", torch.eye(embed_dim))

    def forward(self, features: Tensor) -> Tensor:
        """Maps [B, C, h, w] to [B, C, h, w]."""
        tokens = (features.movedim(1, -1) - self.mean) @ self.tx.t()
        return tokens.movedim(-1, 1)


class IntermediateNormalizer(nn.Module):
    """For the tokens after block i: y = (x - means[i]) R^T, and a factor alphas[i].

    Args:
        num_layers: number L of blocks.
        embed_dim: width C.
        per_layer: a rotation R for every block, instead of one for all.
    """

    alphas: Tensor
    rotation: Tensor
    means: Tensor

    def __init__(self, num_layers: int, embed_dim: int, per_layer: bool) -> None:
        super().__init__()
        rotation = torch.eye(embed_dim)
        if per_layer:
            rotation = rotation.expand(num_layers, -1, -1).clone()
        self.register_buffer("alphas", torch.ones(num_layers))
        self.register_buffer("rotation", rotation)
        self.register_buffer("means", torch.zeros(num_layers, embed_dim))

    def rotated(self, patches: Tensor, layer: int, rotation_layer: int) -> Tensor:
        """(x - means[layer]) R^T with the rotation of `rotation_layer`; [B, N, C] to [B, N, C]."""
        rotation = self.rotation[rotation_layer] if self.rotation.ndim == 3 else self.rotation
        return (patches - self.means[layer]) @ rotation.t()
