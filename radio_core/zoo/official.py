"""The official checkpoints: read without executing them, and as our configuration and tensors.

Every rename between the two is in this file and in `official_tensors`.
"""

import argparse
import itertools
import math
import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from radio_core.models.adaptors import MAX_TOKEN_SLOT
from radio_core.models.config import DTYPES, Checkpoint, DtypeName, RadioConfig
from radio_core.models.eradio import eradio_config
from radio_core.models.vit import ViTConfig
from radio_core.models.weight_files import GET_AGAIN, read_checkpoint
from radio_core.zoo.official_tensors import PREFIXES, adaptors_of, plain_weights
from radio_core.zoo.releases import ModelCard

MAX_ARGS_VALUES = 100_000
MAX_ARGS_DEPTH = 32
EMA_OVERRIDES: dict[str, Any] = {"spectral_reparam": False, "spectral_heads": False, "damp": None}
"""What holds for averaged weights, whatever `args` says of the trained ones."""

_WRAPPERS = re.compile(r"^(?:module\.|_orig_mod\.)+")

_SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"embed_dim": 192, "depth": 12, "num_heads": 3},
    "small": {"embed_dim": 384, "depth": 12, "num_heads": 6},
    "base": {"embed_dim": 768, "depth": 12, "num_heads": 12},
    "large": {"embed_dim": 1024, "depth": 24, "num_heads": 16},
    "so400m": {"embed_dim": 1152, "depth": 27, "num_heads": 16, "mlp_ratio": 4304 / 1152},
    "so400m_v2": {"embed_dim": 1152, "depth": 27, "num_heads": 16, "mlp_ratio": 4320 / 1152},
    "huge": {"embed_dim": 1280, "depth": 32, "num_heads": 16},
    "giant": {"embed_dim": 1536, "depth": 40, "num_heads": 24},
    "bigG": {"embed_dim": 1664, "depth": 48, "num_heads": 16, "init_values": 1e-6},
}
_NAME = re.compile(rf"vit_({'|'.join(_SIZES)})_patch(\d{{1,3}})(_v2)?_(\d{{1,4}})")
_V2 = {"init_values": 1e-5, "reg_tokens": 4, "img_size": 592}

_NONE_IS_DEFAULT = {"img_size", "reg_tokens", "no_embed_class"}

DINO_STUDENTS: dict[str, dict[str, Any]] = {
    "dino_v2_l_student": {"embed_dim": 1024, "depth": 24, "num_heads": 16, "ffn": "mlp"},
    "dino_v2_g_student": {"embed_dim": 1536, "depth": 40, "num_heads": 24, "ffn": "swiglu"},
}
DINO_PATCH, DINO_REGISTERS = 14, 4
DINO_FEATURE_START = 5
"""The official wrapper of these students cuts off five tokens, whatever the model has."""

_SHAPE = {"patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio", "init_values"}
_NEUTRAL: dict[str, Any] = {
    "class_token": True,
    "qkv_bias": True,
    "qk_norm": False,
    "pre_norm": False,
}
_NEUTRAL |= {"dynamic_img_size": False, "dynamic_img_pad": False, "norm_layer": None}
_IGNORED = {"weight_init", "strict_img_size", "drop_path_rate", "drop_rate"}
_IGNORED |= {f"{part}_drop_rate" for part in ("attn", "proj", "pos", "patch")}

_STUDENT, _CONDITIONER = "base_model.", "input_conditioner."
_FEATURE_NORMALIZER = "_feature_normalizer."
_LAYER_NORMALIZER = "_intermediate_feature_normalizer."
_UNUSED_BY_DINO = ("input_conditioner.norm_mean", "input_conditioner.norm_std", "inner.mask_token")
_RECOMPUTED_BY_ERADIO = ("relative_coords_table", "relative_position_index", "relative_bias")

_Fields = dict[str, Any]
_State = dict[str, Tensor]


class OfficialFile(NamedTuple):
    """What an official checkpoint holds.

    Attributes:
        state: official name, without wrapper prefixes -> tensor on the CPU, mapped from the file
            and in its dtype; the averaged weights where there are any.
        args: the training arguments as plain values: a Namespace is a dict here, a device or path
            text, a size a tuple. With `EMA_OVERRIDES` where they apply.
    """

    state: dict[str, Tensor]
    args: dict[str, Any]


