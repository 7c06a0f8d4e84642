"""Train toy-clip: a small open_clip model, contrastive on captions of the toy world.

python -m scripts.toy_teachers.clip --scenes runs/scenes --out radio_core/teachers/weights/toy-clip
"""

import argparse
import json
import random
from pathlib import Path
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from radio_core.data.toyworld import COLOURS, SHAPES, TEMPLATES, TEXTURES
from radio_core.teachers.open_clip import WordTokenizer
from scripts.toy_teachers.common import Progress, adamw, sincos_grid
from scripts.toy_teachers.scenes import Scenes, batches

CONFIG: dict[str, dict[str, Any]] = {
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


def vocabulary() -> list[str]:
    """Every word that a caption, a template or a class name can hold."""
    words = [word for text in TEMPLATES for word in text.replace("{}", " ").split()]
    return sorted({*words, *SHAPES, *COLOURS, *TEXTURES, *_EXTRA_WORDS})


def captions(kinds: Tensor, rng: random.Random) -> tuple[list[str], Tensor]:
    """One caption for each main object [B, 4, 3], and which of them fits which image [B, B].

    Half of the captions name the texture too; a caption fits every image whose main object has
    all the named attributes, so that equal scenes are not pushed apart.
    """
    main = kinds[:, 0]
    colours, texts, named = list(COLOURS), [], []
    for shape, colour, texture in main.tolist():
        name = f"{colours[colour]} {SHAPES[shape]}"
        with_texture = rng.random() < 0.5
        if with_texture:
            name = f"{TEXTURES[texture]} {name}"
        named.append(with_texture)
        texts.append(rng.choice(TEMPLATES).format(name))
    equal = main[:, None] == main[None]  # [image, text, attribute]
    needs_texture = torch.tensor(named)[None]
    fits = equal[..., 0] & equal[..., 1] & (equal[..., 2] | ~needs_texture)
    return texts, fits.float()


def contrastive_loss(images: Tensor, texts: Tensor, scale: Tensor, fits: Tensor) -> Tensor:
    """CLIP's symmetric cross entropy with every fitting pair as a positive."""
    logits = scale * F.normalize(images, dim=-1) @ F.normalize(texts, dim=-1).T
    to_text = fits / fits.sum(dim=1, keepdim=True)
    to_image = (fits / fits.sum(dim=0, keepdim=True)).T
    return 0.5 * (F.cross_entropy(logits, to_text) + F.cross_entropy(logits.T, to_image))


def main() -> None:
    """Train and write the open_clip directory (config, float16 weights, vocabulary)."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    rng = random.Random(0)
    tokenizer = WordTokenizer(vocabulary(), CONFIG["model_cfg"]["text_cfg"]["context_length"])
    CONFIG["model_cfg"]["text_cfg"]["vocab_size"] = tokenizer.vocab_size
    model = open_clip.CLIP(**CONFIG["model_cfg"])
    visual = model.visual
    with torch.no_grad():
        visual.positional_embedding[1:] = 0.5 * sincos_grid(8, 96)
    labels = nn.Linear(96, len(SHAPES) + len(COLOURS) + len(TEXTURES))
    heads = nn.ModuleList([model, labels])
    optimizer = adamw(heads, 1.5e-3)
    mean, std = (torch.tensor(CONFIG["preprocess_cfg"][k]).view(3, 1, 1) for k in ("mean", "std"))
    progress = Progress(optimizer, 1.5e-3, options.steps)
    data = batches(Scenes.load(options.scenes), 64, options.batch_size, options.steps, 1, 0.75)
    for done, batch in zip(progress, data, strict=True):
        texts, fits = captions(batch.kinds, rng)
        hidden = visual._embeds((batch.images - mean) / std)
        pooled, _tokens = visual._pool(visual.transformer(hidden))
        features = pooled @ visual.proj
        encoded = model.encode_text(tokenizer(texts))
        loss = contrastive_loss(features, encoded, model.logit_scale.exp().clamp(max=50), fits)
        answers = labels(pooled).split([len(SHAPES), len(COLOURS), len(TEXTURES)], dim=1)
        each = [F.cross_entropy(a, batch.kinds[:, 0, i]) for i, a in enumerate(answers)]
        # The label loss starts the training and has vanished after 60 % of it.
        total = loss + max(1 - done / 0.6, 0.0) * sum(each)
        right = (answers[0].argmax(1) == batch.kinds[:, 0, 0]).float().mean()
        progress.update(total, {"contrastive": loss.item(), "shape": right.item()})
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "open_clip_config.json").write_text(json.dumps(CONFIG, indent=1) + "\n")
    weights = {k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()}
    save_file(weights, options.out / "open_clip_model.safetensors")
    tokenizer.save(options.out)


if __name__ == "__main__":
    main()
