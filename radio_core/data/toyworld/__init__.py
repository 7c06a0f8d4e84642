"""The toy world: deterministic procedural scenes with complete ground truth."""

from radio_core.data.toyworld.scenes import (
    CLASS_NAMES,
    SCENE_SIZE,
    SEMANTIC_NAMES,
    TEMPLATES,
    WORDS,
    Scene,
    ToyObject,
    render_scene,
)
from radio_core.data.toyworld.shapes import COLOURS, SHAPES, TEXTURES
from radio_core.data.toyworld.source import ToyWorldImages

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
    "render_scene",
]
