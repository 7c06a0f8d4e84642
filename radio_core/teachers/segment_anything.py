"""Segment Anything as a teacher, and building its model at any size."""

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch.nn.functional as F
from torch import Tensor, nn

from radio_core.config_file import from_mapping
from radio_core.extras import require
from radio_core.models.weight_files import read_checkpoint
from radio_core.registry import UnknownName
from radio_core.teachers.base import Teacher
from radio_core.teachers.files import misfit_of_torch
from radio_core.teachers.licences import licence_of
from radio_core.vision import ModelSpec, Output

if TYPE_CHECKING:
    from segment_anything.modeling import Sam

CONFIG_FILE, WEIGHTS_FILE = "sam_config.json", "sam.safetensors"


@dataclass(frozen=True, kw_only=True)
class SamConfig:
    """Sizes of a Sam.

    Attributes:
        image_size: side in pixels of its square, padded input.
        patch_size: pixels of a patch.
        embed_dim: width of the encoder, i.e. of the features before the neck.
        depth: number of encoder blocks.
        num_heads: attention heads of a block.
        window_size: side in patches of the local attention windows.
        global_blocks: indices of the blocks with global attention.
        neck_dim: width after the neck, of prompts and decoder.
        decoder_heads: attention heads of the mask decoder.
        decoder_mlp_dim: hidden width of the mask decoder's MLPs.
    """

    image_size: int = 1024
    patch_size: int = 16
    embed_dim: int = 768
    depth: int = 12
    num_heads: int = 12
    window_size: int = 14
    global_blocks: tuple[int, ...] = (2, 5, 8, 11)
    neck_dim: int = 256
    decoder_heads: int = 8
    decoder_mlp_dim: int = 2048


def build_sam(config: SamConfig) -> "Sam":
    """A randomly initialised `segment_anything.modeling.Sam`; its own registry knows 1024 only."""
    modeling = require("segment_anything.modeling", extra="sam")
    grid = config.image_size // config.patch_size
    encoder = modeling.ImageEncoderViT(
        img_size=config.image_size,
        patch_size=config.patch_size,
        embed_dim=config.embed_dim,
        depth=config.depth,
        num_heads=config.num_heads,
        mlp_ratio=4,
        qkv_bias=True,
        out_chans=config.neck_dim,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=config.window_size,
        global_attn_indexes=config.global_blocks,
    )
    prompts = modeling.PromptEncoder(
        embed_dim=config.neck_dim,
        image_embedding_size=(grid, grid),
        input_image_size=(config.image_size, config.image_size),
        mask_in_chans=16,
    )
    decoder = modeling.MaskDecoder(
        num_multimask_outputs=3,
        transformer=modeling.TwoWayTransformer(
            depth=2,
            embedding_dim=config.neck_dim,
            mlp_dim=config.decoder_mlp_dim,
            num_heads=config.decoder_heads,
        ),
        transformer_dim=config.neck_dim,
        iou_head_depth=3,
        iou_head_hidden_dim=config.neck_dim,
    )
    sam: Sam = modeling.Sam(image_encoder=encoder, prompt_encoder=prompts, mask_decoder=decoder)
    return sam


def load_sam(source: str, checkpoint: str | Path | None = None) -> "Sam":
    """A `segment_anything.modeling.Sam` in eval mode.

    Args:
        source: "vit_b", "vit_l" or "vit_h", or a directory with sam_config.json + sam.safetensors.
        checkpoint: the official .pth file of a vit_* model; read without unpickling objects.

    Raises:
        UnknownName: neither a known model nor a directory of one.
        ValueError: a file that is no plain weights file, or weights that do not fit.
    """
    registry = require("segment_anything", extra="sam").sam_model_registry
    folder = Path(source)
    if source in registry:
        if checkpoint is None:
            raise ValueError(f"sam {source}: name its checkpoint file, e.g. sam_{source}.pth")
        sam, file = registry[source](checkpoint=None), Path(checkpoint)
    elif (folder / CONFIG_FILE).is_file():
        fields = json.loads((folder / CONFIG_FILE).read_text())
        sam = build_sam(from_mapping(SamConfig, fields, str(folder / CONFIG_FILE)))
        file = folder / WEIGHTS_FILE
    else:
        known = ", ".join(name for name in registry if name != "default")
        raise UnknownName(
            f"unknown SAM {source!r}; known: {known}, or a directory with {CONFIG_FILE}"
        )
    weights: Any = read_checkpoint(file)
    try:
        sam.load_state_dict(weights)
    except (RuntimeError, TypeError) as error:
        wrong = misfit_of_torch(f"sam:{source}", file, error)
        raise wrong or ValueError(f"the weights do not fit SAM {source}: {error}") from error
    model: Sam = sam.eval()
    return model


class SamTeacher(Teacher):
    """No summary; features [B, F, h, w] are those that SAM's own neck takes.

    Other sizes than its own are possible: relative positions are interpolated by segment_anything
    itself, absolute ones here.
    """

    def __init__(self, name: str, sam: "Sam", licence: str) -> None:
        encoder = sam.image_encoder
        projection = encoder.patch_embed.proj
        # SAM's statistics are in 0 … 255; ours in [0, 1].
        mean, std = (
            [float(value) / 255 for value in values.flatten()]
            for values in (sam.pixel_mean, sam.pixel_std)
        )
        super().__init__(
            ModelSpec(
                name=name,
                input_size=encoder.img_size,
                mean=(mean[0], mean[1], mean[2]),
                std=(std[0], std[1], std[2]),
                patch_size=projection.kernel_size[0],
                summary_dim=None,
                feature_dim=projection.out_channels,
                licence=licence,
                flexible=True,
                sam=True,
            )
        )
        self.sam = sam
        self.freeze()

    def extract(self, images: Tensor) -> Output:
        """Run the encoder without its neck."""
        encoder = self.sam.image_encoder
        tokens = encoder.patch_embed(images)  # [B, h, w, F]
        if encoder.pos_embed is not None:
            positions, grid = encoder.pos_embed, tokens.shape[1:3]
            if positions.shape[1:3] != grid:
                positions = F.interpolate(
                    positions.permute(0, 3, 1, 2), tuple(grid), mode="bicubic", antialias=True
                ).permute(0, 2, 3, 1)
            tokens = tokens + positions
        for block in encoder.blocks:
            tokens = block(tokens)
        return Output(None, tokens.permute(0, 3, 1, 2))

    def sam_features(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] of a size that it takes -> [B, F, h, w] for SAM's own neck."""
        features: Tensor = self(images, tuple(images.shape[-2:])).features
        return features


def load(source: str, rest: str, input_size: int | None = None) -> SamTeacher:
    """Load "vit_h:CHECKPOINT" or a directory; errors as `load_sam`."""
    model, _, checkpoint = rest.partition(":")
    return SamTeacher(source, load_sam(model, checkpoint or None), licence_of(source).name)
