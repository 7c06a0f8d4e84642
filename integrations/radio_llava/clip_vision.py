"""The image tower of an open_clip model in the files that LLaVA's own CLIP tower reads.

LLaVA-1.5 loads its tower with transformers' `CLIPVisionModel`. With this, any CLIP of open_clip's
ViT kind can stand beside a RADIO tower in the same training.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from radio_core.extras import require

# open_clip's name -> transformers', within a layer; the fused projection is split besides.
_LAYER = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_OUTER = {
    "class_embedding": "embeddings.class_embedding",
    "conv1.weight": "embeddings.patch_embedding.weight",
    "positional_embedding": "embeddings.position_embedding.weight",
    "ln_pre.weight": "pre_layrnorm.weight",  # transformers' spelling
    "ln_pre.bias": "pre_layrnorm.bias",
    "ln_post.weight": "post_layernorm.weight",
    "ln_post.bias": "post_layernorm.bias",
}
_ACTIVATIONS = {"GELU": "gelu", "QuickGELU": "quick_gelu"}


def save_clip_vision(clip: Any, folder: str | Path) -> None:
    """Write an open_clip model's image tower as a `CLIPVisionModel` and a `CLIPImageProcessor`.

    The folder's absolute path is the `--vision_tower` for LLaVA. The weights are float32.
    """
    transformers = require("transformers", extra="llava")
    own = require("open_clip.transformer", extra="clip").VisionTransformer
    visual = clip.visual
    if not isinstance(visual, own):
        raise ValueError(
            f"the image tower is a {type(visual).__name__}: only open_clip's own ViT has the form "
            "of transformers' CLIPVisionModel"
        )
    if visual.image_size[0] != visual.image_size[1]:
        raise ValueError(f"images of {visual.image_size} pixels: CLIPVisionModel takes squares")
    block = visual.transformer.resblocks[0]
    size, patch = visual.image_size[0], visual.patch_size[0]
    config = transformers.CLIPVisionConfig(
        hidden_size=visual.conv1.out_channels,
        intermediate_size=block.mlp.c_fc.out_features,
        num_hidden_layers=len(visual.transformer.resblocks),
        num_attention_heads=block.attn.num_heads,
        image_size=size,
        patch_size=patch,
        hidden_act=_ACTIVATIONS[type(block.mlp.gelu).__name__],
        layer_norm_eps=visual.ln_pre.eps,
    )
    model = transformers.CLIPVisionModel(config)
    prefix = next(iter(model.state_dict())).partition("embeddings.")[0]
    model.load_state_dict({prefix + k: x for k, x in _renamed(visual.state_dict()).items()})
    model.save_pretrained(str(folder))
    transformers.CLIPImageProcessor(
        size={"shortest_edge": size},
        crop_size={"height": size, "width": size},
        image_mean=list(visual.preprocess_cfg["mean"]),
        image_std=list(visual.preprocess_cfg["std"]),
    ).save_pretrained(str(folder))


def _renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under transformers' names; the projection into CLIP's space is left out."""
    renamed = {}
    for name, tensor in state.items():
        tensor = tensor.float()
        if name in _OUTER:
            renamed[_OUTER[name]] = tensor
        elif name.startswith("transformer.resblocks."):
            index, _, inner = name.removeprefix("transformer.resblocks.").partition(".")
            layer, (module, _, kind) = f"encoder.layers.{index}.", inner.rpartition(".")
            if module in _LAYER:
                renamed[f"{layer}{_LAYER[module]}.{kind}"] = tensor
                continue
            kind = inner.removeprefix("attn.in_proj_")  # three projections in one
            for part, third in zip("qkv", torch.chunk(tensor, 3), strict=True):
                renamed[f"{layer}self_attn.{part}_proj.{kind}"] = third.contiguous()
    return renamed
