"""The adaptor heads of an official checkpoint: which there are, of what shape, and our names."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from radio_core.models.adaptors import AdaptorConfig
from radio_core.models.heads import HeadConfig
from radio_core.teachers.text import text_tower_source

PREFIXES = {"summary": "_heads.", "features": "_feature_projections."}
_OURS = {"summary": "summary_head", "features": "feature_head"}
_LAST = {"v1": "fc2", "v2": "final.2", "attn": "mlp.final.2"}
_FIRST = {"v1": "fc1", "v2": "fc1", "attn": "mlp.fc1"}
_INNER = {"v1": re.compile(r"inner\.(\d+)\.weight"), "v2": re.compile(r"blocks\.(\d+)\.0\.weight")}


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
    _check_owners(teachers, state)
    adaptors: list[AdaptorConfig] = []
    tensors: dict[str, Tensor] = {}
    absent: dict[str, str] = {}
    per_teacher = args.get("cls_token_per_teacher", True)
    for index, teacher in enumerate(teachers):
        name = teacher["name"]
        if name in absent or any(name == adaptor.name for adaptor in adaptors):
            continue
        heads = {side: _head(state, prefix, index, name) for side, prefix in PREFIXES.items()}
        slot = teacher.get("token_slot")
        slot = 0 if not per_teacher else index if slot is None else int(slot)
        missing = [prefix for side, prefix in PREFIXES.items() if not heads[side]]
        if missing:
            absent[name] = f"the file holds no {' and no '.join(missing)}{index} or {name}"
            continue
        if not 0 <= slot <= max_slot:
            absent[name] = f"it reads token {slot}, but the model has {max_slot + 1}"
            continue
        try:
            adaptors.append(_adaptor(args, teacher, heads, slot))
        except ValueError as error:  # no reason to refuse the model to who does not ask for it
            absent[name] = str(error)
            continue
        for side, head in heads.items():
            tensors |= {f"adaptors.{name}.{_OURS[side]}.{key}": t for key, t in head.items()}
    return adaptors, tensors, absent


def _check_owners(teachers: Sequence[Mapping[str, Any]], state: Mapping[str, Tensor]) -> None:
    owners = {str(index) for index in range(len(teachers))} | {t["name"] for t in teachers}
    strangers = [key for key in state if key.split(".", 2)[1] not in owners]
    if strangers:
        raise ValueError(f"unexpected tensors {', '.join(strangers)}: heads of no teacher")


def _head(state: Mapping[str, Tensor], prefix: str, index: int, name: str) -> dict[str, Tensor]:
    """One head's tensors; the name's own are overruled by those of the position."""
    found: dict[str, Tensor] = {}
    for start in (f"{prefix}{name}.", f"{prefix}{index}."):
        found |= {k.removeprefix(start): t for k, t in state.items() if k.startswith(start)}
    return found


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
        summary=_shape(f"{teacher['name']} summary", heads["summary"], summary_kind, 1),
        features=_shape(f"{teacher['name']} feature", heads["features"], feature_kind, upsample),
        token_slot=slot,
        upsample=upsample,
        text_tower=text_tower_source(teacher),
    )


def _shape(where: str, head: Mapping[str, Tensor], kind: str, upsample: int) -> HeadConfig:
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
    layers = [m for m in inner if kind == "v2" or int(m[1]) % 3 == 0]
    return HeadConfig(
        kind=kind,  # type: ignore[arg-type]
        out_dim=out_dim // upsample**2,
        hidden_dim=len(head[names[0]]),
        num_inner=len(layers),
    )
