"""What is known of a teacher's size and cost without its weights."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
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
            mean=(0, 0, 0),
            std=(1, 1, 1),
            patch_size=self.patch_size,
            summary_dim=self.summary_dim,
            feature_dim=self.width,
            licence="",
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
    if kind == "sam":
        return _of_sam(rest)
    return None


def _of_dino(rest: str) -> TeacherFacts | None:
    name = rest.rpartition("/")[2].removeprefix("dinov2-")
    registers = name.startswith("with-registers-")
    name = name.removeprefix("with-registers-")
    config = Path(rest) / "config.json"
    if config.is_file():
        return _of_transformers(json.loads(config.read_text()))
    if name not in _DINO_V2 or not rest.startswith("facebook/"):
        return None
    width, depth = _DINO_V2[name]
    gated = name == "giant"
    facts = TeacherFacts(
        width=width,
        depth=depth,
        # Two thirds of the MLP's width, to a multiple of 8.
        hidden=(width * 4 * 2 // 3 + 7) // 8 * 8 if gated else 4 * width,
        patch_size=14,
        input_size=518,
        summary_dim=width,
        prefix=5 if registers else 1,
        gated=gated,
        extra=1370 * width,
    )
    return _with_download(facts, 4 * facts.parameters)  # the repositories hold float32


def _of_transformers(config: Mapping[str, Any]) -> TeacherFacts | None:
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


def _of_open_clip(rest: str) -> TeacherFacts | None:
    """From open_clip's own description of the model; None where it is no plain transformer."""
    name = rest.partition("/")[0]
    local = Path(rest.removeprefix("local-dir:")) / "open_clip_config.json"
    if local.is_file():
        model = json.loads(local.read_text()).get("model_cfg")
    elif find_spec("open_clip") is None or rest.startswith(("local-dir:", "hf-hub:")):
        return None
    else:
        import open_clip

        model = open_clip.get_model_config(name)
    vision = (model or {}).get("vision_cfg", {})
    if not isinstance(vision.get("layers"), int) or "width" not in vision:
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
    if facts.download is None and not rest.endswith("/openai"):  # half precision, other format
        return _with_download(facts, 4 * (facts.parameters + _text_parameters(model["text_cfg"])))
    return facts


def _text_parameters(text: Mapping[str, Any]) -> int:
    width = int(text.get("width", 512))
    words = int(text.get("vocab_size", 49408)) * width
    return words + 12 * int(text.get("layers", 12)) * width**2


def _of_sam(rest: str) -> TeacherFacts | None:
    name, _, checkpoint = rest.partition(":")
    folder = Path(rest) / "sam_config.json"
    if folder.is_file():
        values = {"width": 768, "depth": 12, "window": 14, **json.loads(folder.read_text())}
        width, depth = values.get("embed_dim", 768), values["depth"]
        side, patch = values.get("image_size", 1024), values.get("patch_size", 16)
        globals_ = len(values.get("global_blocks", (0, 0, 0, 0)))
        return _sam(width, depth, side, patch, values.get("window_size", 14), globals_, 0)
    if name not in _SAM:
        return None
    width, depth, size = _SAM[name]
    return _sam(width, depth, 1024, 16, 14, 4, 0 if Path(checkpoint).is_file() else size)


def _sam(
    width: int, depth: int, side: int, patch: int, window: int, global_blocks: int, download: int
) -> TeacherFacts:
    return TeacherFacts(
        width=width,
        depth=depth,
        hidden=4 * width,
        patch_size=patch,
        input_size=side,
        summary_dim=None,
        prefix=0,
        window=window,
        global_blocks=global_blocks,
        extra=(side // patch) ** 2 * width,
        download=download,
    )


def _of_toy(source: str) -> TeacherFacts:
    """Of a bundled teacher, whose weights are at hand; its shape is that of a plain transformer."""
    teacher = load_teacher(source)
    spec = teacher.spec
    count = sum(parameter.numel() for parameter in teacher.parameters())
    blocks = max(round(count / (12 * spec.feature_dim**2)), 1)
    return TeacherFacts(
        width=spec.feature_dim,
        depth=blocks,
        hidden=4 * spec.feature_dim,
        patch_size=spec.patch_size,
        input_size=spec.input_size,
        summary_dim=spec.summary_dim,
        extra=count - blocks * 12 * spec.feature_dim**2 - 3 * spec.patch_size**2 * spec.feature_dim,
        download=0,
    )


def _with_download(facts: TeacherFacts, size: int) -> TeacherFacts:
    return TeacherFacts(**{**vars(facts), "download": size})
