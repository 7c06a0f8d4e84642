"""LLaVA-1.5 with a RADIO vision tower: training, chat and evaluation.

``register()`` lets LLaVA's own code take RADIO models; ``import radio_llava`` loads neither torch
nor LLaVA.
"""

from typing import TYPE_CHECKING

from radio_core.lazy import lazy_names

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
__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "radio_llava.features": ("TowerConfig",),
        "radio_llava.images": ("RadioImageProcessor", "fit_long_edge", "token_count"),
        "radio_llava.registration": ("TruncationWarning", "register"),
        "radio_llava.tower": ("VisionTower", "is_radio_tower"),
    },
)
