"""A LLaVA trained with its original code, as a model of transformers' own classes."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoTokenizer,
    GenerationConfig,
    LlavaForConditionalGeneration,
    PretrainedConfig,
)

from radio_core.models.weight_files import read_checkpoint, read_json
from radio_core.zoo.load import load_model
from radio_llava.compat import drop_unused_sampling
from radio_llava.features import TowerConfig, tower_config_of
from radio_llava.hf.model import RadioVisionConfig, build_processor, llava_config, register
from radio_llava.hf.processing import (
    MARKED_IMAGE,
    grown,
    image_token_id,
    llava_v1,
    needs_space_after_image,
)
from radio_llava.images import IMAGE
from radio_llava.tower import is_radio_tower

_TEXT_MODELS = {"llava_llama": "llama", "llava": "llama"}
_EMBEDDINGS = ("model.language_model.embed_tokens.weight", "lm_head.weight")
_TOWER = "model.vision_tower.radio."
_PROJECTOR = "model.multi_modal_projector."
# Kind of projector -> original name -> ours. That of transformers has two layers.
_PROJECTORS = {
    "mlp2x_gelu": {
        "model.mm_projector.0.": f"{_PROJECTOR}linear_1.",
        "model.mm_projector.2.": f"{_PROJECTOR}linear_2.",
    },
    "linear": {"model.mm_projector.": f"{_PROJECTOR}linear_1."},
    "mlp1x_gelu": {"model.mm_projector.0.": f"{_PROJECTOR}linear_1."},
}
# The first that fits, after those of the projector; everything else keeps its name.
_RENAMES = {"model.vision_tower.": "model.vision_tower.", "model.": "model.language_model."}


def convert_llava(directory: str | Path, out: str | Path, dtype: torch.dtype | None = None) -> None:
    """Write a LLaVA with a RADIO tower so that transformers alone (and `register`) loads it.

    The logits stay the same. RADIO's weights go into the new files: those of the checkpoint where
    the tower was trained, else the released ones, as LLaVA's own code does.

    Args:
        directory: what LLaVA's training wrote, complete (a LoRA merged).
        out: gets the model and its processor.
        dtype: of the new weights; None for that of the language model's.

    Raises:
        ValueError: what transformers' LLaVA does not have, or weights that do not fit.
    """
    register()
    directory = Path(directory)
    fields = read_json(directory / "config.json")
    tower, text = _tower_config(fields, directory), _text_config(fields)
    kind = fields.get("mm_projector_type", "linear")
    if kind not in _PROJECTORS:
        raise ValueError(
            f"mm_projector_type {kind!r} cannot be converted: transformers' LLaVA has two layers; "
            f"known: {', '.join(_PROJECTORS)}"
        )
    state = _renamed(read_state(directory), kind)
    radio = load_model(tower.model, dtype=torch.float32)
    own = {name: state.pop(name) for name in list(state) if name.startswith(_TOWER)}
    if not fields.get("unfreeze_mm_vision_tower", False):
        # a frozen tower is saved too, but rounded to half precision, and never read back
        own = {_TOWER + name: tensor for name, tensor in radio.state_dict().items()}
    unused = tuple(f"{_TOWER}adaptors.{name}." for name in radio.adaptors if name != tower.adaptor)
    state |= {name: tensor for name, tensor in own.items() if not name.startswith(unused)}
    tokenizer = AutoTokenizer.from_pretrained(str(directory))
    token_id = image_token_id(tokenizer)
    text.vocab_size = max(len(state[_EMBEDDINGS[0]]), len(tokenizer))
    state |= {name: grown(state[name], text.vocab_size) for name in _EMBEDDINGS if name in state}
    vision = RadioVisionConfig.of(radio, tower)
    config = llava_config(
        vision,
        text,
        token_id,
        tie_word_embeddings=bool(text.tie_word_embeddings),
        projector_hidden_act="gelu" if kind == "mlp2x_gelu" else "linear",
    )
    loaded: Any = LlavaForConditionalGeneration.from_pretrained(
        None,
        config=config,
        state_dict=state,
        dtype=dtype or state[_EMBEDDINGS[0]].dtype,
        output_loading_info=True,
    )
    model, loading = loaded
    problems = [f"{what}: {names}" for what, names in loading.items() if names]
    if problems:
        raise ValueError("the weights do not fit the configuration: " + "; ".join(problems))
    if (directory / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(str(directory))
        drop_unused_sampling(model.generation_config)
    image = MARKED_IMAGE if fields.get("mm_use_im_start_end") else IMAGE
    space = needs_space_after_image(tokenizer, image)
    processor = build_processor(vision, tokenizer, llava_v1(image), space_after_image=space)
    model.save_pretrained(str(out))
    processor.save_pretrained(str(out))


def read_state(directory: Path) -> dict[str, Tensor]:
    """All tensors of a saved transformers model, from one file or from several with an index."""
    for stem, suffix in (("model", "safetensors"), ("pytorch_model", "bin")):
        index = directory / f"{stem}.{suffix}.index.json"
        names = {f"{stem}.{suffix}"}
        if index.is_file():
            names = set(read_json(index, max_bytes=1 << 26)["weight_map"].values())
        elif not (directory / f"{stem}.{suffix}").is_file():
            continue
        state: dict[str, Tensor] = {}
        for path in (directory / Path(name).name for name in sorted(names)):
            state |= read_checkpoint(path)
        return state
    for name in ("adapter_config.json", "mm_projector.bin"):
        if (directory / name).is_file():
            raise FileNotFoundError(
                f"{directory} has {name} but no complete model: merge it into its base model "
                "(`radio llava merge`) and convert the result"
            )
    raise FileNotFoundError(f"no model.safetensors and no pytorch_model.bin in {directory}")


def _tower_config(fields: dict[str, Any], directory: Path) -> TowerConfig:
    """The tower that a LLaVA's config.json names, for images of the shape that it was given."""
    if "vision_config" in fields:
        raise ValueError(f"{directory} has the form of transformers' LLaVA already")
    name = fields.get("mm_vision_tower")
    if not isinstance(name, str):
        raise ValueError(f"{directory / 'config.json'} has no mm_vision_tower: not a LLaVA")
    if not is_radio_tower(name):
        raise ValueError(
            f"the vision tower of {directory} is {name!r}, and not a RADIO model, nor a file or "
            "directory that is there: other towers are converted by transformers' own script, "
            "convert_llava_weights_to_hf.py"
        )
    tower = tower_config_of(name, SimpleNamespace(**fields))
    aspect = fields.get("image_aspect_ratio", "square")
    if aspect not in ("square", "pad"):
        raise ValueError(f"image_aspect_ratio {aspect!r} cannot be converted: only square and pad")
    return dataclasses.replace(tower, aspect="pad") if aspect == "pad" else tower