def load_official(path: Path, release: ModelCard | None = None) -> Checkpoint:
    """An official checkpoint (`.pth.tar`) in our terms, with what is known of its release.

    Raises:
        FileNotFoundError: no such file.
        ValueError: as `read_official` and `from_official`.
    """
    file = read_official(path)
    checkpoint = from_official(file.args, file.state, str(path))
    if release is None:
        return checkpoint
    return checkpoint._replace(config=release.applied_to(checkpoint.config))


def read_official(path: Path) -> OfficialFile:
    """Read an official checkpoint (`.pth.tar`); nothing in it is executed.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is no official checkpoint, is damaged, or asks for more than tensors and
            plain values.
    """
    file = read_checkpoint(path)
    try:
        if not isinstance(file, dict):
            raise ValueError(f"it holds a {type(file).__name__}, not a dict")
        averaged = file.get("state_dict_ema") is not None
        weights = "state_dict_ema" if averaged else "state_dict"
        for key, kind in ((weights, dict), ("args", (argparse.Namespace, dict))):
            if key not in file:
                found = ", ".join(str(name)[:60] for name in itertools.islice(file, 8))
                raise ValueError(f"it has no {key!r}, only {found or 'nothing'}")
            if not isinstance(file[key], kind):
                raise ValueError(f"its {key!r} is a {type(file[key]).__name__}")
        args: dict[str, Any] = _plain(file["args"], "args", 0, itertools.count())
        state: dict[str, Tensor] = {}
        for key, value in file[weights].items():
            what = f"{weights} has a {type(value).__name__} under the {type(key).__name__} "
            if not isinstance(key, str) or not isinstance(value, Tensor):
                raise ValueError(f"{what}{str(key)[:60]} instead of a tensor under a name")
            name = _WRAPPERS.sub("", key)
            if name in state:
                raise ValueError(f"{name[:60]} twice in {weights}: with and without a wrapper")
            if value.numel() * value.element_size() > value.untyped_storage().nbytes():
                raise ValueError(f"{name[:60]} has more values than the file stores for it")
            state[name] = value.detach()
    except ValueError as error:
        raise ValueError(f"{path} is no RADIO checkpoint: {error}; {GET_AGAIN}") from None
    return OfficialFile(state, args | (EMA_OVERRIDES if averaged else {}))


def _plain(value: Any, where: str, depth: int, visited: Iterator[int]) -> Any:
    """`value` made plain, as in `OfficialFile.args`.

    Args:
        value: a value from the file.
        where: what errors call it.
        depth: number of containers around it.
        visited: counts the values, since what is shared many times over, or contains itself, is
            small in the file and endless here.
    """
    if depth > MAX_ARGS_DEPTH or next(visited) >= MAX_ARGS_VALUES:
        raise ValueError(f"too many or too deeply nested values at {where[:100]}")
    if isinstance(value, argparse.Namespace):
        value = vars(value)
    kind = type(value)
    if value is None or kind in (bool, int, float, str, torch.dtype):
        return value
    if kind is torch.device or isinstance(value, PurePath):
        return str(value)
    if kind is torch.Size:
        return tuple(value)
    if kind in (list, tuple, set, frozenset):
        return kind(_plain(v, f"{where}[{i}]", depth + 1, visited) for i, v in enumerate(value))
    if kind in (dict, OrderedDict):
        plain = {k: _plain(v, f"{where}.{k!s:.60}", depth + 1, visited) for k, v in value.items()}
        if depth == 0 and not all(isinstance(key, str) for key in plain):
            raise ValueError(f"{where} has a number instead of a name")
        return plain
    raise ValueError(f"a {kind.__name__} at {where[:100]}, where only plain values are read")


