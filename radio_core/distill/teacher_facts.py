"""What is known of a teacher's size and cost without its weights."""

import json
import math
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from radio_core.teachers import TOY_TEACHERS, load_teacher
from radio_core.vision import ModelSpec


@dataclass(frozen=True, kw_only=True)
class TeacherFacts:
    """A vision transformer in numbers; nearly every teacher is one.

    Attributes:
        width: of the tokens.
        depth: number of blocks.
        hidden: width inside the feed-forward part.
        patch_size: pixels.
        input_size: side in pixels of its own input.
        summary_dim: width of its summary; None for none.
        prefix: tokens besides the patches.
        gated: the feed-forward part has three matrices (SwiGLU) instead of two.
        window: side in patches of its attention windows, and
        global_blocks: the number of blocks without windows; 0 and all for plain ones.
        extra: parameters besides the blocks and the patch embedding.
        download: bytes to fetch; None if unknown.
    """

    width: int
    depth: int
    hidden: int
    patch_size: int
    input_size: int
    summary_dim: int | None
    prefix: int = 1
    gated: bool = False
    window: int = 0
    global_blocks: int = 0
    extra: int = 0
    download: int | None = None

    @property
    def matrices(self) -> int:
        """Weights of the matrices of one block."""
        return 4 * self.width**2 + (3 if self.gated else 2) * self.width * self.hidden

    @property
    def parameters(self) -> int:
        """Weights that run, about."""
        return self.depth * self.matrices + 3 * self.patch_size**2 * self.width + self.extra

    def flops(self, side: int | None = None) -> float:
        """Floating-point operations of a forward pass on one image of side x side pixels."""
        grid = (side or self.input_size) / self.patch_size
        tokens = grid**2 + self.prefix
        local = self.depth - self.global_blocks if self.window else 0
        windows = math.ceil(grid / self.window) ** 2 if self.window else 0
        pairs = (self.depth - local) * tokens**2 + local * windows * self.window**4
        embedding = 2 * tokens * 3 * self.patch_size**2 * self.width
        return embedding + 2 * tokens * self.depth * self.matrices + 4 * pairs * self.width

    def spec(self, name: str) -> ModelSpec:
        """The shapes that a student's heads follow from."""
        return ModelSpec(
            name=name,
            input_size=self.input_size,
            patch_size=self.patch_size,
            summary_dim=self.summary_dim,
            feature_dim=self.width,
            flexible=True,
        )


_DINO_V2 = {  # of the hub's repositories facebook/dinov2-<name>: width, depth
    "small": (384, 12),
    "base": (768, 12),
    "large": (1024, 24),
    "giant": (1536, 40),
}
_SAM = {  # width, depth, checkpoint in bytes
    "vit_b": (768, 12, 375_042_383),
    "vit_l": (1024, 24, 1_249_524_607),
    "vit_h": (1280, 32, 2_564_550_879),
}


def teacher_facts(source: str) -> TeacherFacts | None:
    """Facts of a teacher by its source, without a download; None where nothing is known."""
    kind, _, rest = source.partition(":")
    if source in TOY_TEACHERS:
        return _of_toy(source)
    if kind == "open_clip":
        return _of_open_clip(rest)
    if kind == "dinov2":
        return _of_dino(rest)
    return _of_sam(rest) if kind == "sam" else None


