"""Segment Anything with a RADIO model in the place of its image encoder.

``import radio_sam`` costs nothing: torch is imported when one of the names below is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from radio_sam.hf import swap_hf_image_encoder
    from radio_sam.load import build_radio_sam, load_radio_sam
    from radio_sam.prompts import (
        EncodedImage,
        PredictedMasks,
        Prompts,
        best_masks,
        encode_images,
        predict_best_masks,
        predict_masks,
    )
    from radio_sam.swap import RadioImageEncoder, swap_image_encoder

__all__ = [
    "EncodedImage",
    "PredictedMasks",
    "Prompts",
    "RadioImageEncoder",
    "best_masks",
    "build_radio_sam",
    "encode_images",
    "load_radio_sam",
    "predict_best_masks",
    "predict_masks",
    "swap_hf_image_encoder",
    "swap_image_encoder",
]

_HOME = {
    "RadioImageEncoder": "swap",
    "build_radio_sam": "load",
    "load_radio_sam": "load",
    "swap_hf_image_encoder": "hf",
    "swap_image_encoder": "swap",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'radio_sam' has no attribute {name!r}")
    value: object = getattr(import_module(f"radio_sam.{_HOME.get(name, 'prompts')}"), name)
    globals()[name] = value  # the next access does not come here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
