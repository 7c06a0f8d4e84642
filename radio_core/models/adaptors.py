"""Adaptor heads: from the student's tokens to what one teacher would say (paper section 3.2)."""

import re
from dataclasses import dataclass

from torch import Tensor, nn

from radio_core.models.outputs import BackboneOutput, RadioOutput

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


@dataclass(frozen=True, kw_only=True)
class AdaptorConfig:
    """The shape of one adaptor.

    Attributes:
        name: name under which it is asked for, e.g. "clip"; letters, digits, "_" and "-".
        feature_dim: width of the teacher's spatial features.
        summary_dim: width of the teacher's summary; None when it has none (SAM).
        token_slot: index of the summary token that the summary head reads; None without one.
        hidden_dim: hidden width of both heads (paper: the widest teacher's).
        num_inner: residual layers between the two linear layers; 0 in the paper.
        upsample: the feature map is this many times finer than the student's.
        text_tower: name of the teacher whose text encoder goes with the summary; or None.
    """

    name: str
    feature_dim: int
    summary_dim: int | None = None
    token_slot: int | None = None
    hidden_dim: int
    num_inner: int = 0
    upsample: int = 1
    text_tower: str | None = None

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name) or self.name == "backbone":
            raise ValueError(f"bad adaptor name {self.name!r}: use letters, digits, '_' and '-'")
        if hasattr(nn.ModuleDict, self.name):
            raise ValueError(f"adaptor name {self.name!r} is reserved: choose another")
        if (self.summary_dim is None) != (self.token_slot is None):
            raise ValueError(f"adaptor {self.name}: give both summary_dim and token_slot, or none")
        widths = (self.feature_dim, self.hidden_dim, self.upsample, self.summary_dim or 1)
        if min(widths) < 1 or max(widths) > 65536 or self.upsample > 64:
            raise ValueError(f"adaptor {self.name}: a width or upsample is out of range")
        if not 0 <= self.num_inner <= 64 or not 0 <= (self.token_slot or 0) <= 1024:
            raise ValueError(f"adaptor {self.name}: num_inner or token_slot is out of range")


class MLPHead(nn.Module):
    """fc1, then `num_inner` residual (LayerNorm, GELU, linear), then LayerNorm, GELU, linear."""

    def __init__(self, in_dim: int, hidden_dim: int, out_dim: int, num_inner: int = 0) -> None:
        super().__init__()
        self.fc1 = nn.Linear(in_dim, hidden_dim)
        self.blocks = nn.ModuleList(_stage(hidden_dim, hidden_dim) for _ in range(num_inner))
        self.final = _stage(hidden_dim, out_dim)

    @property
    def output(self) -> nn.Linear:
        """The last linear layer."""
        last = self.final[-1]
        assert isinstance(last, nn.Linear)
        return last

    def forward(self, x: Tensor) -> Tensor:
        """[..., in_dim] to [..., out_dim]."""
        x = self.fc1(x)
        for block in self.blocks:
            x = x + block(x)
        out: Tensor = self.final(x)
        return out


class Adaptor(nn.Module):
    """The pair of heads of one teacher; `summary_head` is None where the teacher has no summary."""

    def __init__(self, config: AdaptorConfig, embed_dim: int) -> None:
        super().__init__()
        self.config = config
        self.summary_head: MLPHead | None = None
        if config.summary_dim is not None:
            self.summary_head = MLPHead(
                embed_dim, config.hidden_dim, config.summary_dim, config.num_inner
            )
        self.feature_head = MLPHead(
            embed_dim, config.hidden_dim, config.feature_dim * config.upsample**2, config.num_inner
        )

    def forward(self, backbone: BackboneOutput) -> RadioOutput:
        """Both heads on the backbone's output, in their own dtype.

        Args:
            backbone: summary tokens [B, S, C] and features [B, C, h, w].

        Returns:
            float32 summary [B, summary_dim] (or None) and features
            [B, feature_dim, h * upsample, w * upsample].
        """
        dtype = self.feature_head.fc1.weight.dtype
        rows, cols = backbone.features.shape[-2:]
        tokens = backbone.features.flatten(2).transpose(1, 2)  # [B, h*w, C]
        features = self.feature_head(tokens.to(dtype)).to(tokens.dtype).float()
        features = _to_map(features, rows, cols, self.config.upsample)
        if self.summary_head is None:
            return RadioOutput(None, features)
        slot = self.config.token_slot if backbone.summary.shape[1] > 1 else 0
        return RadioOutput(self.summary_head(backbone.summary[:, slot].to(dtype)).float(), features)


def _stage(in_dim: int, out_dim: int) -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(in_dim), nn.GELU(), nn.Linear(in_dim, out_dim))


def _to_map(tokens: Tensor, rows: int, cols: int, upsample: int) -> Tensor:
    """Tokens [B, rows*cols, u*u*C], ordered (u, u, C), to a map [B, C, rows*u, cols*u]."""
    batch = tokens.shape[0]
    x = tokens.reshape(batch, rows, cols, upsample, upsample, -1)
    x = x.transpose(2, 3).reshape(batch, rows * upsample, cols * upsample, -1)
    return x.permute(0, 3, 1, 2)
