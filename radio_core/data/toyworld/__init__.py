"""The toy world: deterministic procedural scenes with complete ground truth."""

from radio_core.data.toyworld.scenes import (
    CLASS_NAMES,
    COLOURS,
    SCENE_SIZE,
    SEMANTIC_NAMES,
    SHAPES,
    TEMPLATES,
    TEXTURES,
    WORDS,
    Scene,
    ToyObject,
    ToyWorldImages,
    open_toyworld,
    render_scene,
)

__all__ = [
    "CLASS_NAMES",
    "COLOURS",
    "SCENE_SIZE",
    "SEMANTIC_NAMES",
    "SHAPES",
    "TEMPLATES",
    "TEXTURES",
    "WORDS",
    "Scene",
    "ToyObject",
    "ToyWorldImages",
    "open_toyworld",
    "render_scene",
]
