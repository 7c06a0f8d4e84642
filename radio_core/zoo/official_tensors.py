"""The tensors of an official checkpoint: parametrized weights made plain, and adaptor heads."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from radio_core.models.adaptors import AdaptorConfig, HeadConfig
from radio_core.models.spectral import MIN_GAIN, QKV_CHUNKS

PREFIXES = {"summary": "_heads.", "features": "_feature_projections."}
SIGLIP2_REPOSITORIES = {
    "siglip2-g-384": "google/siglip2-giant-opt-patch16-384",
    "siglip2-so400m": "google/siglip2-so400m-patch16-naflex",
}
"""Model of a teacher entry of type "siglip2" -> repository on the Hugging Face hub."""

_OURS = {"summary": "summary_head", "features": "feature_head"}
_LAST = {"v1": "fc2", "v2": "final.2", "attn": "mlp.final.2"}
_FIRST = {"v1": "fc1", "v2": "fc1", "attn": "mlp.fc1"}
_INNER = {"v1": re.compile(r"inner\.(\d+)\.weight"), "v2": re.compile(r"blocks\.(\d+)\.0\.weight")}
_MARK = ".parametrizations.weight."
_CHUNKED = {"qkv": QKV_CHUNKS, "w12": 2}


def plain_weights(
    state: Mapping[str, Tensor], spectral: object = None, first_version: bool = False
) -> dict[str, Tensor]:
    """The state dict with `<layer>.weight` for every parametrised layer, folded in float32.

    A layer is spectral when its scale and vectors are stored, in whole or in chunks of rows;
    otherwise (damp) its weight is the stored original.

    Args:
        state: names and tensors as stored.
        spectral: the checkpoint's argument `spectral_reparam`, a truth value or a dict with "eps"
            (added to sigma, and the least norm that is divided by) and "n_power_iterations" (run
            on the stored vectors before sigma is taken).
        first_version: the gain is the scale itself, as in files without "_sn_version".

    Raises:
        ValueError: parts of a parametrization are missing or have wrong shapes, or options that
            are out of range.
    """
    eps, iterations = 1e-6, 1
    if isinstance(spectral, Mapping):
        eps = float(spectral.get("eps", 1e-12))
        iterations = int(spectral.get("n_power_iterations", 1))
        if not 0 < eps < 1 or not 0 <= iterations <= 100:
            raise ValueError(f"spectral_reparam {dict(spectral)} is out of range")
    plain = {name: tensor for name, tensor in state.items() if _MARK not in name}
    layers: dict[str, dict[str, Tensor]] = {}
    for name in state.keys() - plain.keys():
        layer, _, part = name.partition(_MARK)
        layers.setdefault(layer, {})[part] = state[name]
    for layer, parts in layers.items():
        if f"{layer}.weight" in plain:
            raise ValueError(f"{layer} has both a weight and a parametrization of it")
        try:
            plain[f"{layer}.weight"] = _folded(layer, parts, first_version, eps, iterations)
        except (KeyError, IndexError, ValueError, RuntimeError) as error:
            raise ValueError(f"the parametrization of {layer}.weight is damaged: {error}") from None
    return plain


@torch.no_grad()
def _folded(
    layer: str, parts: dict[str, Tensor], first_version: bool, eps: float, iterations: int
) -> Tensor:
    """g W / sigma(W) of a layer [out, in], as a whole or in chunks of rows."""
    original = parts.pop("original")
    if not parts:
        return original
    chunks = 1
    if any(name.startswith("0.parts.") for name in parts):
        chunks = _CHUNKED.get(layer.rsplit(".", 1)[-1], 0)
        chunks = chunks or 1 + max(int(name.split(".")[2]) for name in parts)
    folded = []
    for index, weight in enumerate(original.float().chunk(chunks)):
        prefix = "0." if chunks == 1 else f"0.parts.{index}."
        if any(name.startswith(prefix) for name in parts):
            scale, u, v = (parts.pop(prefix + name).float() for name in ("scale", "_u", "_v"))
            parts.pop(f"{prefix}_sn_version", None)
            if (*u.shape, *v.shape) != weight.shape or scale.numel() != 1:
                shapes = f"u {list(u.shape)}, v {list(v.shape)}"
                raise KeyError(f"{shapes} for a weight {list(weight.shape)}")
            for _ in range(iterations):
                u = F.normalize(torch.mv(weight, v), dim=0, eps=eps)
                v = F.normalize(torch.mv(weight.t(), u), dim=0, eps=eps)
            sigma = torch.dot(u, torch.mv(weight, v)) + eps
            weight = weight * ((scale if first_version else F.softplus(scale) + MIN_GAIN) / sigma)
        folded.append(weight)
    if parts:
        raise KeyError(f"unknown parts {', '.join(sorted(parts))}")
    return torch.cat(folded)


def adaptors_of(
    args: Mapping[str, Any],
    teachers: Sequence[Mapping[str, Any]],
    state: Mapping[str, Tensor],
    max_slot: int,
) -> tuple[list[AdaptorConfig], dict[str, Tensor], dict[str, str]]:
    """The adaptors that a checkpoint holds.

    A teacher's heads are stored under its position in the list or under its name. Where a name
    repeats, its first entry counts.

    Args:
        args: arguments of the checkpoint.
        teachers: its teacher entries.
        state: the tensors under "_heads." and "_feature_projections.".
        max_slot: the last token that a summary head may read.

    Returns:
        The adaptors; their tensors, named as `RadioModel` does; and name -> reason of the
        adaptors that cannot be used, because the file does not hold them in full or they are of
        an unknown kind.

    Raises:
        ValueError: heads of no known teacher.
    """
    owners = {str(index) for index in range(len(teachers))} | {t["name"] for t in teachers}
    if strangers := [key for key in state if key.split(".", 2)[1] not in owners]:
        raise ValueError(f"unexpected tensors {', '.join(strangers)}: heads of no teacher")
    adaptors: dict[str, AdaptorConfig] = {}
    tensors: dict[str, Tensor] = {}
    absent: dict[str, str] = {}
    per_teacher = args.get("cls_token_per_teacher", True)
    for index, teacher in enumerate(teachers):
        name = teacher["name"]
        if name in absent or name in adaptors:
            continue
        heads: dict[str, dict[str, Tensor]] = {side: {} for side in PREFIXES}
        for side, prefix in PREFIXES.items():
            for start in (f"{prefix}{name}.", f"{prefix}{index}."):  # that of the position wins
                heads[side] |= {
                    key.removeprefix(start): tensor
                    for key, tensor in state.items()
                    if key.startswith(start)
                }
        slot = teacher.get("token_slot")
        slot = 0 if not per_teacher else index if slot is None else int(slot)
        missing = [prefix for side, prefix in PREFIXES.items() if not heads[side]]
        if missing:
            absent[name] = f"the file holds no {' and no '.join(missing)}{index} or {name}"
        elif not 0 <= slot <= max_slot:
            absent[name] = f"it reads token {slot}, but the model has {max_slot + 1}"
        else:
            try:
                adaptors[name] = _adaptor(args, teacher, heads, slot)
            except ValueError as error:  # no reason to refuse the model to who does not ask for it
                absent[name] = str(error)
                continue
            for side, head in heads.items():
                tensors |= {f"adaptors.{name}.{_OURS[side]}.{key}": t for key, t in head.items()}
    return list(adaptors.values()), tensors, absent


def _adaptor(
    args: Mapping[str, Any],
    teacher: Mapping[str, Any],
    heads: Mapping[str, Mapping[str, Tensor]],
    slot: int,
) -> AdaptorConfig:
    general = args.get("mlp_version") or "v1"
    spatial = args.get("spatial_mlp_version") or general
    upsample = int(teacher.get("fd_upsample_factor") or 1)
    summary_kind = teacher.get("mlp_version") or general
    feature_kind = teacher.get("spatial_mlp_version") or spatial
    return AdaptorConfig(
        name=teacher["name"],
        summary=_head(f"{teacher['name']} summary", heads["summary"], summary_kind, 1),
        features=_head(f"{teacher['name']} feature", heads["features"], feature_kind, upsample),
        token_slot=slot,
        upsample=upsample,
        text_tower=text_tower_source(teacher),
    )


def _head(where: str, head: Mapping[str, Tensor], kind: str, upsample: int) -> HeadConfig:
    """The widths and the depth of a head, read from its tensors."""
    if kind not in _LAST:
        raise ValueError(f"{where} head has kind {kind!r}; known: {', '.join(_LAST)}")
    names = (f"{_FIRST[kind]}.weight", f"{_LAST[kind]}.weight")
    if not all(name in head and head[name].ndim == 2 for name in names):
        raise ValueError(
            f"{where} head should be of kind {kind}, with {' and '.join(names)}; it has "
            f"{', '.join(sorted(head))}"
        )
    out_dim = len(head[names[1]])
    if out_dim % upsample**2:
        raise ValueError(f"{where} head has {out_dim} outputs for an upsampling by {upsample}")
    inner = [m for m in map(_INNER[kind].fullmatch, head) if m] if kind in _INNER else []
    return HeadConfig(
        kind=kind,  # type: ignore[arg-type]
        out_dim=out_dim // upsample**2,
        hidden_dim=len(head[names[0]]),
        num_inner=sum(kind == "v2" or int(m[1]) % 3 == 0 for m in inner),
    )


def text_tower_source(teacher: Mapping[str, Any]) -> str | None:
    """The source of the text tower that goes with a teacher of an official checkpoint.

    Args:
        teacher: its entry; "type", "model" and "pretrained" are read.

    Returns:
        What `RadioModel.encode_text` loads, or None for a teacher without a known text tower.
    """
    kind, model, pretrained = (teacher.get(key) for key in ("type", "model", "pretrained"))
    if not isinstance(model, str) or not model:
        return None
    if kind == "siglip2" and model in SIGLIP2_REPOSITORIES:
        return f"siglip2:{SIGLIP2_REPOSITORIES[model]}"
    if kind == "open_clip" and model.startswith("hf-hub:"):
        return f"open_clip:{model}"
    if kind == "open_clip" and isinstance(pretrained, str) and pretrained:
        return f"open_clip:{model.replace('/', '-')}/{pretrained}"  # as open_clip reads "ViT-B/32"
    return None
