"""Train the three toy teachers whose weights ship with radio_core.

    python -m scripts.toy_teachers scenes --count 40000 --out runs/scenes
    python -m scripts.toy_teachers clip --scenes runs/scenes --out toy-clip

and so "dino" and "sam". toy-clip learns contrastively from captions, toy-dino from patches
labelled with what they show, toy-sam from boxes and points. Each writes its library's own format.
"""

import argparse
import json
import math
import os
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn

from radio_core.data.toyworld import (
    COLOURS,
    SCENE_SIZE,
    SHAPES,
    TEMPLATES,
    TEXTURES,
    render_scene,
)

B = TypeVar("B")
MAX_OBJECTS = 4
COUNTS = (len(SHAPES), len(COLOURS), len(TEXTURES))
_CHUNK = 500
_ARRAYS: dict[str, tuple[type, tuple[int, ...]]] = {
    "images": (np.uint8, (SCENE_SIZE, SCENE_SIZE, 3)),
    "owners": (np.int8, (SCENE_SIZE, SCENE_SIZE)),
    "kinds": (np.int8, (MAX_OBJECTS, 3)),
}
"""Of N scenes: pixels; the number of the visible object, -1 for background; shape, colour and
texture of every object, -1 where absent."""


@dataclass(frozen=True)
class Batch:
    """One training batch.

    Attributes:
        images: [B, 3, S, S] float32 in [0, 1].
        owners: [B, S, S] int64, number of the visible object, -1 for background.
        kinds: [B, 4, 3] int64: shape, colour and texture of every object, -1 where absent.
    """

    images: Tensor
    owners: Tensor
    kinds: Tensor


def batches(
    scenes: Path, size: int, batch_size: int, steps: int, seed: int, crop: float
) -> Iterator[Batch]:
    """Random batches: one random square crop (side >= `crop` of the image) and flip for each."""
    arrays = {name: np.load(scenes / f"{name}.npy", mmap_mode="r") for name in _ARRAYS}
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        index = np.sort(rng.choice(len(arrays["images"]), batch_size, replace=False))
        side = round(SCENE_SIZE * float(rng.uniform(crop, 1)))
        top, left = rng.integers(0, SCENE_SIZE - side + 1, 2)
        window = (index, slice(top, top + side), slice(left, left + side))
        images = torch.from_numpy(arrays["images"][window]).permute(0, 3, 1, 2).float() / 255
        owners = torch.from_numpy(arrays["owners"][window]).long()
        images = F.interpolate(
            images, size=(size, size), mode="bilinear", antialias=True, align_corners=False
        )
        rows = ((torch.arange(size) + 0.5) * side / size).long()
        owners = owners[:, rows][:, :, rows]
        if rng.random() < 0.5:
            images, owners = images.flip(-1), owners.flip(-1)
        yield Batch(images, owners, torch.from_numpy(arrays["kinds"][index]).long())


