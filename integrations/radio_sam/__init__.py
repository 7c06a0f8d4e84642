"""Segment Anything with a RADIO model in the place of its image encoder."""

from radio_sam.swap import RadioImageEncoder, swap_image_encoder

__all__ = ["RadioImageEncoder", "swap_image_encoder"]
