"""CLIP-style zero-shot classification and retrieval with RADIO's features.

``load_radio_clip`` gives what open_clip's factories give. ``import radio_clip`` costs nothing:
torch is imported when one of the names below is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from radio_clip.model import RadioClip, RadioPreprocess, RadioVisual, load_radio_clip
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

_OF_TEXT = ("SiglipTokenizer", "TextEncoder", "Tokenizer")


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'radio_clip' has no attribute {name!r}")
    home = import_module("radio_clip.text" if name in _OF_TEXT else "radio_clip.model")
    value: object = getattr(home, name)
    globals()[name] = value  # the next access does not come here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
