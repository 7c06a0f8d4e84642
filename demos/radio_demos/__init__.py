"""Gradio demos: features, segmentation, zero-shot and chat.

Each ``build_...`` returns a ``gr.Blocks`` that works alone, in a notebook or a hosted space.
``import radio_demos`` costs nothing: gradio and torch are imported when one of the names below is
first used.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING

from radio_core.extras import require

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


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'radio_demos' has no attribute {name!r}")
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # gradio reads it when imported
    require("gradio", extra="demo")
    home = "app" if name in ("build_app", "launch") else name.removeprefix("build_")
    value: object = getattr(import_module(f"radio_demos.{home}"), name)
    globals()[name] = value  # the next access does not come here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