def from_official(
    args: Mapping[str, Any], state: Mapping[str, Tensor], where: str = "checkpoint"
) -> Checkpoint:
    """Translate a checkpoint.

    Args:
        args: its arguments, as a plain dict.
        state: its tensors under their official names, without wrapper prefixes.
        where: what to call the checkpoint in errors.

    Raises:
        ValueError: arguments that are missing or not supported, tensors of no known component.
    """
    try:
        return _translate(args, state, where)
    except (TypeError, KeyError, IndexError, AttributeError, OverflowError, RuntimeError) as error:
        detail = f"{type(error).__name__}: {error}"
        raise ValueError(f"{where}: its arguments or tensors make no sense ({detail})") from None
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _translate(args: Mapping[str, Any], state: Mapping[str, Tensor], where: str) -> Checkpoint:
    teachers = args["teachers"]
    if not isinstance(teachers, (list, tuple)) or not teachers:
        raise ValueError("args.teachers must be a list of the teachers")
    if not all(isinstance(t, Mapping) and isinstance(t.get("name"), str) for t in teachers):
        raise ValueError("every entry of args.teachers must be a dict with a name")
    parts = _by_component(state)
    first_version = not any(name.endswith("._sn_version") for name in state)
    student = plain_weights(parts[_STUDENT], args.get("spectral_reparam"), first_version)
    backbone, student = _student(args, _prefix_tokens(args, teachers), student)
    heads = {
        prefix + key: tensor
        for prefix in PREFIXES.values()
        for key, tensor in plain_weights(parts[prefix], None, first_version).items()
    }
    max_slot = MAX_TOKEN_SLOT  # of students with a single summary token, whatever the slot
    has_slots = getattr(backbone, "summary", None) == "cls"
    if has_slots:
        max_slot = backbone.num_prefix_tokens - 1
    adaptors, tensors, absent = adaptors_of(args, teachers, heads, max_slot)
    if has_slots:  # registers that a summary head reads count as class tokens
        slots = [(adaptor.token_slot or 0) + 1 for adaptor in adaptors]
        classes = max(backbone.num_summary_tokens, *slots, 1)
        registers = backbone.num_prefix_tokens - classes
        backbone = backbone.with_fields(num_cls_tokens=classes, num_registers=registers)
    tensors |= {f"backbone.{key}": tensor for key, tensor in student.items()}
    tensors |= {f"feature_normalizer.{k}": t for k, t in parts[_FEATURE_NORMALIZER].items()}
    kind: Literal["per_layer", "shared"] | None = None
    if (rotation := parts[_LAYER_NORMALIZER].get("rotation")) is not None:
        kind = "per_layer" if rotation.ndim == 3 else "shared"
    for key, tensor in parts[_LAYER_NORMALIZER].items():
        # It may have more layers than the student.
        whole = not backbone.num_blocks or (key == "rotation" and kind == "shared")
        tensors[f"intermediate_normalizer.{key}"] = (
            tensor if whole else tensor[: backbone.num_blocks]
        )
    config = RadioConfig(
        name=str(args["model"]),
        backbone=backbone,
        adaptors=tuple(adaptors),
        summary_idxs=_summary_idxs(args, teachers),
        mean=_constants(parts[_CONDITIONER], "norm_mean"),
        std=_constants(parts[_CONDITIONER], "norm_std"),
        teachers=tuple(dict.fromkeys(teacher["name"] for teacher in teachers)),
        supports_windows=backbone.supports_windows,
        feature_normalizer=bool(parts[_FEATURE_NORMALIZER]),
        intermediate_normalizer=kind,
        dtype=_dtype(args.get("dtype")),
    )
    floats = {name: t.float() if t.is_floating_point() else t for name, t in tensors.items()}
    return Checkpoint(config, floats, where, absent)


