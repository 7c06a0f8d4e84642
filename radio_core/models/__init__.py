"""The students: vision transformer, adaptor heads, and the model that joins them."""

from radio_core.models.adaptors import AdaptorConfig
from radio_core.models.config import BackboneConfig, RadioConfig
from radio_core.models.eradio import ERadio, ERadioConfig, eradio_config
from radio_core.models.heads import HeadConfig
from radio_core.models.outputs import BackboneOutput, RadioOutput
from radio_core.models.radio import RadioModel
from radio_core.models.timm_student import TimmConfig, TimmStudent
from radio_core.models.vit import VisionTransformer, ViTConfig, vit_config

__all__ = [
    "AdaptorConfig",
    "BackboneConfig",
    "BackboneOutput",
    "ERadio",
    "ERadioConfig",
    "HeadConfig",
    "RadioConfig",
    "RadioModel",
    "RadioOutput",
    "TimmConfig",
    "TimmStudent",
    "ViTConfig",
    "VisionTransformer",
    "eradio_config",
    "vit_config",
]
