"""Train toy-dino: a small Dinov2WithRegistersModel with densely supervised patches.

python -m scripts.toy_teachers.dino --scenes runs/scenes --out radio_core/teachers/weights/toy-dino
"""

import argparse
import json
from itertools import chain
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

from radio_core.data.toyworld import COLOURS, SHAPES, TEXTURES
from scripts.toy_teachers.common import Progress, adamw, sincos_grid
from scripts.toy_teachers.scenes import Batch, Scenes, batches

SIZE, PATCH, WIDTH = 84, 7, 128
GRID = SIZE // PATCH
# Shapes are learned at the low resolution, where a step costs 40 %; the rest refines borders.
LOW_SIZE, LOW_SHARE = 56, 0.7
LR, CONTINUED_LR = 1.5e-3, 7e-4
COUNTS = (len(SHAPES), len(COLOURS), len(TEXTURES))
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def build() -> Dinov2WithRegistersModel:
    """The architecture of toy-dino with fixed positions as initialisation."""
    config = Dinov2WithRegistersConfig(
        hidden_size=WIDTH,
        num_hidden_layers=5,
        num_attention_heads=2,
        image_size=SIZE,
        patch_size=PATCH,
        num_register_tokens=4,
        layerscale_value=0.5,
    )
    model = Dinov2WithRegistersModel(config)
    with torch.no_grad():
        model.embeddings.position_embeddings[0, 1:] = 0.5 * sincos_grid(GRID, WIDTH)
    return model


def patch_targets(batch: Batch, attribute: int) -> Tensor:
    """Share [B, GRID, GRID, K + 1] of each patch's pixels by attribute value; last: background."""
    count = COUNTS[attribute]
    values = batch.kinds[..., attribute]
    values = torch.where(values < 0, count, values)
    values = F.pad(values, (0, 1), value=count)  # owner -1 looks up the added last column
    pixels = values.gather(1, (batch.owners % values.shape[1]).flatten(1))
    one_hot = F.one_hot(pixels.view_as(batch.owners), count + 1).permute(0, 3, 1, 2).float()
    return F.avg_pool2d(one_hot, PATCH).permute(0, 2, 3, 1)


def main() -> None:
    """Train and write the transformers directory (config, float16 weights, preprocessor)."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--init", type=Path, help="go on from these weights, at full size only")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    model = build()
    if options.init is not None:
        model = Dinov2WithRegistersModel.from_pretrained(options.init).float().train()
    lr, low_share = (LR, LOW_SHARE) if options.init is None else (CONTINUED_LR, 0.0)
    dense, whole = nn.Linear(WIDTH, sum(COUNTS) + 3), nn.Linear(WIDTH, sum(COUNTS))
    optimizer = adamw(nn.ModuleList([model, dense, whole]), lr)
    progress = Progress(optimizer, lr, options.steps)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (MEAN, STD))
    seed = 3 if options.init is None else 4
    scenes, low_steps = Scenes.load(options.scenes), int(low_share * options.steps)
    data = chain(
        batches(scenes, LOW_SIZE, options.batch_size, low_steps, 2, 0.7),
        batches(scenes, SIZE, options.batch_size, options.steps - low_steps, seed, 0.7),
    )
    for done, batch in zip(progress, data, strict=True):
        tokens = model((batch.images - mean) / std).last_hidden_state
        patches = dense(tokens[:, 5:]).split([n + 1 for n in COUNTS], dim=-1)
        main_object = whole(tokens[:, 0]).split(COUNTS, dim=-1)
        targets = [patch_targets(batch, i).flatten(1, 2) for i in range(3)]
        dense_losses = [
            F.cross_entropy(p.flatten(0, 1), t.flatten(0, 1))
            for p, t in zip(patches, targets, strict=True)
        ]
        whole_losses = [F.cross_entropy(a, batch.kinds[:, 0, i]) for i, a in enumerate(main_object)]
        whole_weight = max(1 - done, 0.2)
        loss = 2 * dense_losses[0] + 0.5 * sum(dense_losses[1:]) + whole_weight * sum(whole_losses)
        on_shape = targets[0][..., -1] < 0.5
        right = (patches[0].argmax(-1) == targets[0].argmax(-1))[on_shape].float().mean()
        whole_right = (main_object[0].argmax(1) == batch.kinds[:, 0, 0]).float().mean()
        progress.update(
            loss,
            {
                "dense": dense_losses[0].item(),
                "patch shape": right.item(),
                "shape": whole_right.item(),
            },
        )
    model.eval().half().save_pretrained(options.out)
    preprocessor = {
        "image_processor_type": "BitImageProcessor",
        "do_resize": True,
        "size": {"height": SIZE, "width": SIZE},
        "image_mean": MEAN,
        "image_std": STD,
    }
    (options.out / "preprocessor_config.json").write_text(json.dumps(preprocessor, indent=1) + "\n")


if __name__ == "__main__":
    main()
