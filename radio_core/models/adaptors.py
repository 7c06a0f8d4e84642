"""Adaptors: from the student's tokens to what one teacher would say (paper section 3.2).

An adaptor is a pair of heads; there are three kinds of heads: two generations of MLP, and attention
before an MLP.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from radio_core.models.block import Block
from radio_core.registry import Registry, UnknownName
from radio_core.vision import Output

TEXT_TOWERS: Registry[Callable[[str, Path | None], Any]] = Registry(
    "radio.text_towers", "text tower"
)
"""By the word before ":" of their source: functions of that source and of local weights to take
instead of a download, which return an object with `to(device)` and `encode_text(texts)`."""

ATTENTION_HEADS = 16
ATTENTION_BLOCKS = 2
INITIAL_SCALE = 1e-5


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """The shape of one head.

    Attributes:
        kind: "v2" (`MLPHead`), "v1" (`ReluHead`, the first releases) or "attn" (`AttentionHead`,
            features only).
        out_dim: width of the teacher's output.
        hidden_dim: hidden width (paper: the widest teacher's).
        num_inner: hidden layers between the two linear layers; 0 in the paper.
        norm_eps: of the LayerNorms inside the attention blocks; releases were trained with what
            their timm had, 1e-5 up to timm 1.0.15 and 1e-6 since.
    """

    kind: Literal["v1", "v2", "attn"] = "v2"
    out_dim: int
    hidden_dim: int
    num_inner: int = 0
    norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        for field, low, high in (("out_dim", 1, 1 << 18), ("hidden_dim", 1, 1 << 16)):
            if not low <= getattr(self, field) <= high:
                raise ValueError(f"head {field} must be from {low} to {high}")
        if not 0 <= self.num_inner <= 64 or not 0 < self.norm_eps < 1:
            raise ValueError("head num_inner must be from 0 to 64, and norm_eps in (0, 1)")
        if self.kind == "attn" and self.num_inner:
            raise ValueError("an attention head has no inner layers: num_inner must be 0")


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


class ReluHead(nn.Module):
    """fc1, LayerNorm, ReLU, then `num_inner` times (linear, LayerNorm, ReLU), then fc2."""

    def __init__(self, in_dim: int, hidden_dim: int, out_dim: int, num_inner: int = 0) -> None:
        super().__init__()
        self.fc1 = nn.Linear(in_dim, hidden_dim)
        self.norm = nn.LayerNorm(hidden_dim)
        self.act = nn.ReLU()
        inner: list[nn.Module] = []
        for _ in range(num_inner):
            inner += [nn.Linear(hidden_dim, hidden_dim), nn.LayerNorm(hidden_dim), nn.ReLU()]
        self.inner = nn.Sequential(*inner)
        self.fc2 = nn.Linear(hidden_dim, out_dim)

    @property
    def output(self) -> nn.Linear:
        """The last linear layer."""
        return self.fc2

    def forward(self, x: Tensor) -> Tensor:
        """[..., in_dim] to [..., out_dim]."""
        out: Tensor = self.fc2(self.inner(self.act(self.norm(self.fc1(x)))))
        return out


class AttentionHead(nn.Module):
    """Two transformer blocks over the patches, then an `MLPHead` without inner layers.

    Args:
        in_dim: width of the tokens, a multiple of 16 (the attention heads).
        hidden_dim: hidden width of the MLP.
        out_dim: output width.
        norm_eps: of the LayerNorms inside the blocks.

    Raises:
        ValueError: in_dim is no multiple of 16.
    """

    def __init__(self, in_dim: int, hidden_dim: int, out_dim: int, norm_eps: float = 1e-6) -> None:
        super().__init__()
        if in_dim % ATTENTION_HEADS:
            raise ValueError(
                f"an attention head needs a width that is a multiple of {ATTENTION_HEADS}, "
                f"not {in_dim}"
            )
        self.blocks = nn.Sequential(
            *(
                Block(
                    in_dim, ATTENTION_HEADS, init_values=INITIAL_SCALE, qkv_bias=False, eps=norm_eps
                )
                for _ in range(ATTENTION_BLOCKS)
            )
        )
        self.mlp = MLPHead(in_dim, hidden_dim, out_dim)

    @property
    def output(self) -> nn.Linear:
        """The last linear layer."""
        return self.mlp.output

    def forward(self, x: Tensor) -> Tensor:
        """Patches [B, N, in_dim] to [B, N, out_dim]."""
        out: Tensor = self.mlp(self.blocks(x))
        return out


Head = MLPHead | ReluHead | AttentionHead


def build_head(config: HeadConfig, in_dim: int, copies: int = 1) -> Head:
    """The head of a configuration.

    Args:
        config: its shape.
        in_dim: width of the tokens that it reads.
        copies: outputs of `out_dim` a token (more than one where features are upsampled).
    """
    out_dim = config.out_dim * copies
    if config.kind == "attn":
        return AttentionHead(in_dim, config.hidden_dim, out_dim, config.norm_eps)
    kind = MLPHead if config.kind == "v2" else ReluHead
    return kind(in_dim, config.hidden_dim, out_dim, config.num_inner)


def _stage(in_dim: int, out_dim: int) -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(in_dim), nn.GELU(), nn.Linear(in_dim, out_dim))


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


class TextTowers:
    """The text towers of a model's adaptors, each loaded when it is first used.

    They are no modules of the model: never in a checkpoint.

    Args:
        sources: adaptor -> source of its text tower; None where it has none.
    """

    def __init__(self, sources: Mapping[str, str | None]) -> None:
        self.sources = {name: source for name, source in sources.items() if source}
        self.paths: dict[str, Path] = {}
        self._loaded: dict[str, Any] = {}

    def encode(self, adaptor: str, texts: Sequence[str], device: torch.device) -> Tensor:
        """T texts -> [T, D] float32 on a device, not normalised.

        Raises:
            ValueError: the adaptor has no text tower, or its source is unknown.
        """
        if adaptor not in self.sources:
            having = ", ".join(self.sources) or "none"
            raise ValueError(f"adaptor {adaptor!r} has no text tower; those that do: {having}")
        if adaptor not in self._loaded:
            source = self.sources[adaptor]
            kind = source.partition(":")[0]
            if kind not in TEXT_TOWERS:  # the name is from a file: it must import nothing
                raise UnknownName.of("text tower", source, TEXT_TOWERS.entries)
            self._loaded[adaptor] = TEXT_TOWERS.load(kind)(source, self.paths.get(adaptor))
        encoded: Tensor = self._loaded[adaptor].to(device).encode_text(texts)
        return encoded.float().to(device)
