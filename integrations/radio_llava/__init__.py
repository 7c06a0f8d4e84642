"""LLaVA-1.5 with a RADIO vision tower: training, chat and evaluation.

``register()`` lets LLaVA's own code take RADIO models; ``import radio_llava`` loads neither torch
nor LLaVA.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from radio_llava.images import RadioImageProcessor, fit_long_edge, token_count
    from radio_llava.registration import is_radio_tower, register
    from radio_llava.tower import RadioVisionTower
    from radio_llava.tower_config import TowerConfig
    from radio_llava.truncation import TruncationWarning

__all__ = [
    "RadioImageProcessor",
    "RadioVisionTower",
    "TowerConfig",
    "TruncationWarning",
    "fit_long_edge",
    "is_radio_tower",
    "register",
    "token_count",
]

_HOME = {
    "RadioImageProcessor": "radio_llava.images",
    "RadioVisionTower": "radio_llava.tower",
    "TowerConfig": "radio_llava.tower_config",
    "TruncationWarning": "radio_llava.truncation",
    "fit_long_edge": "radio_llava.images",
    "is_radio_tower": "radio_llava.registration",
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
