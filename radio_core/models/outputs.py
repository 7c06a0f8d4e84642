"""The result types that every model of the toolkit returns."""

from typing import NamedTuple

from torch import Tensor


class RadioOutput(NamedTuple):
    """What a RADIO model, or one of its adaptors, says about a batch of images.

    Attributes:
        summary: [B, S*C], one vector an image (S summary tokens of width C, side by side). None
            only for an adaptor whose teacher has no summary (SAM); the backbone always has one.
        features: [B, N, C] (format "NLC", row-major patches) or [B, C, h, w] (format "NCHW").
    """

    summary: Tensor | None
    features: Tensor


class BackboneOutput(NamedTuple):
    """What a student backbone returns before any adaptor head.

    Attributes:
        summary: [B, S, C], the summary tokens.
        features: [B, C, h, w], the patch features as a map.
    """

    summary: Tensor
    features: Tensor
