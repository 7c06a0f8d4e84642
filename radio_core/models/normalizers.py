"""Affine maps around the backbone: of the images, of its features, and of intermediate ones."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


class InputConditioner(nn.Module):
    """y = (x - mean) / std, channel by channel, always in float32.

    Args:
        mean: per-channel mean, RGB in [0, 1].
        std: per-channel standard deviation.
    """

    norm_mean: Tensor
    norm_std: Tensor

    def __init__(
        self,
        mean: tuple[float, float, float] = CLIP_MEAN,
        std: tuple[float, float, float] = CLIP_STD,
    ) -> None:
        super().__init__()
        self.register_buffer("norm_mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("norm_std", torch.tensor(std).view(3, 1, 1), persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "InputConditioner":
        """Follow the model to another device, but never to a coarser dtype."""
        nn.Module._apply(self, lambda tensor: tensor.to(fn(tensor).device), recurse)
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W], RGB in [0, 1], to normalised float32 images of the same shape."""
        return (images - self.norm_mean) / self.norm_std

    def extra_repr(self) -> str:
        """Mean and std, for printing."""
        values: dict[str, Any] = {"mean": self.norm_mean.flatten(), "std": self.norm_std.flatten()}
        return ", ".join(f"{name}={value.tolist()}" for name, value in values.items())


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
