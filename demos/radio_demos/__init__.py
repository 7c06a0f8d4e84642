"""Gradio demos: features, segmentation, zero-shot and chat.

Each ``build_...`` returns a ``gr.Blocks`` that works alone, in a notebook or a hosted space.
``import radio_demos`` costs nothing: gradio and torch are imported when one of the names below is
first used.
"""

import os
from typing import TYPE_CHECKING

from radio_core.extras import require
from radio_core.lazy import lazy_names

if TYPE_CHECKING:
    from radio_demos.app import build_app, launch
    from radio_demos.chat import build_chat
    from radio_demos.features import build_features
    from radio_demos.segment import build_segment
    from radio_demos.zero_shot import build_zero_shot

__all__ = [
    "build_app",
    "build_chat",
    "build_features",
    "build_segment",
    "build_zero_shot",
    "launch",
]


def _before() -> None:
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # gradio reads it when imported
    require("gradio", extra="demo")


__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "radio_demos.app": ("build_app", "launch"),
        "radio_demos.chat": ("build_chat",),
        "radio_demos.features": ("build_features",),
        "radio_demos.segment": ("build_segment",),
        "radio_demos.zero_shot": ("build_zero_shot",),
    },
    _before,
)