def _of_dino(rest: str) -> TeacherFacts | None:
    file = Path(rest) / "config.json"
    if file.is_file():
        config = json.loads(file.read_text())
        try:
            width, patch = int(config["hidden_size"]), int(config["patch_size"])
            return TeacherFacts(
                width=width,
                depth=int(config["num_hidden_layers"]),
                hidden=int(width * config.get("mlp_ratio", 4)),
                patch_size=patch,
                input_size=int(config["image_size"]) // patch * patch,
                summary_dim=width,
                prefix=1 + int(config.get("num_register_tokens", 0)),
                download=0,
            )
        except (KeyError, TypeError, ValueError):
            return None
    name = rest.rpartition("/")[2].removeprefix("dinov2-")
    size = name.removeprefix("with-registers-")
    if size not in _DINO_V2 or not rest.startswith("facebook/"):
        return None
    width, depth = _DINO_V2[size]
    gated = size == "giant"
    facts = TeacherFacts(
        width=width,
        depth=depth,
        # Two thirds of the MLP's width, to a multiple of 8.
        hidden=(width * 4 * 2 // 3 + 7) // 8 * 8 if gated else 4 * width,
        patch_size=14,
        input_size=518,
        summary_dim=width,
        prefix=1 if size == name else 5,
        gated=gated,
        extra=1370 * width,
    )
    return replace(facts, download=4 * facts.parameters)  # the repositories hold float32


def _of_open_clip(rest: str) -> TeacherFacts | None:
    """From open_clip's own description of the model; None where it is no plain transformer."""
    local = Path(rest.removeprefix("local-dir:")) / "open_clip_config.json"
    model: dict[str, Any] | None = None
    if local.is_file():
        model = json.loads(local.read_text()).get("model_cfg")
    elif find_spec("open_clip") and not rest.startswith(("local-dir:", "hf-hub:")):
        import open_clip

        model = open_clip.get_model_config(rest.partition("/")[0])
    vision = (model or {}).get("vision_cfg", {})
    if model is None or not isinstance(vision.get("layers"), int) or "width" not in vision:
        return None
    width, patch = vision["width"], vision["patch_size"]
    facts = TeacherFacts(
        width=width,
        depth=vision["layers"],
        hidden=int(width * vision.get("mlp_ratio", 4)),
        patch_size=patch,
        input_size=vision["image_size"] // patch * patch,
        summary_dim=model["embed_dim"],
        extra=width * model["embed_dim"],
        download=0 if local.is_file() else None,
    )
    if local.is_file() or rest.endswith("/openai"):  # those: half precision, other format
        return facts
    text = model["text_cfg"]
    text_width = int(text.get("width", 512))
    words = int(text.get("vocab_size", 49408)) * text_width
    texts = words + 12 * int(text.get("layers", 12)) * text_width**2
    return replace(facts, download=4 * (facts.parameters + texts))


def _of_sam(rest: str) -> TeacherFacts | None:
    name, _, checkpoint = rest.partition(":")
    file = Path(rest) / "sam_config.json"
    if file.is_file():
        values = json.loads(file.read_text())
        width, depth, download = values.get("embed_dim", 768), values.get("depth", 12), 0
    elif name in _SAM:
        values = {}
        width, depth, size = _SAM[name]
        download = 0 if Path(checkpoint).is_file() else size
    else:
        return None
    side, patch = values.get("image_size", 1024), values.get("patch_size", 16)
    return TeacherFacts(
        width=width,
        depth=depth,
        hidden=4 * width,
        patch_size=patch,
        input_size=side,
        summary_dim=None,
        prefix=0,
        window=values.get("window_size", 14),
        global_blocks=len(values.get("global_blocks", (0, 0, 0, 0))),
        extra=(side // patch) ** 2 * width,
        download=download,
    )


def _of_toy(source: str) -> TeacherFacts:
    """Of a bundled teacher, whose weights are at hand; its shape is that of a plain transformer."""
    teacher = load_teacher(source)
    spec, width = teacher.spec, teacher.spec.feature_dim
    count = sum(parameter.numel() for parameter in teacher.parameters())
    blocks = max(round(count / (12 * width**2)), 1)
    return TeacherFacts(
        width=width,
        depth=blocks,
        hidden=4 * width,
        patch_size=spec.patch_size,
        input_size=spec.input_size,
        summary_dim=spec.summary_dim,
        extra=count - blocks * 12 * width**2 - 3 * spec.patch_size**2 * width,
        download=0,
    )
