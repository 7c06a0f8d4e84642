"""The layout of transformers' own `radio` model: read without transformers, and written for it.

transformers' class has the backbone alone. What it has no place for (adaptors, the normalizer of
intermediate features, window schedule, teachers, licence) goes to a folder beside its files, so
that our loader gets everything back; transformers does not look at that folder.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from radio_core.config_file import from_mapping
from radio_core.models.config import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    Checkpoint,
    RadioConfig,
    read_config,
    read_weights,
    write_checkpoint,
)
from radio_core.models.normalizers import CLIP_MEAN, CLIP_STD
from radio_core.models.radio import RadioModel
from radio_core.models.spectral import folded_state_dict
from radio_core.models.vit import LAYER_NORM_EPS, ViTConfig
from radio_core.models.weight_files import read_json, write_json, write_safetensors
from radio_core.models.weight_files import stored as stored_as
from radio_core.vision import nearest_resolution
from radio_core.zoo.hf_remote import ADAPTORS, SUMMARY_IDXS, read_tensors

SIDECAR = "radio_toolkit"
PREPROCESSOR_FILE = "preprocessor_config.json"
DEFAULT_SIDE = 224

RENAMES = (
    (r"^embeddings\.patch_projection\.", "backbone.patch_generator.embedder."),
    (r"^embeddings\.position_embedding$", "backbone.patch_generator.pos_embed"),
    (r"^embeddings\.cls_register_token$", "backbone.patch_generator.cls_token.token"),
    (r"^encoder\.layer\.", "backbone.blocks."),
    (r"^radio_model\.model\.", "backbone."),
    (r"^radio_model\.(?=input_conditioner\.|summary_idxs$)", ""),
    (r"\.attention\.o_proj\.", ".attn.proj."),
    (r"\.mlp\.down_proj\.", ".mlp.w3."),
    (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
    (r"\.(ls[12])\.grandma$", r".\1.gamma"),
)
"""Name in the files -> our name, one after the other. transformers has two sets of names: those of
its modules, and the original ones, to which it turns back when it saves."""

STACKED = (
    (r"\.attention\.([qkv])_proj\.", ".attn.qkv.", ("q", "k", "v")),
    (r"\.mlp\.(gate|up)_proj\.", ".mlp.w12.", ("gate", "up")),
)
"""Tensors that are the parts, in this order, of one of ours."""

UNUSED = (
    ADAPTORS,
    "radio_model.model.reg_token",
    "radio_model.model.patch_generator.video_embedder.",
    "embeddings.video_patch_projection.",
)
"""Prefixes that say nothing about images: transformers leaves out the first two itself."""

STRUCTURE: dict[str, Any] = {
    "hidden_size": 1280,
    "num_hidden_layers": 32,
    "num_attention_heads": 16,
    "mlp_ratio": 4.0,
    "use_swiglu_ffn": False,
    "patch_size": 16,
    "max_img_size": 2048,
    "num_cls_tokens": 3,
    "num_registers": 7,
    "summary_idxs": [0, 1],
}
"""The fields of config.json that make the architecture, with transformers' defaults."""

DEFAULTS: dict[str, Any] = STRUCTURE | {
    "norm_mean": list(CLIP_MEAN),
    "norm_std": list(CLIP_STD),
    "layerscale_value": 1.0,
}
"""All fields that change from model to model."""

FIXED: dict[str, Any] = {
    "num_channels": 3,
    "hidden_act": "gelu",
    "qkv_bias": True,
    "layer_norm_eps": LAYER_NORM_EPS,
}
"""Fields that have one value in every RADIO model."""

SAME = {
    "hidden_size": "embed_dim",
    "num_hidden_layers": "depth",
    "num_attention_heads": "num_heads",
    **{name: name for name in ("mlp_ratio", "patch_size", "num_cls_tokens", "num_registers")},
}
"""Field of config.json -> field of `ViTConfig` with the same value."""

BUFFERS = {
    "input_conditioner.norm_mean": "norm_mean",
    "input_conditioner.norm_std": "norm_std",
    "summary_idxs": "summary_idxs",
}
"""Tensor (our name) -> the field of config.json that it overrides."""


def is_native(config: Mapping[str, Any]) -> bool:
    """A parsed config.json belongs to transformers' own `radio` model."""
    return config.get("model_type") == "radio"


