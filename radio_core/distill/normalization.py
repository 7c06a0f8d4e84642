"""Normalisation of teacher outputs by their statistics, undone inside the saved heads."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from radio_core.distill.config import TrainConfig
from radio_core.distill.groups import Normalization
from radio_core.distill.hadamard import spreading_rotation
from radio_core.processes import Processes
from radio_core.streams import Stream
from radio_core.vision import ModelSpec, Output

TOKENS_PER_IMAGE = 64
"""Patch tokens of each image that a covariance is taken from."""

LEAST_SPREAD = 1e-6
"""Of a channel, relative to its mean: below it float32 holds a constant."""


class FeatureStatistics:
    """Streaming mean and variance or covariance of C channels, as sums in float64 on the CPU.

    Args:
        channels: C.
        covariance: keep sum y y^T [C, C] rather than its diagonal alone.
    """

    def __init__(self, channels: int, covariance: bool = False) -> None:
        self.count = torch.zeros(1, dtype=torch.float64)
        self.total = torch.zeros(channels, dtype=torch.float64)
        shape = (channels, channels) if covariance else (channels,)
        self.squares = torch.zeros(shape, dtype=torch.float64)

    @property
    def has_covariance(self) -> bool:
        """True if `covariance` can be asked for."""
        return self.squares.ndim == 2

    def update(self, features: Tensor) -> None:
        """Add all positions of a map [B, C, h, w], or vectors [B, C]."""
        values = features.detach().double().cpu().transpose(0, 1).flatten(1)  # [C, B*h*w]
        self.count += values.shape[1]
        self.total += values.sum(dim=1)
        self.squares += values @ values.T if self.has_covariance else values.square().sum(dim=1)

    def mean_and_variance(self) -> tuple[Tensor, Tensor]:
        """Mean [C] and variance [C] in float64.

        Raises:
            ValueError: nothing was added, or the features are not finite.
        """
        if self.count == 0:
            raise ValueError("no features to take statistics from")
        mean = self.total / self.count
        squares = self.squares.diagonal() if self.has_covariance else self.squares
        variance = (squares / self.count - mean.square()).clamp(min=0)
        if not torch.isfinite(variance).all():
            raise ValueError("the teacher's features are not finite")
        return mean, variance

    def covariance(self) -> Tensor:
        """Covariance [C, C] in float64; the errors of `mean_and_variance`."""
        assert self.has_covariance
        mean, _ = self.mean_and_variance()
        return self.squares / self.count - torch.outer(mean, mean)


class OutputStatistics:
    """Statistics of those teacher outputs of a run that are normalised.

    Attributes:
        by_output: "<teacher>/features" or "<teacher>/summary" -> its statistics.

    Args:
        config: the run.
        specs: adaptor name -> what is known of its teacher, the same on every process.
    """

    def __init__(self, config: TrainConfig, specs: Mapping[str, ModelSpec]) -> None:
        self._seed = config.run.seed
        self.by_output = {
            output: FeatureStatistics(output_width(output, specs), kind == "phi_s")
            for output, kind in normalizations(config, specs).items()
            if kind != "none"
        }

    def update(self, outputs: Mapping[str, Output], views: tuple[int, ...]) -> None:
        """Add what teachers say about a batch.

        Args:
            outputs: adaptor name -> output; teachers may be missing.
            views: id of each view in the batch, which tokens are drawn by.
        """
        for output, statistics in self.by_output.items():
            name, _, part = output.partition("/")
            if name in outputs:
                values = getattr(outputs[name], part)
                if part == "features" and statistics.has_covariance:
                    values = sample_tokens(values, views, self._seed)
                statistics.update(values)

    def reduce(self, processes: Processes) -> None:
        """Add up over all processes; sums travel, 8 C (C + 1) bytes at most, never features."""
        for part in self.by_output.values():
            processes.sum([part.count, part.total, part.squares])


class Normalizer(nn.Module):
    """Base class: an affine map of the channels of [B, C, ...], and its inverse.

    Args:
        channels: C.
    """

    mean: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))

    def fit(self, statistics: FeatureStatistics) -> str | None:
        """Take over measured statistics; returns what the user should know of the result."""
        raise NotImplementedError

    def forward(self, features: Tensor) -> Tensor:
        """Teacher outputs [B, C, ...] to what the loss sees, same shape, float32."""
        raise NotImplementedError

    def scale_back(self, features: Tensor) -> Tensor:
        """The linear part of `inverse`, on [B, C, ...]."""
        raise NotImplementedError

    def inverse(self, features: Tensor) -> Tensor:
        """The way back to the teacher's numbers, on [B, C, ...]."""
        return self.scale_back(features) + _along_channels(self.mean.to(features), features)

    @torch.no_grad()
    def fold_into(self, last: nn.Linear) -> None:
        """Change the last layer (W, b) of a head so that it gives outputs as the teacher's.

        With y = A x + mean for `inverse`, the new layer is (A W, A b + mean).

        Args:
            last: of out_features = u * u * C, ordered (u, u, C) for an upsampling head; its
                weight is no parametrisation (`fold_spectral` comes first).
        """
        assert not parametrize.is_parametrized(last)
        channels = len(self.mean)
        weight = last.weight.double().view(-1, channels, last.in_features)  # [u*u, C, in]
        last.weight.copy_(self.scale_back(weight).view_as(last.weight))
        last.bias.copy_(self.inverse(last.bias.double().view(-1, channels)).flatten())

    @torch.no_grad()
    def unfold_from(self, last: nn.Linear) -> None:
        """Change the last layer of a head as the teacher's so that it gives normalised targets.

        The inverse of `fold_into`: with y' = f(y) affine, (W, b) becomes (f(W) - f(0), f(b)).
        """
        weight = last.weight.view(-1, len(self.mean), last.in_features)  # [u*u, C, in]
        linear = self(weight) - self(torch.zeros_like(weight))
        bias = self(last.bias.view(-1, len(self.mean)))
        last.weight.copy_(linear.view_as(last.weight))
        last.bias.copy_(bias.flatten())


