"""RADIO's core: the models, the zoo, the teachers, the data and the distillation.

``import radio_core`` costs nothing: torch is imported when one of the names below is first used.
"""

from typing import TYPE_CHECKING

from radio_core.lazy import lazy_names

if TYPE_CHECKING:
    from radio_core.distill.config import TrainConfig
    from radio_core.distill.trainer import train
    from radio_core.export.runtime import load_exported
    from radio_core.models.radio import RadioModel
    from radio_core.open import open_model
    from radio_core.teachers.base import Teacher
    from radio_core.teachers.load import load_teacher
    from radio_core.vision import ModelSpec, Output, VisionModel
    from radio_core.zoo.load import load_model
    from radio_core.zoo.releases import ModelCard, list_models

__version__ = "0.1.0"
__all__ = [
    "ModelCard",
    "ModelSpec",
    "Output",
    "RadioModel",
    "Teacher",
    "TrainConfig",
    "VisionModel",
    "__version__",
    "list_models",
    "load_exported",
    "load_model",
    "load_teacher",
    "open_model",
    "train",
]
__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "radio_core.distill.config": ("TrainConfig",),
        "radio_core.distill.trainer": ("train",),
        "radio_core.export.runtime": ("load_exported",),
        "radio_core.models.radio": ("RadioModel",),
        "radio_core.open": ("open_model",),
        "radio_core.teachers.base": ("Teacher",),
        "radio_core.teachers.load": ("load_teacher",),
        "radio_core.vision": ("ModelSpec", "Output", "VisionModel"),
        "radio_core.zoo.load": ("load_model",),
        "radio_core.zoo.releases": ("ModelCard", "list_models"),
    },
)
