"""Train toy-sam: a small segment_anything.Sam on boxes and points of the toy world.

python -m scripts.toy_teachers.sam --scenes runs/scenes --out radio_core/teachers/weights/toy-sam
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from segment_anything.modeling import MaskDecoder, Sam
from torch import Tensor

from radio_core.teachers.segment_anything import SamConfig, build_sam
from scripts.toy_teachers.common import Progress, adamw
from scripts.toy_teachers.scenes import Batch, Scenes, batches

CONFIG = SamConfig(
    image_size=128,
    patch_size=8,
    embed_dim=80,
    depth=4,
    num_heads=4,
    window_size=8,
    global_blocks=(1, 3),
    neck_dim=64,
    decoder_heads=4,
    decoder_mlp_dim=128,
)
_POINT_SHARE = 0.25


def decode(
    decoder: MaskDecoder, image: Tensor, pe: Tensor, sparse: Tensor, dense: Tensor
) -> tuple[Tensor, Tensor]:
    """`MaskDecoder.predict_masks` for one prompt on each of B images instead of B on one."""
    tokens = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
    tokens = torch.cat([tokens.expand(len(sparse), -1, -1), sparse], dim=1)
    source = image + dense
    batch, channels, height, width = source.shape
    hidden, source = decoder.transformer(source, pe.expand(batch, -1, -1, -1), tokens)
    source = source.transpose(1, 2).reshape(batch, channels, height, width)
    upscaled = decoder.output_upscaling(source)
    weights = torch.stack(
        [mlp(hidden[:, 1 + i]) for i, mlp in enumerate(decoder.output_hypernetworks_mlps)], dim=1
    )
    masks = torch.einsum("bmc,bchw->bmhw", weights, upscaled)
    return masks, decoder.iou_prediction_head(hidden[:, 0])


def choose_objects(batch: Batch, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """One visible object of each image: rows kept, masks [B', S, S] bool, boxes [B', 4] xyxy."""
    masks = F.one_hot(batch.owners + 1, 5)[..., 1:].permute(0, 3, 1, 2).bool()
    area = masks.flatten(2).sum(-1)
    rows = (area.max(dim=1).values > 24).nonzero()[:, 0]
    pick = torch.multinomial((area[rows] > 24).float(), 1, generator=generator)[:, 0]
    chosen = masks[rows, pick]
    xs, ys = chosen.any(dim=1).float(), chosen.any(dim=2).float()
    size = chosen.shape[-1]
    left, top = xs.argmax(dim=1), ys.argmax(dim=1)
    right, bottom = size - xs.flip(1).argmax(dim=1), size - ys.flip(1).argmax(dim=1)
    return rows, chosen, torch.stack([left, top, right, bottom], dim=1).float()


def prompt(
    sam: Sam, masks: Tensor, boxes: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Embed a jittered box, or for some batches a point inside each mask."""
    if torch.rand((), generator=generator) < _POINT_SHARE:
        flat = torch.multinomial(masks.flatten(1).float(), 1, generator=generator)
        size = masks.shape[-1]
        points = torch.stack([flat % size, flat // size], dim=-1).float()
        labels = torch.ones(len(points), 1)
        embedded: tuple[Tensor, Tensor] = sam.prompt_encoder((points, labels), None, None)
        return embedded
    jitter = 1.5 * torch.randn(boxes.shape, generator=generator)
    keep = (torch.rand(len(boxes), 1, generator=generator) < 0.5).float()
    embedded = sam.prompt_encoder(None, boxes + jitter * keep, None)
    return embedded


def mask_losses(logits: Tensor, quality: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Focal + dice loss of the best of the four masks, IoU regression of all; both scalars."""
    target = target[:, None].float().expand_as(logits)
    cross = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    focal = (cross * (1 - torch.exp(-cross)) ** 2).mean(dim=(2, 3))
    probability = logits.sigmoid()
    overlap = (probability * target).sum(dim=(2, 3))
    dice = 1 - (2 * overlap + 1) / (probability.sum(dim=(2, 3)) + target.sum(dim=(2, 3)) + 1)
    each = 20 * focal + dice + 0.5 * cross.mean(dim=(2, 3))
    # Mask 0 answers alone, masks 1-3 compete, as in SAM.
    segmentation = (each[:, 0] + each[:, 1:].min(dim=1).values).mean()
    hard = logits > 0
    union = (hard | target.bool()).sum(dim=(2, 3)).clamp(min=1)
    iou = (hard & target.bool()).sum(dim=(2, 3)) / union
    return segmentation, F.mse_loss(quality, iou)


def main() -> None:
    """Train and write the state dict (float16) and the sizes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=3500)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    sam = build_sam(CONFIG)
    with torch.no_grad():
        sam.image_encoder.pos_embed.normal_(std=0.02)
    optimizer = adamw(sam, 1e-3)
    progress = Progress(optimizer, 1e-3, options.steps)
    data = batches(Scenes.load(options.scenes), 128, options.batch_size, options.steps, 3, 0.7)
    for _, batch in zip(progress, data, strict=True):
        rows, masks, boxes = choose_objects(batch, generator)
        pixels = (batch.images[rows] * 255 - sam.pixel_mean) / sam.pixel_std
        sparse, dense = prompt(sam, masks, boxes, generator)
        logits, quality = decode(
            sam.mask_decoder,
            sam.image_encoder(pixels),
            sam.prompt_encoder.get_dense_pe(),
            sparse,
            dense,
        )
        logits = F.interpolate(logits, size=masks.shape[-2:], mode="bilinear")
        segmentation, iou = mask_losses(logits, quality, masks)
        hard, best = logits[:, 1:] > 0, quality[:, 1:].argmax(dim=1)
        chosen = hard[torch.arange(len(hard)), best]
        score = (chosen & masks).sum((1, 2)) / (chosen | masks).sum((1, 2)).clamp(min=1)
        progress.update(
            segmentation + iou, {"masks": segmentation.item(), "mIoU": 100 * score.mean().item()}
        )
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "sam_config.json").write_text(json.dumps(asdict(CONFIG), indent=1) + "\n")
    weights = {k: v.half().contiguous() for k, v in sam.state_dict().items()}
    save_file(weights, options.out / "sam.safetensors")


if __name__ == "__main__":
    main()