def write_scenes(out: Path, count: int) -> None:
    """Render scenes on all cores and write them as .npy files."""
    out.mkdir(parents=True, exist_ok=True)
    firsts = range(0, count // _CHUNK * _CHUNK, _CHUNK)
    arrays = {
        name: np.lib.format.open_memmap(
            out / f"{name}.npy", "w+", kind, (len(firsts) * _CHUNK, *shape)
        )
        for name, (kind, shape) in _ARRAYS.items()
    }
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for first, parts in zip(firsts, pool.map(_render, firsts), strict=True):
            for name, part in parts.items():
                arrays[name][first : first + _CHUNK] = part


def _render(first: int) -> dict[str, NDArray[Any]]:
    arrays: dict[str, NDArray[Any]] = {
        name: np.full((_CHUNK, *shape), -1).astype(kind) for name, (kind, shape) in _ARRAYS.items()
    }
    colours = list(COLOURS)
    for row in range(_CHUNK):
        scene = render_scene(0, first + row)
        arrays["images"][row] = scene.image
        for number, thing in enumerate(scene.objects):
            arrays["owners"][row][thing.mask] = number
            arrays["kinds"][row, number] = (
                SHAPES.index(thing.shape),
                colours.index(thing.colour),
                TEXTURES.index(thing.texture),
            )
    return arrays


def train(
    module: nn.Module,
    data: Iterable[B],
    loss: Callable[[B, float], tuple[Tensor, Mapping[str, float]]],
    lr: float,
    steps: int,
) -> None:
    """Train for some steps: AdamW, cosine schedule with warm-up, clipped gradients.

    Args:
        module: all that learns; vectors and biases without weight decay.
        data: as many batches as steps.
        loss: (batch, share of the steps done) -> what to minimise, and numbers to print.
        lr: highest learning rate.
        steps: number of steps.
    """
    learnt = [p for p in module.parameters() if p.requires_grad]
    matrices, vectors = ([p for p in learnt if (p.ndim > 1) == yes] for yes in (True, False))
    groups: list[dict[str, Any]] = [
        {"params": matrices},
        {"params": vectors, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=lr, weight_decay=0.05, betas=(0.9, 0.98))
    warmup, started = max(steps // 25, 1), time.monotonic()
    for step, batch in enumerate(data):
        decay = 0.5 * (1 + math.cos(math.pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = lr * min((step + 1) / warmup, 1.0) * max(decay, 0.01)
        total, numbers = loss(batch, step / steps)
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        nn.utils.clip_grad_norm_([*matrices, *vectors], 1.0)
        optimizer.step()
        if step % 100 == 0 or step == steps - 1:
            line = "  ".join(f"{name} {value:.3f}" for name, value in numbers.items())
            minutes = (time.monotonic() - started) / 60
            print(f"step {step}/{steps}  {minutes:.1f} min  {line}", flush=True)


def sincos_grid(rows: int, width: int) -> Tensor:
    """Fixed 2-D sine-cosine positions [rows*rows, width], the initialisation that learns fast."""
    axis = torch.arange(rows, dtype=torch.float32)
    quarter = width // 4
    omega = 1.0 / (100.0 ** (torch.arange(quarter) / quarter))
    angles = axis[:, None] * omega[None]
    waves = torch.cat([angles.sin(), angles.cos()], dim=1)
    y = waves[:, None].expand(rows, rows, 2 * quarter)
    x = waves[None].expand(rows, rows, 2 * quarter)
    grid = torch.cat([y, x], dim=2).reshape(rows * rows, 4 * quarter)
    return F.pad(grid, (0, width - 4 * quarter))


CLIP: dict[str, dict[str, Any]] = {
    "model_cfg": {
        "embed_dim": 64,
        "vision_cfg": {
            "image_size": 64,
            "layers": 5,
            "width": 96,
            "head_width": 48,
            "patch_size": 8,
            "ls_init_value": None,
        },
        "text_cfg": {"context_length": 16, "vocab_size": 0, "width": 64, "heads": 2, "layers": 2},
    },
    "preprocess_cfg": {
        "mean": [0.48145466, 0.4578275, 0.40821073],
        "std": [0.26862954, 0.26130258, 0.27577711],
    },
}
_EXTRA_WORDS = ("large", "small", "and", "next", "to", "on", "with", "background")


def train_clip(options: argparse.Namespace) -> None:
    """Train and write an open_clip directory (config, float16 weights, vocabulary)."""
    import open_clip

    from radio_core.teachers.open_clip import WordTokenizer

    template_words = [word for text in TEMPLATES for word in text.replace("{}", " ").split()]
    words = sorted({*template_words, *SHAPES, *COLOURS, *TEXTURES, *_EXTRA_WORDS})
    tokenizer = WordTokenizer(words, CLIP["model_cfg"]["text_cfg"]["context_length"])
    CLIP["model_cfg"]["text_cfg"]["vocab_size"] = tokenizer.vocab_size
    model = open_clip.CLIP(**CLIP["model_cfg"])
    visual = model.visual
    with torch.no_grad():
        visual.positional_embedding[1:] = 0.5 * sincos_grid(8, 96)
    labels = nn.Linear(96, sum(COUNTS))
    mean, std = (torch.tensor(CLIP["preprocess_cfg"][k]).view(3, 1, 1) for k in ("mean", "std"))
    rng = random.Random(0)

    def loss(batch: Batch, done: float) -> tuple[Tensor, Mapping[str, float]]:
        texts, fits = captions(batch.kinds, rng)
        hidden = visual._embeds((batch.images - mean) / std)
        pooled, _tokens = visual._pool(visual.transformer(hidden))
        images = F.normalize(pooled @ visual.proj, dim=-1)
        encoded = F.normalize(model.encode_text(tokenizer(texts)), dim=-1)
        # CLIP's symmetric cross entropy with every fitting pair as a positive
        logits = model.logit_scale.exp().clamp(max=50) * images @ encoded.T
        to_text = fits / fits.sum(dim=1, keepdim=True)
        to_image = (fits / fits.sum(dim=0, keepdim=True)).T
        pairs = 0.5 * (F.cross_entropy(logits, to_text) + F.cross_entropy(logits.T, to_image))
        answers = labels(pooled).split(COUNTS, dim=1)
        each = [F.cross_entropy(a, batch.kinds[:, 0, i]) for i, a in enumerate(answers)]
        right = (answers[0].argmax(1) == batch.kinds[:, 0, 0]).float().mean()
        # The label loss starts the training and has vanished after 60 % of it.
        total = pairs + max(1 - done / 0.6, 0.0) * sum(each)
        return total, {"contrastive": pairs.item(), "shape": right.item()}

    data = batches(options.scenes, 64, options.batch_size, options.steps, 1, 0.75)
    train(nn.ModuleList([model, labels]), data, loss, 1.5e-3, options.steps)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "open_clip_config.json").write_text(json.dumps(CLIP, indent=1) + "\n")
    weights = {k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()}
    save_file(weights, options.out / "open_clip_model.safetensors")
    tokenizer.save(options.out)


def captions(kinds: Tensor, rng: random.Random) -> tuple[list[str], Tensor]:
    """One caption for each main object [B, 4, 3], and which of them fits which image [B, B].

    Half of the captions name the texture too; a caption fits every image whose main object has
    all the named attributes, so that equal scenes are not pushed apart.
    """
    main = kinds[:, 0]
    colours, texts, named = list(COLOURS), [], []
    for shape, colour, texture in main.tolist():
        name = f"{colours[colour]} {SHAPES[shape]}"
        named.append(rng.random() < 0.5)
        if named[-1]:
            name = f"{TEXTURES[texture]} {name}"
        texts.append(rng.choice(TEMPLATES).format(name))
    equal = main[:, None] == main[None]  # [image, text, attribute]
    needs_texture = torch.tensor(named)[None]
    fits = equal[..., 0] & equal[..., 1] & (equal[..., 2] | ~needs_texture)
    return texts, fits.float()


DINO_SIZE, DINO_PATCH, DINO_WIDTH = 84, 7, 128
# Shapes are learned at the low resolution, where a step costs 40 %; the rest refines borders.
_LOW_SIZE, _LOW_SHARE = 56, 0.7


def train_dino(options: argparse.Namespace) -> None:
    """Train and write a transformers directory (config, float16 weights, preprocessor)."""
    from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

    config = Dinov2WithRegistersConfig(
        hidden_size=DINO_WIDTH,
        num_hidden_layers=5,
        num_attention_heads=2,
        image_size=DINO_SIZE,
        patch_size=DINO_PATCH,
        num_register_tokens=4,
        layerscale_value=0.5,
    )
    model = Dinov2WithRegistersModel(config)
    with torch.no_grad():
        grid = sincos_grid(DINO_SIZE // DINO_PATCH, DINO_WIDTH)
        model.embeddings.position_embeddings[0, 1:] = 0.5 * grid
    lr, low_share, seed = 1.5e-3, _LOW_SHARE, 3
    if options.init is not None:  # go on at full size only
        model = Dinov2WithRegistersModel.from_pretrained(options.init).float().train()
        lr, low_share, seed = 7e-4, 0.0, 4
    dense, whole = nn.Linear(DINO_WIDTH, sum(COUNTS) + 3), nn.Linear(DINO_WIDTH, sum(COUNTS))
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

    def loss(batch: Batch, done: float) -> tuple[Tensor, Mapping[str, float]]:
        centred = batch.images - torch.tensor(mean).view(3, 1, 1)
        tokens = model(centred / torch.tensor(std).view(3, 1, 1)).last_hidden_state
        patches = dense(tokens[:, 5:]).split([n + 1 for n in COUNTS], dim=-1)
        main_object = whole(tokens[:, 0]).split(COUNTS, dim=-1)
        targets = [patch_targets(batch, i).flatten(1, 2) for i in range(3)]
        dense_losses = [
            F.cross_entropy(p.flatten(0, 1), t.flatten(0, 1))
            for p, t in zip(patches, targets, strict=True)
        ]
        whole_losses = [F.cross_entropy(a, batch.kinds[:, 0, i]) for i, a in enumerate(main_object)]
        weight = max(1 - done, 0.2)
        total = 2 * dense_losses[0] + 0.5 * sum(dense_losses[1:]) + weight * sum(whole_losses)
        on_shape = targets[0][..., -1] < 0.5
        right = (patches[0].argmax(-1) == targets[0].argmax(-1))[on_shape].float().mean()
        whole_right = (main_object[0].argmax(1) == batch.kinds[:, 0, 0]).float().mean()
        numbers = {"dense": dense_losses[0], "patch shape": right, "shape": whole_right}
        return total, {name: value.item() for name, value in numbers.items()}

    low = int(low_share * options.steps)
    data = chain(
        batches(options.scenes, _LOW_SIZE, options.batch_size, low, 2, 0.7),
        batches(options.scenes, DINO_SIZE, options.batch_size, options.steps - low, seed, 0.7),
    )
    train(nn.ModuleList([model, dense, whole]), data, loss, lr, options.steps)
    model.eval().half().save_pretrained(options.out)
    preprocessor = {
        "image_processor_type": "BitImageProcessor",
        "do_resize": True,
        "size": {"height": DINO_SIZE, "width": DINO_SIZE},
        "image_mean": mean,
        "image_std": std,
    }
    (options.out / "preprocessor_config.json").write_text(json.dumps(preprocessor, indent=1) + "\n")


def patch_targets(batch: Batch, attribute: int) -> Tensor:
    """Share [B, h, w, K + 1] of each patch's pixels by attribute value; last: background."""
    count = COUNTS[attribute]
    values = batch.kinds[..., attribute]
    values = torch.where(values < 0, count, values)
    values = F.pad(values, (0, 1), value=count)  # owner -1 looks up the added last column
    pixels = values.gather(1, (batch.owners % values.shape[1]).flatten(1))
    one_hot = F.one_hot(pixels.view_as(batch.owners), count + 1).permute(0, 3, 1, 2).float()
    return F.avg_pool2d(one_hot, DINO_PATCH).permute(0, 2, 3, 1)


_POINT_SHARE = 0.25


def train_sam(options: argparse.Namespace) -> None:
    """Train and write a Sam's state dict (float16) and its sizes."""
    from radio_core.teachers.segment_anything import SamConfig, build_sam

    config = SamConfig(
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
    sam = build_sam(config)
    with torch.no_grad():
        sam.image_encoder.pos_embed.normal_(std=0.02)
    generator = torch.Generator().manual_seed(0)

    def loss(batch: Batch, done: float) -> tuple[Tensor, Mapping[str, float]]:
        rows, masks, boxes = choose_objects(batch, generator)
        pixels = (batch.images[rows] * 255 - sam.pixel_mean) / sam.pixel_std
        sparse, dense = prompt(sam, masks, boxes, generator)
        logits, quality = decode(sam, sam.image_encoder(pixels), sparse, dense)
        logits = F.interpolate(logits, size=masks.shape[-2:], mode="bilinear")
        segmentation, iou = mask_losses(logits, quality, masks)
        hard, best = logits[:, 1:] > 0, quality[:, 1:].argmax(dim=1)
        chosen = hard[torch.arange(len(hard)), best]
        score = (chosen & masks).sum((1, 2)) / (chosen | masks).sum((1, 2)).clamp(min=1)
        numbers = {"masks": segmentation.item(), "mIoU": 100 * score.mean().item()}
        return segmentation + iou, numbers

    data = batches(options.scenes, 128, options.batch_size, options.steps, 3, 0.7)
    train(sam, data, loss, 1e-3, options.steps)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "sam_config.json").write_text(json.dumps(asdict(config), indent=1) + "\n")
    weights = {k: v.half().contiguous() for k, v in sam.state_dict().items()}
    save_file(weights, options.out / "sam.safetensors")


def choose_objects(batch: Batch, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """One visible object of each image: rows kept, masks [B', S, S] bool, boxes [B', 4] xyxy."""
    masks = F.one_hot(batch.owners + 1, MAX_OBJECTS + 1)[..., 1:].permute(0, 3, 1, 2).bool()
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
    sam: Any, masks: Tensor, boxes: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Embed a jittered box, or for some batches a point inside each mask."""
    if torch.rand((), generator=generator) < _POINT_SHARE:
        flat = torch.multinomial(masks.flatten(1).float(), 1, generator=generator)
        size = masks.shape[-1]
        points = torch.stack([flat % size, flat // size], dim=-1).float()
        sparse, dense = sam.prompt_encoder((points, torch.ones(len(points), 1)), None, None)
    else:
        jitter = 1.5 * torch.randn(boxes.shape, generator=generator)
        keep = (torch.rand(len(boxes), 1, generator=generator) < 0.5).float()
        sparse, dense = sam.prompt_encoder(None, boxes + jitter * keep, None)
    return sparse, dense


def decode(sam: Any, image: Tensor, sparse: Tensor, dense: Tensor) -> tuple[Tensor, Tensor]:
    """`MaskDecoder.predict_masks` for one prompt on each of B images instead of B on one."""
    decoder, pe = sam.mask_decoder, sam.prompt_encoder.get_dense_pe()
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


TEACHERS: dict[str, tuple[Callable[[argparse.Namespace], None], int, int]] = {
    "clip": (train_clip, 2500, 128),
    "dino": (train_dino, 3000, 64),
    "sam": (train_sam, 3500, 16),
}
"""Name -> what trains it, steps, batch size."""


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    scenes = commands.add_parser("scenes", help="render the training set")
    scenes.add_argument("--count", type=int, default=40_000)
    scenes.add_argument("--out", type=Path, required=True)
    for name, (run, steps, batch_size) in TEACHERS.items():
        teacher = commands.add_parser(name, help=f"train toy-{name}")
        teacher.add_argument("--scenes", type=Path, required=True)
        teacher.add_argument("--out", type=Path, required=True)
        teacher.add_argument("--steps", type=int, default=steps)
        teacher.add_argument("--batch-size", type=int, default=batch_size)
        teacher.add_argument("--threads", type=int, default=2)
        teacher.set_defaults(run=run)
        if name == "dino":
            teacher.add_argument("--init", type=Path, help="go on from these weights")
    options = parser.parse_args()
    if options.command == "scenes":
        write_scenes(options.out, options.count)
        return
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    options.run(options)


if __name__ == "__main__":
    main()