class Standardizer(Normalizer):
    """(y - mean) / std of each channel; identity until it is fitted.

    Args:
        channels: C.
        shared_scale: one std for all channels, the root of their mean variance ("global").
    """

    std: Tensor

    def __init__(self, channels: int, shared_scale: bool = False) -> None:
        super().__init__(channels)
        self.shared_scale = shared_scale
        self.register_buffer("std", torch.ones(channels))

    def fit(self, statistics: FeatureStatistics) -> None:
        """Take over mean and variance; a constant channel gets std 1."""
        mean, variance = statistics.mean_and_variance()
        if self.shared_scale:
            variance = variance.mean().expand_as(variance)
        self.mean.copy_(mean)
        self.std.copy_(_spread(mean, variance))

    def forward(self, features: Tensor) -> Tensor:
        """[B, C, ...] to the same shape; see `Normalizer.forward`."""
        mean, std = _along_channels(self.mean, features), _along_channels(self.std, features)
        return (features - mean) / std

    def scale_back(self, features: Tensor) -> Tensor:
        """Times std; see `Normalizer.scale_back`."""
        return features * _along_channels(self.std.to(features), features)


class PhiS(Normalizer):
    """PHI-S (Ranzinger et al. 2024): a rotation after which all channels have the same variance.

    y' = H U^T (y - mean) / phi, with the covariance U L U^T, phi^2 = tr(L) / C and H an orthogonal
    Hadamard matrix: every channel is an equal mix of all principal directions. Distances only
    change by the factor 1 / phi, so mean squared errors in both spaces say the same. Identity
    until it is fitted.

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
        self.scale.copy_(_spread(mean.abs().max(), overall))
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


def build_normalizer(kind: Normalization, channels: int) -> Normalizer:
    """The normalisation of one teacher output of C channels."""
    if kind == "phi_s":
        return PhiS(channels)
    return Standardizer(channels, shared_scale=kind == "global")


def normalizations(config: TrainConfig, specs: Mapping[str, ModelSpec]) -> dict[str, Normalization]:
    """How each output is normalised, as "<teacher>/features" and, where it is used, "/summary".

    Raises:
        ValueError: a summary is to be normalised, but the teacher has none.
    """
    kinds: dict[str, Normalization] = {}
    for name, spec in specs.items():
        teacher = config.teachers[name]
        kinds[f"{name}/features"] = teacher.normalization or config.targets.normalization
        if spec.summary_dim is None and teacher.summary_normalization != "none":
            raise ValueError(f"teacher {name} has no summary: summary_normalization must be none")
        if spec.summary_dim is not None and teacher.summary_weight > 0:
            kinds[f"{name}/summary"] = teacher.summary_normalization
    return kinds


def output_width(output: str, specs: Mapping[str, ModelSpec]) -> int:
    """Channels of "<teacher>/features" or "<teacher>/summary"."""
    name, _, part = output.partition("/")
    width = specs[name].feature_dim if part == "features" else specs[name].summary_dim
    assert width is not None
    return width


def sample_tokens(features: Tensor, views: tuple[int, ...], seed: int) -> Tensor:
    """`TOKENS_PER_IMAGE` positions of each map, drawn by (seed, view), without repetition.

    Args:
        features: [B, C, h, w].
        views: B ids.
        seed: of the run.

    Returns:
        [B, C, min(TOKENS_PER_IMAGE, h * w)].
    """
    tokens = features.flatten(2)  # [B, C, h*w]
    positions = tokens.shape[-1]
    chosen = [Stream.TOKENS.rng(seed, view).permutation(positions) for view in views]
    index = torch.from_numpy(np.stack(chosen)[:, :TOKENS_PER_IMAGE]).to(features.device)
    return tokens.gather(2, index[:, None].expand(-1, tokens.shape[1], -1))


def _along_channels(vector: Tensor, features: Tensor) -> Tensor:
    """A vector [C] in a shape that lines up with the channels of [B, C, ...]."""
    return vector.view(-1, *[1] * (features.ndim - 2))


def _spread(mean: Tensor, variance: Tensor) -> Tensor:
    """Standard deviation of each variance; 1 where it is nothing but rounding of the mean."""
    std = variance.sqrt()
    return torch.where(std > LEAST_SPREAD * mean.abs().clamp(min=1), std, 1.0)
