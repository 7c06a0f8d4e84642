"""The two ways from pixels to patch tokens: one matrix per patch, or a stack of convolutions."""

import torch.nn.functional as F
from torch import Tensor, nn


class PatchEmbed(nn.Linear):
    """Cuts the image into patches and multiplies each, flattened (channel, row, column)."""

    def __init__(self, patch_size: int, embed_dim: int, bias: bool = False) -> None:
        super().__init__(3 * patch_size**2, embed_dim, bias)
        self.patch_size = patch_size

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] to row-major tokens [B, H/p * W/p, embed_dim]."""
        batch, channels, height, width = images.shape
        p = self.patch_size
        x = images.reshape(batch, channels, height // p, p, width // p, p)
        x = x.permute(0, 2, 4, 1, 3, 5).reshape(batch, -1, channels * p * p)
        return F.linear(x, self.weight, self.bias)


class ConvStem(nn.Module):
    """Halves the image log2(patch_size) times by 3x3 convolutions with BatchNorm and ReLU.

    A small student learns much faster behind it than behind `PatchEmbed`. The number of channels
    doubles from layer to layer up to `embed_dim`; a 1x1 convolution ends it.

    Raises:
        ValueError: patch_size is not a power of two, at least 2.
    """

    def __init__(self, patch_size: int, embed_dim: int) -> None:
        super().__init__()
        steps = patch_size.bit_length() - 1
        if steps < 1 or patch_size != 1 << steps:
            raise ValueError(f"a conv stem needs patch_size 2, 4, 8, 16, ..., not {patch_size}")
        layers: list[nn.Module] = []
        width = 3
        for step in range(steps):
            wider = max(embed_dim >> (steps - 1 - step), 8)
            layers += [
                nn.Conv2d(width, wider, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(wider),
                nn.ReLU(inplace=True),
            ]
            width = wider
        self.layers = nn.Sequential(*layers, nn.Conv2d(width, embed_dim, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] to row-major tokens [B, H/p * W/p, embed_dim]."""
        x: Tensor = self.layers(images)
        return x.flatten(2).transpose(1, 2)
