"""Segment Anything with a RADIO model in the place of its image encoder.

``import radio_sam`` costs nothing: torch is imported when one of the names below is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from radio_sam.build import build_radio_sam
    from radio_sam.encoder import RadioImageEncoder
    from radio_sam.hf import swap_hf_image_encoder
    from radio_sam.load import load_radio_sam
    from radio_sam.prompts import (
        EncodedImage,
        PredictedMasks,
        Prompts,
        best_masks,
        encode_images,
        predict_best_masks,
        predict_masks,
    )
    from radio_sam.swap import swap_image_encoder

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
    "EncodedImage": "radio_sam.prompts",
    "PredictedMasks": "radio_sam.prompts",
    "Prompts": "radio_sam.prompts",
    "RadioImageEncoder": "radio_sam.encoder",
    "best_masks": "radio_sam.prompts",
    "build_radio_sam": "radio_sam.build",
    "encode_images": "radio_sam.prompts",
    "load_radio_sam": "radio_sam.load",
    "predict_best_masks": "radio_sam.prompts",
    "predict_masks": "radio_sam.prompts",
    "swap_hf_image_encoder": "radio_sam.hf",
    "swap_image_encoder": "radio_sam.swap",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'radio_sam' has no attribute {name!r}")
    value: object = getattr(import_module(_HOME[name]), name)
    globals()[name] = value  # the next access does not come here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
