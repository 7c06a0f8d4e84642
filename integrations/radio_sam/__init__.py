"""Segment Anything with a RADIO model in the place of its image encoder.

``import radio_sam`` costs nothing: torch is imported when one of the names below is first used.
"""

from typing import TYPE_CHECKING

from radio_core.lazy import lazy_names

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
__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "radio_sam.hf": ("swap_hf_image_encoder",),
        "radio_sam.load": ("build_radio_sam", "load_radio_sam"),
        "radio_sam.prompts": (
            "EncodedImage",
            "PredictedMasks",
            "Prompts",
            "best_masks",
            "encode_images",
            "predict_best_masks",
            "predict_masks",
        ),
        "radio_sam.swap": ("RadioImageEncoder", "swap_image_encoder"),
    },
)
