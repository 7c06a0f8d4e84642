"""Weights that a checkpoint stores as a parametrization (spectral, damp), made plain again."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from radio_core.models.spectral import MIN_GAIN, QKV_CHUNKS

_MARK = ".parametrizations.weight."
_SWIGLU_CHUNKS = 2
_CHUNKED = {"qkv": QKV_CHUNKS, "w12": _SWIGLU_CHUNKS}
_BUFFERS = ("scale", "_u", "_v")


@dataclass(frozen=True)
class SpectralOptions:
    """How a checkpoint's spectral reparametrisation is folded.

    Attributes:
        eps: added to sigma, and the least norm that is divided by.
        power_iterations: run on the stored vectors before sigma is taken.
    """

    eps: float = 1e-6
    power_iterations: int = 1

    @classmethod
    def from_args(cls, spectral_reparam: Any) -> "SpectralOptions":
        """The options in a checkpoint's arguments: a truth value or a dict."""
        if not isinstance(spectral_reparam, Mapping):
            return cls()
        eps = float(spectral_reparam.get("eps", 1e-12))
        iterations = int(spectral_reparam.get("n_power_iterations", 1))
        if not 0 < eps < 1 or not 0 <= iterations <= 100:
            raise ValueError(f"spectral_reparam {dict(spectral_reparam)} is out of range")
        return cls(eps, iterations)


def is_first_version(state: Mapping[str, Tensor]) -> bool:
    """Whether the spectral weights of a file, if any, are of the first version."""
    return not any(name.endswith("._sn_version") for name in state)


@torch.no_grad()
def plain_weights(
    state: Mapping[str, Tensor], options: SpectralOptions, first_version: bool = False
) -> dict[str, Tensor]:
    """The state dict with `<layer>.weight` for every parametrised layer, folded in float32.

    A layer is spectral when its scale and vectors are stored, in whole or in chunks of rows;
    otherwise (damp) its weight is the stored original. In a file of the first version the gain is
    the scale itself.

    Args:
        state: names and tensors as stored.
        options: how to fold.
        first_version: whether the file is of the first version.

    Raises:
        ValueError: parts of a parametrization are missing or have wrong shapes.
    """
    plain = {name: tensor for name, tensor in state.items() if _MARK not in name}
    layers: dict[str, dict[str, Tensor]] = {}
    for name, tensor in state.items():
        if _MARK in name:
            layer, _, part = name.partition(_MARK)
            layers.setdefault(layer, {})[part] = tensor
    for layer, parts in layers.items():
        if f"{layer}.weight" in plain:
            raise ValueError(f"{layer} has both a weight and a parametrization of it")
        try:
            plain[f"{layer}.weight"] = _folded(layer, parts, first_version, options)
        except (KeyError, IndexError, ValueError, RuntimeError) as error:
            raise ValueError(f"the parametrization of {layer}.weight is damaged: {error}") from None
    return plain


def _folded(
    layer: str, parts: dict[str, Tensor], first_version: bool, options: SpectralOptions
) -> Tensor:
    """One layer's weight [out, in]."""
    original = parts.pop("original")
    if not parts:
        return original
    chunks = 1
    if any(name.startswith("0.parts.") for name in parts):
        chunks = _CHUNKED.get(layer.rsplit(".", 1)[-1], 0)
        chunks = chunks or 1 + max(int(name.split(".")[2]) for name in parts)
    rows = original.float().chunk(chunks)
    folded = []
    for index, weight in enumerate(rows):
        prefix = "0." if chunks == 1 else f"0.parts.{index}."
        if any(name.startswith(prefix) for name in parts):
            scale, u, v = (parts.pop(prefix + name).float() for name in _BUFFERS)
            parts.pop(f"{prefix}_sn_version", None)
            weight = _fold(weight, scale, u, v, first_version, options)
        folded.append(weight)
    if parts:
        raise KeyError(f"unknown parts {', '.join(sorted(parts))}")
    return torch.cat(folded)


def _fold(
    weight: Tensor,
    scale: Tensor,
    u: Tensor,
    v: Tensor,
    first_version: bool,
    options: SpectralOptions,
) -> Tensor:
    """g W / sigma(W) of one matrix [out, in], sigma from the vectors u [out] and v [in]."""
    if (*u.shape, *v.shape) != weight.shape or scale.numel() != 1:
        raise KeyError(f"u {list(u.shape)}, v {list(v.shape)} for a weight {list(weight.shape)}")
    for _ in range(options.power_iterations):
        u = F.normalize(torch.mv(weight, v), dim=0, eps=options.eps)
        v = F.normalize(torch.mv(weight.t(), u), dim=0, eps=options.eps)
    sigma = torch.dot(u, torch.mv(weight, v)) + options.eps
    gain = scale if first_version else F.softplus(scale) + MIN_GAIN
    return weight * (gain / sigma)
