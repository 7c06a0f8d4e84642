"""What a vision model of another library needs besides itself: its normalisation."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

OPENAI_MEAN, OPENAI_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)


class ForeignBackbone(nn.Module):
    """A frozen network with its normalisation in front.

    Args:
        network: takes normalised images.
        mean: per-channel mean that is subtracted, RGB in [0, 1].
        std: per-channel standard deviation that is divided by.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(tuple(mean)).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(tuple(std)).view(3, 1, 1))
        self.requires_grad_(False).eval()

    def normalised(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] in [0, 1] -> the same as the network takes them."""
        return (images - self.mean) / self.std

    def summary(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] in [0, 1] -> [B, D]."""
        raise NotImplementedError

    def features(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] in [0, 1] -> [B, C, h, w]."""
        raise NotImplementedError
