"""CLIP-style zero-shot classification and retrieval with RADIO's features.

``load_radio_clip`` gives what open_clip's factories give. ``import radio_clip`` costs nothing:
torch is imported when one of the names below is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from radio_clip.load import load_radio_clip
    from radio_clip.model import RadioClip, RadioVisual
    from radio_clip.preprocess import RadioPreprocess
    from radio_clip.text import SiglipTokenizer, TextEncoder, Tokenizer

__all__ = [
    "RadioClip",
    "RadioPreprocess",
    "RadioVisual",
    "SiglipTokenizer",
    "TextEncoder",
    "Tokenizer",
    "load_radio_clip",
]

_HOME = {
    "RadioClip": "radio_clip.model",
    "RadioPreprocess": "radio_clip.preprocess",
    "RadioVisual": "radio_clip.model",
    "SiglipTokenizer": "radio_clip.text",
    "TextEncoder": "radio_clip.text",
    "Tokenizer": "radio_clip.text",
    "load_radio_clip": "radio_clip.load",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'radio_clip' has no attribute {name!r}")
    value: object = getattr(import_module(_HOME[name]), name)
    globals()[name] = value  # the next access does not come here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