def load_native(directory: Path) -> Checkpoint:
    """Read a directory of transformers' `radio` model, or one written by `write_native`.

    Args:
        directory: holds config.json and model.safetensors (or its shards), and in the second case
            our folder.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is damaged, or describes a model that is no RADIO.
    """
    stored = read_json(directory / CONFIG_FILE)
    where = str(directory / CONFIG_FILE)
    odd = [
        f"{name} {stored[name]!r}" for name in FIXED if stored.get(name, FIXED[name]) != FIXED[name]
    ]
    if not is_native(stored) or odd:
        raise ValueError(f"{where} is not of a RADIO model: {', '.join(odd) or 'model_type'}")
    fields = DEFAULTS | {name: stored[name] for name in DEFAULTS if stored.get(name) is not None}
    if not isinstance(scale := fields["layerscale_value"], int | float):
        raise ValueError(f"{where}: layerscale_value must be a number, got {scale!r}")
    state = _our_names(read_tensors(directory))
    for name in BUFFERS.keys() & state.keys():
        fields[BUFFERS[name]] = state.pop(name).flatten().tolist()
    config = _our_config(fields, where)
    if (directory / SIDECAR).is_dir():
        sidecar = directory / SIDECAR
        config = read_config(sidecar)
        if reasons := inexpressible(config):
            raise ValueError(f"{sidecar} has a {', a '.join(reasons)}, which transformers has not")
        wanted = _native_config(config, torch.float32)
        if different := [name for name in STRUCTURE if fields[name] != wanted[name]]:
            raise ValueError(
                f"{sidecar} belongs to another model than the config.json beside it (they differ "
                f"in {', '.join(different)}); remove that folder to read the backbone alone"
            )
        state |= read_weights(sidecar)
    return Checkpoint(*_with_layer_scale(config, state, float(scale)), str(directory))


def _our_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors under our names, stacked where we stack them, float32."""
    state = {}
    parts: dict[str, dict[str, Tensor]] = {}
    for stored_name, tensor in tensors.items():
        if stored_name.startswith(UNUSED):
            continue
        name = stored_name
        for pattern, ours in RENAMES:
            name = re.sub(pattern, ours, name)
        tensor = tensor.float() if tensor.is_floating_point() else tensor
        for pattern, ours, _ in STACKED:
            if part := re.search(pattern, name):
                parts.setdefault(re.sub(pattern, ours, name), {})[part[1]] = tensor
                break
        else:
            state[name] = tensor
    for name, found in parts.items():
        order = next(order for _, ours, order in STACKED if ours in name)
        if len(found) != len(order):
            raise ValueError(f"{name}: of its parts {', '.join(order)} there is only {list(found)}")
        state[name] = torch.cat([found[part] for part in order])
    return state


def _our_config(fields: Mapping[str, Any], where: str) -> RadioConfig:
    """The fields of transformers' configuration as our configuration."""
    try:
        backbone = {ours: fields[theirs] for theirs, ours in SAME.items()}
        backbone["ffn"] = "swiglu" if fields["use_swiglu_ffn"] else "mlp"
        backbone["grid_size"] = fields["max_img_size"] // fields["patch_size"]
        values = {
            "backbone": {"type": "vit", **backbone},
            "summary_idxs": fields["summary_idxs"],
            "mean": fields["norm_mean"],
            "std": fields["norm_std"],
            "max_resolution": fields["max_img_size"],
        }
        return from_mapping(RadioConfig, values)
    except (ValueError, TypeError, ArithmeticError) as error:
        raise ValueError(f"{where}: {error}") from None


def _with_layer_scale(
    config: RadioConfig, state: dict[str, Tensor], value: float
) -> tuple[RadioConfig, dict[str, Tensor]]:
    """Add the LayerScale that a file leaves out, or drop one that multiplies by 1."""
    backbone = cast(ViTConfig, config.backbone)
    names = [f"backbone.blocks.{i}.ls{n}.gamma" for i in range(backbone.depth) for n in (1, 2)]
    if backbone.init_values is None:
        if value == 1 and all((state[name] == 1).all() for name in names if name in state):
            return config, {name: t for name, t in state.items() if name not in names}
        config = replace(config, backbone=replace(backbone, init_values=value))
    for name in names:
        state.setdefault(name, torch.full((backbone.embed_dim,), value))
    return config, state