def _text_config(fields: dict[str, Any]) -> PretrainedConfig:
    """The language model's own configuration out of LLaVA's."""
    kind = fields.get("model_type")
    if kind not in _TEXT_MODELS:
        raise ValueError(
            f"model_type {kind!r} cannot be converted; known: {', '.join(_TEXT_MODELS)}"
        )
    known = {*AutoConfig.for_model(_TEXT_MODELS[kind]).to_dict(), "rope_theta", "rope_scaling"}
    own = {key: value for key, value in fields.items() if key in known}
    for other in ("model_type", "architectures", "transformers_version"):
        own.pop(other, None)
    return AutoConfig.for_model(_TEXT_MODELS[kind], **own)


def _renamed(state: dict[str, Tensor], projector: str) -> dict[str, Tensor]:
    """The tensors under the names of transformers' LLaVA.

    A projector of one layer gets a second one that changes nothing.
    """
    renames = _PROJECTORS[projector] | _RENAMES
    renamed = {}
    for name, tensor in state.items():
        old = next((prefix for prefix in renames if name.startswith(prefix)), "")
        renamed[renames.get(old, "") + name.removeprefix(old)] = tensor
    if _EMBEDDINGS[0] not in renamed:
        raise ValueError("the weights have no model.embed_tokens.weight: no language model")
    bias = renamed.get(f"{_PROJECTOR}linear_1.bias")
    if projector != "mlp2x_gelu" and bias is not None:
        renamed[f"{_PROJECTOR}linear_2.weight"] = torch.eye(len(bias), dtype=bias.dtype)
        renamed[f"{_PROJECTOR}linear_2.bias"] = torch.zeros_like(bias)
    return {name: t for name, t in renamed.items() if not name.endswith(".rotary_emb.inv_freq")}
