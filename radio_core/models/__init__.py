"""The students: vision transformer, adaptor heads, and the model that joins them."""

from radio_core.models.adaptors import AdaptorConfig
from radio_core.models.config import RadioConfig
from radio_core.models.outputs import BackboneOutput, RadioOutput
from radio_core.models.radio import RadioModel
from radio_core.models.vit import VisionTransformer, ViTConfig, vit_config

__all__ = [
    "AdaptorConfig",
    "BackboneOutput",
    "RadioConfig",
    "RadioModel",
    "RadioOutput",
    "ViTConfig",
    "VisionTransformer",
    "vit_config",
]
