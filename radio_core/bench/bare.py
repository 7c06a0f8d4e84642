"""The mathematics of a vision transformer as bare calls on its weights.

No module, no configuration and no check stands between these calls, so they show what the model
costs over its mathematics. Positions come already resized.
"""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from radio_core.models import RadioModel, VisionTransformer, ViTConfig
from radio_core.models.vit import LAYER_NORM_EPS

_LAYERS = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")


class BareViT:
    """The weights of a plain ViT (`has_bare_version`) for images of one size, shared with the
    model."""

    def __init__(self, model: RadioModel, batch: int, height: int, width: int) -> None:
        if not has_bare_version(model):
            raise ValueError("the bare calls know plain ViTs only: patch stem, MLP, no LayerScale")
        vit = cast(VisionTransformer, model.backbone)
        config = vit.config
        state = {name: tensor.detach() for name, tensor in vit.state_dict().items()}
        self._size, self._heads = config.patch_size, config.num_heads
        self._patch = weight = state["patch_generator.embedder.weight"]  # [C, 3 * patch_size**2]
        self._mean, self._std = (
            weight.new_tensor(values, dtype=torch.float32).view(3, 1, 1)
            for values in (model.config.mean, model.config.std)
        )
        prefix = state.get("patch_generator.cls_token.token", weight.new_empty(0, config.embed_dim))
        self._prefix = prefix.expand(batch, -1, -1)  # class tokens and registers [B, P, C]
        rows, cols = height // self._size, width // self._size
        with torch.no_grad():
            self._positions = vit.patch_generator.positions(batch, rows, cols).contiguous()
        self._blocks = [
            [
                (state[f"blocks.{i}.{layer}.weight"], state[f"blocks.{i}.{layer}.bias"])
                for layer in _LAYERS
            ]
            for i in range(config.depth)
        ]

    def tokens(self, images: Tensor) -> Tensor:
        """All that the model computes with global attention, of images [B, 3, H, W] in [0, 1].

        Returns the tokens after the last block, [B, P + h*w, C].
        """
        normalised = ((images - self._mean) / self._std).to(self._patch.dtype)
        patches = F.linear(self._cut(normalised), self._patch) + self._positions
        x = torch.cat([self._prefix, patches], dim=1)
        width = x.shape[-1:]
        for norm1, qkv, proj, norm2, fc1, fc2 in self._blocks:
            normed = F.layer_norm(x, width, *norm1, LAYER_NORM_EPS)
            x = x + F.linear(self._attend(F.linear(normed, *qkv)), *proj)
            normed = F.layer_norm(x, width, *norm2, LAYER_NORM_EPS)
            x = x + F.linear(F.gelu(F.linear(normed, *fc1)), *fc2)
        return x

    def products(self, images: Tensor, tokens: Tensor) -> None:
        """The matrix products and the attention alone, on normalised images and about normal
        tokens.

        Without the LayerNorms a block cannot take the last one's output: values would overflow or
        die out. So every block starts from the same tokens [B, P + h*w, C].
        """
        F.linear(self._cut(images), self._patch)
        for _, qkv, proj, _, fc1, fc2 in self._blocks:
            F.linear(self._attend(F.linear(tokens, *qkv)), *proj)
            F.linear(F.linear(tokens, *fc1), *fc2)

    def _cut(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] to flattened patches [B, h*w, 3 * patch_size**2]."""
        batch, channels, height, width = images.shape
        p = self._size
        x = images.reshape(batch, channels, height // p, p, width // p, p)
        return x.permute(0, 2, 4, 1, 3, 5).reshape(batch, -1, channels * p * p)

    def _attend(self, qkv: Tensor) -> Tensor:
        """Queries, keys and values [B, N, 3 * C] to the attended values [B, N, C]."""
        batch, length, width = qkv.shape
        heads = self._heads
        q, k, v = qkv.reshape(batch, length, 3, heads, width // 3 // heads).permute(2, 0, 3, 1, 4)
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def has_bare_version(model: RadioModel) -> bool:
    """True for a model that `BareViT` takes."""
    config = model.config.backbone
    return (
        isinstance(config, ViTConfig)
        and (config.stem, config.ffn) == ("patch", "mlp")
        and config.init_values is None
        and not config.patch_bias
        and not config.final_norm
    )
