"""Building segment_anything's Sam at any size; its own registry only knows 1024 pixels."""

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from torch import nn

from radio_core.extras import require

if TYPE_CHECKING:
    from segment_anything.modeling import Sam


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
    """A randomly initialised `segment_anything.modeling.Sam` of the given sizes."""
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
