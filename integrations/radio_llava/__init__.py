"""LLaVA-1.5 with a RADIO vision tower: training, chat and evaluation.

``register()`` lets LLaVA's own code take RADIO models; ``import radio_llava`` loads neither torch
nor LLaVA.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from radio_llava.features import TowerConfig
    from radio_llava.images import RadioImageProcessor, fit_long_edge, token_count
    from radio_llava.registration import TruncationWarning, register
    from radio_llava.tower import VisionTower, is_radio_tower

__all__ = [
    "RadioImageProcessor",
    "TowerConfig",
    "TruncationWarning",
    "VisionTower",
    "fit_long_edge",
    "is_radio_tower",
    "register",
    "token_count",
]

_HOME = {
    "RadioImageProcessor": "radio_llava.images",
    "TowerConfig": "radio_llava.features",
    "TruncationWarning": "radio_llava.registration",
    "VisionTower": "radio_llava.tower",
    "fit_long_edge": "radio_llava.images",
    "is_radio_tower": "radio_llava.tower",
    "register": "radio_llava.registration",
    "token_count": "radio_llava.images",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'radio_llava' has no attribute {name!r}")
    value: object = getattr(import_module(_HOME[name]), name)
    globals()[name] = value  # the next access does not come here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
