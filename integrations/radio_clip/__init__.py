"""CLIP-style zero-shot classification and retrieval with RADIO's features.

``load_radio_clip`` gives what open_clip's factories give. ``import radio_clip`` costs nothing:
torch is imported when one of the names below is first used.
"""

from typing import TYPE_CHECKING

from radio_core.lazy import lazy_names

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
__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "radio_clip.model": ("RadioClip", "RadioPreprocess", "RadioVisual", "load_radio_clip"),
        "radio_clip.text": ("SiglipTokenizer", "TextEncoder", "Tokenizer"),
    },
)
