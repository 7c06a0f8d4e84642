"""RADIO's core: the models, the zoo, the teachers, the data and the distillation.

``import radio_core`` costs nothing: torch is imported when one of the names below is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

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

_HOME = {
    "ModelCard": "radio_core.zoo.releases",
    "ModelSpec": "radio_core.vision",
    "Output": "radio_core.vision",
    "RadioModel": "radio_core.models.radio",
    "Teacher": "radio_core.teachers.base",
    "TrainConfig": "radio_core.distill.config",
    "VisionModel": "radio_core.vision",
    "list_models": "radio_core.zoo.releases",
    "load_exported": "radio_core.export.runtime",
    "load_model": "radio_core.zoo.load",
    "load_teacher": "radio_core.teachers.load",
    "open_model": "radio_core.open",
    "train": "radio_core.distill.trainer",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'radio_core' has no attribute {name!r}")
    value: object = getattr(import_module(_HOME[name]), name)
    globals()[name] = value  # the next access does not come here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
