"""The student architectures that released checkpoints name, as our configurations."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

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


class Architecture(NamedTuple):
    """A plain vision transformer as timm would build it.

    Attributes:
        shape: the fields of `ViTConfig` that it fixes.
        image_size: (height, width) in pixels that it is built for.
        reg_tokens: register tokens of its own; replaced when it gets a position grid.
        no_embed_class: its position embedding covers the patches alone.
        scaled_norm: the LayerNorms of block k (from 1) multiply their output by 1 / sqrt(k).
    """

    shape: dict[str, Any]
    image_size: tuple[int, int]
    reg_tokens: int
    no_embed_class: bool
    scaled_norm: bool


def vit_architecture(name: str, overrides: Mapping[str, Any]) -> Architecture:
    """A ViT by its name in a checkpoint.

    Args:
        name: e.g. "vit_huge_patch16_224".
        overrides: the checkpoint's `model_kwargs`.

    Raises:
        ValueError: an unknown name or an override that is not supported.
    """
    found = _NAME.fullmatch(name)
    if found is None:
        raise ValueError(
            f"unknown student architecture {name!r}; known: vit_SIZE_patchP_224 with SIZE one of "
            f"{', '.join(_SIZES)}, {', '.join(DINO_STUDENTS)}, and the eradio family"
        )
    size, patch, second, image = found.groups()
    values = {**_SIZES[size], "patch_size": int(patch), "img_size": int(image)}
    given = {k: v for k, v in overrides.items() if v is not None or k not in _NONE_IS_DEFAULT}
    values |= (_V2 if second else {}) | given
    image_size = values.pop("img_size")
    if isinstance(image_size, int):
        image_size = (image_size, image_size)
    for option, neutral in _NEUTRAL.items():
        if values.pop(option, neutral) != neutral:
            raise ValueError(f"model_kwargs {option}={overrides[option]!r} is not supported")
    extra = {key: values.pop(key, 0) for key in ("reg_tokens", "no_embed_class", "scaled_ln")}
    unknown = values.keys() - _SHAPE - _IGNORED
    if unknown:
        raise ValueError(f"model_kwargs {', '.join(sorted(unknown))} of {name} are not supported")
    return Architecture(
        {key: value for key, value in values.items() if key in _SHAPE},
        (int(image_size[0]), int(image_size[1])),
        int(extra["reg_tokens"]),
        bool(extra["no_embed_class"]),
        bool(extra["scaled_ln"]),
    )


def dino_architecture(name: str, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `ViTConfig` that a DINOv2-style student fixes.

    Raises:
        ValueError: an override that is not supported.
    """
    unknown = overrides.keys() - _SHAPE - {"img_size", "weight_init"}
    if unknown:
        raise ValueError(f"model_kwargs {', '.join(sorted(unknown))} of {name} are not supported")
    fixed: dict[str, Any] = {"patch_size": DINO_PATCH, "init_values": 1e-5, "patch_bias": True}
    fixed |= {"final_norm": True, "summary": "first"}
    changed = {key: value for key, value in overrides.items() if key in _SHAPE}
    return {**DINO_STUDENTS[name], **fixed, **changed}