def _by_component(state: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The tensors of each component, without its prefix."""
    prefixes = (_STUDENT, _CONDITIONER, *PREFIXES.values(), _FEATURE_NORMALIZER, _LAYER_NORMALIZER)
    parts: dict[str, dict[str, Tensor]] = {prefix: {} for prefix in prefixes}
    unexpected = []
    for key, tensor in state.items():
        prefix = next((p for p in prefixes if key.startswith(p)), None)
        if prefix is None:
            unexpected.append(key)
        else:
            parts[prefix][key.removeprefix(prefix)] = tensor
    if unexpected:
        raise ValueError(f"unexpected tensors {', '.join(unexpected)}")
    if not parts[_STUDENT]:
        raise ValueError(f"no student: no tensor's name starts with {_STUDENT!r}")
    return parts


def _prefix_tokens(args: Mapping[str, Any], teachers: Sequence[Mapping[str, Any]]) -> _Fields:
    """Class tokens and registers beside a position grid."""
    names = {teacher["name"] for teacher in teachers}
    classes = len(names) if args.get("cls_token_per_teacher", True) else 1
    registers = int(args.get("cpe_num_registers") or 0)
    multiple = int(args.get("register_multiple") or 0)
    if not registers and multiple:
        registers = multiple - classes % multiple
    return {"num_cls_tokens": classes, "num_registers": registers}


def _student(args: Mapping[str, Any], tokens: _Fields, state: _State) -> tuple[Any, _State]:
    """Configuration and tensors of the student."""
    name, overrides = str(args["model"]), dict(args.get("model_kwargs") or {})
    if name.startswith("eradio"):
        overrides.pop("weight_init", None)
        # The final norm is a BatchNorm that no output of RADIO passes.
        kept = {
            key: tensor
            for key, tensor in state.items()
            if key.rsplit(".", 1)[-1] not in _RECOMPUTED_BY_ERADIO and not key.startswith("norm.")
        }
        return eradio_config(name, **overrides), kept
    state = {key.replace(".grandma", ".gamma"): tensor for key, tensor in state.items()}
    if name in DINO_STUDENTS:
        return _dino(args, name, overrides, tokens, state)
    return _vit(args, name, overrides, tokens, state)


def _dino(
    args: Mapping[str, Any], name: str, overrides: _Fields, tokens: _Fields, state: _State
) -> tuple[ViTConfig, _State]:
    unknown = overrides.keys() - _SHAPE - {"img_size", "weight_init"}
    if unknown:
        raise ValueError(f"model_kwargs {', '.join(sorted(unknown))} of {name} are not supported")
    fields: _Fields = {**DINO_STUDENTS[name]} | {k: v for k, v in overrides.items() if k in _SHAPE}
    fields = {"patch_size": DINO_PATCH, "init_values": 1e-5, **fields}
    fields |= {"patch_bias": True, "final_norm": True, "summary": "first"}
    state = {k.removeprefix("inner."): t for k, t in state.items() if k not in _UNUSED_BY_DINO}
    if args["cpe_max_size"] is None:
        grid = math.isqrt(state["pos_embed"].shape[1] - 1)
        fields |= {"num_registers": DINO_REGISTERS, "grid_size": grid, "positions": "dinov2"}
        return ViTConfig(**fields), _as_generator(state, grid, DINO_REGISTERS)
    start = None if sum(tokens.values()) == DINO_FEATURE_START else DINO_FEATURE_START
    grid = _grid_size(args, fields["patch_size"])
    return ViTConfig(**fields, **tokens, grid_size=grid, feature_start=start), state


def _vit(
    args: Mapping[str, Any], name: str, overrides: _Fields, tokens: _Fields, state: _State
) -> tuple[ViTConfig, _State]:
    """A plain vision transformer as timm would build it, e.g. "vit_huge_patch16_224"."""
    found = _NAME.fullmatch(name)
    if found is None:
        raise ValueError(
            f"unknown student architecture {name!r}; known: vit_SIZE_patchP_224 with SIZE one of "
            f"{', '.join(_SIZES)}, {', '.join(DINO_STUDENTS)}, and the eradio family"
        )
    size, patch, second, image = found.groups()
    options = _SIZES[size] | {"patch_size": int(patch), "img_size": int(image)}
    options |= _V2 if second else {}
    options |= {k: v for k, v in overrides.items() if v is not None or k not in _NONE_IS_DEFAULT}
    for option, neutral in _NEUTRAL.items():
        if options.pop(option, neutral) != neutral:
            raise ValueError(f"model_kwargs {option}={overrides[option]!r} is not supported")
    sides = options.pop("img_size")
    height, width = (sides, sides) if isinstance(sides, int) else map(int, sides[:2])
    registers = int(options.pop("reg_tokens", 0))
    options.pop("no_embed_class", None)  # the position embedding itself tells what it covers
    if options.pop("scaled_ln", False):  # LayerNorms of block k (from 1) times 1 / sqrt(k)
        for key, path in [(key, key.split(".")) for key in state]:
            if path[0] == "blocks" and path[2] in ("norm1", "norm2"):
                state[key] = state[key].float() / math.sqrt(int(path[1]) + 1)
    unknown = options.keys() - _SHAPE - _IGNORED
    if unknown:
        raise ValueError(f"model_kwargs {', '.join(sorted(unknown))} of {name} are not supported")
    fields: _Fields = {key: value for key, value in options.items() if key in _SHAPE}
    averaged = args.get("gp") == "avg"
    fields["final_norm"] = bool(args.get("model_norm")) and not averaged
    if averaged:  # the norm of timm's pooled head, which RADIO does not use
        state = {k: t for k, t in state.items() if not k.startswith("fc_norm.")}
    if args["cpe_max_size"] is not None:
        state.pop("reg_token", None)  # replaced by the registers beside the position grid
        grid = _grid_size(args, fields["patch_size"])
        own = {side / fields["patch_size"] for side in (height, width)} == {grid}
        fields |= {**tokens, "grid_size": grid, "positions": "grid" if own else "cpe"}
        return ViTConfig(**fields), state
    if height != width:
        raise ValueError(f"a plain ViT for images of {height}x{width} is not supported")
    grid = height // fields["patch_size"]
    fields |= {"positions": "fixed", "patch_bias": True, "grid_size": grid}
    # Official outputs: the mean of the patches beside *all* tokens, or all but the first token.
    if averaged:
        fields |= {"summary": "avg", "num_registers": 1 + registers, "feature_start": 0}
    else:
        start = 1 if registers else None
        fields |= {"summary": "first", "num_registers": registers, "feature_start": start}
    return ViTConfig(**fields), _as_generator(state, grid, registers)


def _grid_size(args: Mapping[str, Any], patch_size: int) -> int:
    grid = round(int(args["cpe_max_size"]) / patch_size)
    if grid < 1:
        raise ValueError(f"cpe_max_size {args['cpe_max_size']} is below half a patch")
    return grid


def _summary_idxs(
    args: Mapping[str, Any], teachers: Sequence[Mapping[str, Any]]
) -> tuple[int, ...]:
    """Positions in the teacher list of the first entry of each name that gives a summary."""
    if not args.get("cls_token_per_teacher", True):
        return (0,)
    first: dict[str, int] = {}
    for index, teacher in enumerate(teachers):
        if teacher.get("use_summary", True) is not False:
            first.setdefault(teacher["name"], index)
    return tuple(sorted(first.values())) or (0,)


def _as_generator(state: _State, grid_size: int, num_registers: int) -> _State:
    """A plain ViT's embeddings as those of our patch generator, which computes the same.

    The end of the position embedding is the grid; what it holds before that is added to the first
    tokens in front once and for all (none, the class token, or the registers as well).
    """
    state = dict(state)
    kernel, positions = state.pop("patch_embed.proj.weight"), state.pop("pos_embed").float()
    front = [state.pop("cls_token").float()[0]]
    registers = state.pop("reg_token", state.pop("register_tokens", None))
    if num_registers:
        if registers is None:
            raise ValueError("the student's register tokens are missing")
        front.append(registers.float()[0])
    tokens = torch.cat(front)
    placed = positions.shape[1] - grid_size**2
    if placed not in (0, 1, len(tokens)):
        raise ValueError(
            f"pos_embed has {positions.shape[1]} rows for {grid_size}x{grid_size} patches"
        )
    tokens = torch.cat([tokens[:placed] + positions[0, :placed], tokens[placed:]])
    state["patch_generator.embedder.weight"] = kernel.flatten(1)
    state["patch_generator.embedder.bias"] = state.pop("patch_embed.proj.bias")
    state["patch_generator.pos_embed"] = positions[:, placed:]
    state["patch_generator.cls_token.token"] = tokens
    return state


def _constants(conditioner: Mapping[str, Tensor], name: str) -> tuple[float, float, float]:
    if name not in conditioner or conditioner[name].numel() != 3:
        raise ValueError(f"the input conditioner has no {name} of three values")
    red, green, blue = conditioner[name].flatten().tolist()
    return red, green, blue


def _dtype(value: Any) -> DtypeName:
    for name, dtype in DTYPES.items():
        if value in (None, dtype):
            return name
    raise ValueError(f"dtype {value} is not supported; known: {', '.join(DTYPES)}")
