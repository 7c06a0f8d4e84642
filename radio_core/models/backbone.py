"""The contract of a student backbone."""

from typing import Protocol

from torch import Tensor

from radio_core.vision import Output


class Backbone(Protocol):
    """What every student is to the rest of the toolkit: our ViT or any other network.

    Attributes:
        embed_dim: width C of the summary tokens and of the features.
        patch_size: pixels of one feature cell; image sides are multiples of it.
        num_summary_tokens: number S of summary tokens.
    """

    embed_dim: int
    patch_size: int
    num_summary_tokens: int

    def __call__(self, images: Tensor, window_size: int | None = None) -> Output:
        """Run on normalised images.

        Args:
            images: [B, 3, H, W], already normalised; H and W multiples of `patch_size`.
            window_size: side in patches of the attention windows; None for global attention.

        Returns:
            Summary tokens [B, S, C] and features [B, C, H / patch_size, W / patch_size].

        Raises:
            ValueError: wrong sides (names the nearest valid size), or windows not supported.
        """
        ...
