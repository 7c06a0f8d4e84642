"""Adaptors: from the student's tokens to what one teacher would say (paper section 3.2)."""

import re
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from radio_core.models.heads import Head, HeadConfig, build_head
from radio_core.vision import Output

MAX_TOKEN_SLOT = 1024

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


@dataclass(frozen=True, kw_only=True)
class AdaptorConfig:
    """The shape of one adaptor.

    Attributes:
        name: name under which it is asked for, e.g. "clip"; letters, digits, "_" and "-".
        features: head of the spatial features.
        summary: head of the summary; None where the teacher has none (SAM).
        token_slot: index of the summary token that the summary head reads; None without one.
        upsample: the feature map is this many times finer than the student's.
        text_tower: the text encoder that goes with the summary, as
            `radio_core.teachers.text.load_text_tower` takes it; or None.
    """

    name: str
    features: HeadConfig
    summary: HeadConfig | None = None
    token_slot: int | None = None
    upsample: int = 1
    text_tower: str | None = None

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name) or self.name == "backbone":
            raise ValueError(f"bad adaptor name {self.name!r}: use letters, digits, '_' and '-'")
        if hasattr(nn.ModuleDict, self.name):
            raise ValueError(f"adaptor name {self.name!r} is reserved: choose another")
        if (self.summary is None) != (self.token_slot is None):
            raise ValueError(f"adaptor {self.name}: give both summary and token_slot, or none")
        if self.summary is not None and self.summary.kind == "attn":
            raise ValueError(f"adaptor {self.name}: an attention head is for features only")
        if not 0 <= (self.token_slot or 0) <= MAX_TOKEN_SLOT or not 1 <= self.upsample <= 64:
            raise ValueError(f"adaptor {self.name}: token_slot or upsample is out of range")

    @property
    def feature_dim(self) -> int:
        """Width of the teacher's spatial features."""
        return self.features.out_dim

    @property
    def summary_dim(self) -> int | None:
        """Width of the teacher's summary; None where it has none."""
        return None if self.summary is None else self.summary.out_dim


class Adaptor(nn.Module):
    """The pair of heads of one teacher; `summary_head` is None where the teacher has no summary."""

    def __init__(self, config: AdaptorConfig, embed_dim: int) -> None:
        super().__init__()
        self.config = config
        self.summary_head: Head | None = None
        if config.summary is not None:
            self.summary_head = build_head(config.summary, embed_dim)
        self.feature_head = build_head(config.features, embed_dim, config.upsample**2)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype in which the heads compute."""
        return self.feature_head.output.weight.dtype

    def forward(self, backbone: Output) -> Output:
        """Both heads on the backbone's output, in their own dtype.

        Args:
            backbone: summary tokens [B, S, C] and features [B, C, h, w].

        Returns:
            float32 summary [B, summary_dim] (or None) and features
            [B, feature_dim, h * upsample, w * upsample].
        """
        rows, cols = backbone.features.shape[-2:]
        tokens = backbone.features.flatten(2).transpose(1, 2)  # [B, h*w, C]
        # As the released models do, features keep the rounding of the backbone's dtype.
        features = self.feature_head(tokens.to(self.dtype)).to(tokens.dtype).float()
        features = _to_map(features, rows, cols, self.config.upsample)
        if self.summary_head is None:
            return Output(None, features)
        assert backbone.summary is not None
        slot = self.config.token_slot if backbone.summary.shape[1] > 1 else 0
        summary = self.summary_head(backbone.summary[:, slot].to(self.dtype))
        return Output(summary.float(), features)


def _to_map(tokens: Tensor, rows: int, cols: int, upsample: int) -> Tensor:
    """Tokens [B, rows*cols, u*u*C], ordered (u, u, C), to a map [B, C, rows*u, cols*u]."""
    batch = tokens.shape[0]
    x = tokens.reshape(batch, rows, cols, upsample, upsample, -1)
    x = x.transpose(2, 3).reshape(batch, rows * upsample, cols * upsample, -1)
    return x.permute(0, 3, 1, 2)
