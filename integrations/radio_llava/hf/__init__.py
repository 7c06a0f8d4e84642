"""transformers' `LlavaForConditionalGeneration` with a RADIO vision tower.

transformers is imported when one of the names below is first used; it must be 5.17 or newer.
`register` makes the tower and its processors known to the Auto classes; `build_llava` and
`load_llava` call it themselves. Import from here: the modules inside do not check the version.
"""

from typing import TYPE_CHECKING

from radio_core.extras import require
from radio_core.lazy import lazy_names

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


__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "radio_llava.hf.convert": ("convert_llava",),
        "radio_llava.hf.model": (
            "RadioVisionConfig",
            "RadioVisionModel",
            "build_llava",
            "build_processor",
            "load_llava",
            "register",
        ),
        "radio_llava.hf.processing": ("RadioLlavaImageProcessor", "RadioLlavaProcessor"),
    },
    check_transformers,
)