def write_native(
    model: RadioModel, directory: str | Path, dtype: torch.dtype = torch.float32
) -> None:
    """Write a directory that plain `transformers.AutoModel.from_pretrained` loads.

    Its RadioModel then takes images [B, 3, H, W] in [0, 1], and its `summary` and `features` are
    those of our `model(images)`. An image processor's configuration comes with it. Our own
    `load_model` gets the whole model back, adaptors included. Text encoders are not written.

    Args:
        model: a RADIO model; spectral reparametrisations are folded.
        directory: created when missing; files of an earlier model there are replaced.
        dtype: the floating weights are stored in it, and transformers computes in it.

    Raises:
        ValueError: transformers' class cannot express the model, or a weight is not finite in
            `dtype`; nothing is written.
    """
    directory = Path(directory)
    config = model.config
    if reasons := inexpressible(config):
        raise ValueError(
            f"transformers' radio model has no {', no '.join(reasons)}; write the toolkit's own "
            "layout instead: radio convert SRC DST --to radio"
        )
    state = folded_state_dict(model)
    rest = {name: tensor for name, tensor in state.items() if not name.startswith("backbone.")}
    tensors = stored_as(_file_names(state), dtype)
    for name, values in (("norm_mean", config.mean), ("norm_std", config.std)):
        tensors[f"radio_model.input_conditioner.{name}"] = torch.tensor(values).view(3, 1, 1)
    tensors[SUMMARY_IDXS] = torch.tensor(config.summary_idxs)
    write_checkpoint(directory / SIDECAR, config, rest, dtype)
    write_safetensors(directory / WEIGHTS_FILE, tensors)
    write_json(directory / CONFIG_FILE, _native_config(config, dtype))
    write_json(directory / PREPROCESSOR_FILE, _preprocessor(config))


def inexpressible(config: RadioConfig) -> list[str]:
    """What the model has that transformers' class has not; empty if it can be written."""
    backbone = config.backbone
    if not isinstance(backbone, ViTConfig):
        return [f"{backbone.label} backbone"]
    found = {
        "convolutional stem": backbone.stem != "patch",
        "bias of the patch embedding": backbone.patch_bias,
        f'positions of the kind "{backbone.positions}"': backbone.positions != "cpe",
        "resizing of positions with pos_align_corners": backbone.pos_align_corners,
        f'summary of the kind "{backbone.summary}"': backbone.summary != "cls",
        "feature_start": backbone.feature_start is not None,
        "final norm": backbone.final_norm,
        "feature normalizer": config.feature_normalizer,
    }
    return [name for name, has in found.items() if has]


def _file_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The backbone's tensors under the names that transformers itself writes."""
    named = {}
    for ours, tensor in state.items():
        if not ours.startswith("backbone."):
            continue
        name = f"radio_model.model.{ours.removeprefix('backbone.')}"
        name = re.sub(r"\.ls([12])\.gamma$", r".layer_scale\1.lambda1", name)
        name = name.replace(".mlp.w3.", ".mlp.down_proj.")
        if ".mlp.w12." in name:
            for part, half in zip(("gate", "up"), tensor.chunk(2), strict=True):
                named[name.replace(".w12.", f".{part}_proj.")] = half
        else:
            named[name] = tensor
    return named


def _native_config(config: RadioConfig, dtype: torch.dtype) -> dict[str, Any]:
    """Our configuration as transformers' config.json."""
    backbone = cast(ViTConfig, config.backbone)
    return FIXED | {
        "architectures": ["RadioModel"],
        "model_type": "radio",
        "dtype": str(dtype).removeprefix("torch."),
        **{theirs: getattr(backbone, ours) for theirs, ours in SAME.items()},
        "use_swiglu_ffn": backbone.ffn == "swiglu",
        "layerscale_value": 1.0 if backbone.init_values is None else backbone.init_values,
        "image_size": max(_image_size(config)),
        "max_img_size": backbone.max_resolution,
        "summary_idxs": list(config.summary_idxs),
        "norm_mean": list(config.mean),
        "norm_std": list(config.std),
    }


def _preprocessor(config: RadioConfig) -> dict[str, Any]:
    """An image processor that scales to [0, 1] and leaves the normalisation to the model."""
    height, width = _image_size(config)
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": max(height, width)},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": height, "width": width},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": False,
    }


def _image_size(config: RadioConfig) -> tuple[int, int]:
    """(height, width) in pixels to which the image processor brings images."""
    if config.preferred_resolution is not None:
        return config.preferred_resolution
    return nearest_resolution(DEFAULT_SIDE, DEFAULT_SIDE, config.backbone.patch_size)
