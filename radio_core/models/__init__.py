"""The students: vision transformer, adaptor heads, and the model that joins them."""

from radio_core.models.adaptors import AdaptorConfig, HeadConfig
from radio_core.models.backbone import Backbone, BackboneConfig
from radio_core.models.config import RadioConfig
from radio_core.models.eradio import ERadio, ERadioConfig, eradio_config
from radio_core.models.radio import RadioModel
from radio_core.models.timm_student import TimmConfig, TimmStudent
from radio_core.models.vit import VisionTransformer, ViTConfig, vit_config
from radio_core.vision import Output

__all__ = [
    "AdaptorConfig",
    "Backbone",
    "BackboneConfig",
    "ERadio",
    "ERadioConfig",
    "HeadConfig",
    "Output",
    "RadioConfig",
    "RadioModel",
    "TimmConfig",
    "TimmStudent",
    "ViTConfig",
    "VisionTransformer",
    "eradio_config",
    "vit_config",
]
