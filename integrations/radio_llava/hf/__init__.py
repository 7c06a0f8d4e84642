"""transformers' `LlavaForConditionalGeneration` with a RADIO vision tower.

transformers is imported when one of the names below is first used; it must be 5.17 or newer.
`register` makes the tower and its processors known to the Auto classes; `build_llava` and
`load_llava` call it themselves. Import from here: the modules inside do not check the version.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from radio_core.extras import require

if TYPE_CHECKING:
    from radio_llava.hf.convert import convert_llava
    from radio_llava.hf.model import (
        RadioVisionConfig,
        RadioVisionModel,
        build_llava,
        build_processor,
        load_llava,
        register,
    )
    from radio_llava.hf.processing import RadioLlavaImageProcessor, RadioLlavaProcessor

__all__ = [
    "RadioLlavaImageProcessor",
    "RadioLlavaProcessor",
    "RadioVisionConfig",
    "RadioVisionModel",
    "build_llava",
    "build_processor",
    "convert_llava",
    "load_llava",
    "register",
]

_HOME = dict.fromkeys(__all__, "radio_llava.hf.model") | {
    "RadioLlavaImageProcessor": "radio_llava.hf.processing",
    "RadioLlavaProcessor": "radio_llava.hf.processing",
    "convert_llava": "radio_llava.hf.convert",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'radio_llava.hf' has no attribute {name!r}")
    check_transformers()
    value: object = getattr(import_module(_HOME[name]), name)
    globals()[name] = value  # the next access does not come here
    return value


def check_transformers() -> None:
    """Refuse a transformers whose processors cannot give every image its own number of tokens."""
    transformers = require("transformers", extra="llava")
    if not hasattr(transformers.ProcessorMixin, "replace_image_token"):
        raise ImportError(
            f"transformers {transformers.__version__} is too old for its LLaVA with images of "
            "different sizes: pip install -U 'transformers>=5.17' (training with LLaVA's own "
            "code works with this version)",
            name="transformers",
        )


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
