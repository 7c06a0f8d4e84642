"""Standardisation of teacher features, undone inside the saved heads."""

import torch
from torch import Tensor, nn

from radio_core.models.adaptors import Adaptor

_LEAST_SPREAD = 1e-6  # of a channel, relative to its mean: below it float32 holds a constant


class FeatureStatistics:
    """Streaming per-channel mean and variance of feature maps, accumulated in float64."""

    def __init__(self, channels: int) -> None:
        self.count = 0
        self.total = torch.zeros(channels, dtype=torch.float64)
        self.squares = torch.zeros(channels, dtype=torch.float64)

    def update(self, features: Tensor) -> None:
        """Add all positions of a map [B, C, h, w]."""
        values = features.detach().double().cpu().transpose(0, 1).flatten(1)  # [C, B*h*w]
        self.count += values.shape[1]
        self.total += values.sum(dim=1)
        self.squares += values.square().sum(dim=1)

    def mean_and_std(self) -> tuple[Tensor, Tensor]:
        """Mean [C] and standard deviation [C] in float32; a constant channel gets std 1.

        Raises:
            ValueError: nothing was added, or the features are not finite.
        """
        if self.count == 0:
            raise ValueError("no features to take statistics from")
        mean = self.total / self.count
        variance = (self.squares / self.count - mean.square()).clamp(min=0)
        if not torch.isfinite(variance).all():
            raise ValueError("the teacher's features are not finite")
        std = variance.sqrt()
        varies = std > _LEAST_SPREAD * mean.abs().clamp(min=1)
        return mean.float(), torch.where(varies, std, 1.0).float()


class Standardizer(nn.Module):
    """(y - mean) / std per channel of a teacher's feature map; identity until it is fitted."""

    mean: Tensor
    std: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("std", torch.ones(channels))

    def fit(self, statistics: FeatureStatistics) -> None:
        """Take over measured statistics."""
        mean, std = statistics.mean_and_std()
        self.mean.copy_(mean)
        self.std.copy_(std)

    def forward(self, features: Tensor) -> Tensor:
        """[B, C, h, w] to the same shape with mean 0 and variance 1 per channel."""
        return (features - self.mean[:, None, None]) / self.std[:, None, None]

    @torch.no_grad()
    def fold_into(self, adaptor: Adaptor) -> None:
        """Change the last layer of the feature head so that it gives features as the teacher's.

        With last layer (W, b) the new one is (std W, std b + mean), row by row.
        """
        last = adaptor.feature_head.output
        repeats = last.out_features // len(self.mean)  # upsampling heads: (u, u, C)
        std, mean = self.std.repeat(repeats), self.mean.repeat(repeats)
        last.weight.mul_(std[:, None])
        last.bias.mul_(std).add_(mean)
