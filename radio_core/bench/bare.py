"""The mathematics of a vision transformer as bare calls on its weights.

No module, no configuration and no check stands between these calls, so they show what the model
costs over its mathematics. Positions come already resized.
"""

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from radio_core.models import RadioModel, VisionTransformer
from radio_core.models.vit import LAYER_NORM_EPS


@dataclass(frozen=True)
class BareBlock:
    """Weights and biases of one block: (weight, bias) pairs as torch's functions take them."""

    norm1: tuple[Tensor, Tensor]
    qkv: tuple[Tensor, Tensor]
    proj: tuple[Tensor, Tensor]
    norm2: tuple[Tensor, Tensor]
    fc1: tuple[Tensor, Tensor]
    fc2: tuple[Tensor, Tensor]


@dataclass(frozen=True)
class BareViT:
    """The weights of a ViT for images of one size.

    Attributes:
        mean: [3, 1, 1], and `std`: the normalisation of the images.
        patch_weight: [C, 3 * patch_size**2].
        positions: [1, h*w, C], resized for the images.
        prefix: [B, P, C], class tokens and registers.
        blocks: the weights of the blocks.
        patch_size: pixels of a patch.
        num_heads: attention heads.
    """

    mean: Tensor
    std: Tensor
    patch_weight: Tensor
    positions: Tensor
    prefix: Tensor
    blocks: tuple[BareBlock, ...]
    patch_size: int
    num_heads: int

    def tokens(self, images: Tensor) -> Tensor:
        """Everything that the model computes with global attention.

        Args:
            images: [B, 3, H, W] in [0, 1].

        Returns:
            The tokens after the last block, [B, P + h*w, C].
        """
        normalised = ((images - self.mean) / self.std).to(self.patch_weight.dtype)
        patches = F.linear(self._cut(normalised), self.patch_weight) + self.positions
        x = torch.cat([self.prefix, patches], dim=1)
        width = x.shape[-1:]
        for block in self.blocks:
            normed = F.layer_norm(x, width, *block.norm1, LAYER_NORM_EPS)
            x = x + F.linear(self._attend(F.linear(normed, *block.qkv)), *block.proj)
            normed = F.layer_norm(x, width, *block.norm2, LAYER_NORM_EPS)
            x = x + F.linear(F.gelu(F.linear(normed, *block.fc1)), *block.fc2)
        return x

    def products(self, images: Tensor, tokens: Tensor) -> None:
        """The matrix products and the attention alone, on inputs of the right shapes.

        Without the LayerNorms a block cannot take the last one's output: values would overflow or
        die out. So every block starts from the same tokens.

        Args:
            images: [B, 3, H, W], already normalised.
            tokens: [B, P + h*w, C], about normally distributed.
        """
        F.linear(self._cut(images), self.patch_weight)
        for block in self.blocks:
            F.linear(self._attend(F.linear(tokens, *block.qkv)), *block.proj)
            F.linear(F.linear(tokens, *block.fc1), *block.fc2)

    def _cut(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] to flattened patches [B, h*w, 3 * patch_size**2]."""
        batch, channels, height, width = images.shape
        p = self.patch_size
        x = images.reshape(batch, channels, height // p, p, width // p, p)
        return x.permute(0, 2, 4, 1, 3, 5).reshape(batch, -1, channels * p * p)

    def _attend(self, qkv: Tensor) -> Tensor:
        """Queries, keys and values [B, N, 3 * C] to the attended values [B, N, C]."""
        batch, length, width = qkv.shape
        heads = self.num_heads
        q, k, v = qkv.reshape(batch, length, 3, heads, width // 3 // heads).permute(2, 0, 3, 1, 4)
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def bare_vit(model: RadioModel, batch: int, height: int, width: int) -> BareViT:
    """The weights of a model as bare tensors, sharing their memory.

    Args:
        model: in eval mode, with a plain ViT: one matrix per patch, an MLP, and neither
            LayerScale nor a final norm.
        batch: images of a batch.
        height: of the images, in pixels.
        width: of the images, in pixels.

    Raises:
        ValueError: another kind of backbone.
    """
    if not has_bare_version(model):
        raise ValueError("the bare calls know plain ViTs only: patch stem, MLP, no LayerScale")
    state = {name: tensor.detach() for name, tensor in model.backbone.state_dict().items()}

    def pair(name: str) -> tuple[Tensor, Tensor]:
        return state[f"{name}.weight"], state[f"{name}.bias"]

    vit = cast(VisionTransformer, model.backbone)
    config = vit.config
    rows, cols = height // config.patch_size, width // config.patch_size
    weight = state["patch_generator.embedder.weight"]
    prefix = state.get("patch_generator.cls_token.token", weight.new_empty(0, config.embed_dim))
    with torch.no_grad():
        positions = vit.patch_generator.positions(batch, rows, cols).contiguous()
    return BareViT(
        mean=weight.new_tensor(model.config.mean, dtype=torch.float32).view(3, 1, 1),
        std=weight.new_tensor(model.config.std, dtype=torch.float32).view(3, 1, 1),
        patch_weight=weight,
        positions=positions,
        prefix=prefix.expand(batch, -1, -1),
        blocks=tuple(
            BareBlock(
                norm1=pair(f"blocks.{i}.norm1"),
                qkv=pair(f"blocks.{i}.attn.qkv"),
                proj=pair(f"blocks.{i}.attn.proj"),
                norm2=pair(f"blocks.{i}.norm2"),
                fc1=pair(f"blocks.{i}.mlp.fc1"),
                fc2=pair(f"blocks.{i}.mlp.fc2"),
            )
            for i in range(config.depth)
        ),
        patch_size=config.patch_size,
        num_heads=config.num_heads,
    )


def has_bare_version(model: RadioModel) -> bool:
    """Whether `bare_vit` takes this model."""
    vit = model.backbone
    return (
        isinstance(vit, VisionTransformer)
        and (vit.config.stem, vit.config.ffn) == ("patch", "mlp")
        and vit.config.init_values is None
        and not vit.config.patch_bias
        and not vit.config.final_norm
    )
