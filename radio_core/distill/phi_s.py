"""PHI-S (Ranzinger et al. 2024): a rotation after which all channels have the same variance.

y' = H U^T (y - mean) / phi, with the covariance U L U^T, phi^2 = tr(L) / C and H an orthogonal
Hadamard matrix: every channel is an equal mix of all principal directions. Distances only change
by the factor 1 / phi, so mean squared errors in both spaces say the same.
"""

import torch
from torch import Tensor

from radio_core.distill.hadamard import spreading_rotation
from radio_core.distill.normalization import FeatureStatistics, Normalizer, spread


class PhiS(Normalizer):
    """The normalisation of one teacher output of C channels; identity until it is fitted.

    Args:
        channels: C.
    """

    rotation: Tensor
    scale: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.register_buffer("rotation", torch.eye(channels))
        self.register_buffer("scale", torch.ones(1))

    def fit(self, statistics: FeatureStatistics) -> str | None:
        """Take over a mean and a covariance, of whatever rank.

        Returns:
            How far the channels' variances spread where there is no Hadamard matrix of their
            number; None where there is one and they are equal.
        """
        mean, variance = statistics.mean_and_variance()
        values, directions = torch.linalg.eigh(statistics.covariance())
        mixing, exact = spreading_rotation(len(mean))
        rotation = torch.from_numpy(mixing) @ directions.T
        overall = variance.mean()
        self.mean.copy_(mean)
        self.rotation.copy_(rotation)
        self.scale.copy_(spread(mean.abs().max(), overall))
        if exact:
            return None
        ratios = torch.from_numpy(mixing).square() @ values / overall.clamp(min=1e-300)
        return (
            f"no Hadamard matrix of order {len(mean)} is known: after a random rotation the "
            f"channels have {ratios.min():.2f} to {ratios.max():.2f} times the mean variance"
        )

    def forward(self, features: Tensor) -> Tensor:
        """[B, C, ...] to the same shape; see `Normalizer.forward`."""
        centred = features.float().flatten(2) if features.ndim > 2 else features.float()[..., None]
        # Under autocast a rotation in bfloat16 would lose what the loss is to measure.
        with torch.autocast(features.device.type, enabled=False):
            rotated = self.rotation @ (centred - self.mean[:, None])
        return (rotated / self.scale).view_as(features)

    def scale_back(self, features: Tensor) -> Tensor:
        """phi U H^T, in the features' dtype; see `Normalizer.scale_back`."""
        tokens = features.reshape(*features.shape[:2], -1)
        rotation, scale = self.rotation.to(features), self.scale.to(features)
        return (scale * (rotation.T @ tokens)).view_as(features)
