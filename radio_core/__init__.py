"""RADIO's core: the models, the zoo, the teachers, the data and the distillation.

``import radio_core`` costs nothing: torch is imported when one of the names below is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from radio_core.export.runtime import load_exported
    from radio_core.models.radio import RadioModel
    from radio_core.vision import Output
    from radio_core.zoo.load import load_model
    from radio_core.zoo.registry import ModelCard, list_models

__version__ = "0.1.0"
__all__ = [
    "ModelCard",
    "Output",
    "RadioModel",
    "__version__",
    "list_models",
    "load_exported",
    "load_model",
]

_HOME = {
    "ModelCard": "radio_core.zoo.registry",
    "RadioModel": "radio_core.models.radio",
    "Output": "radio_core.vision",
    "list_models": "radio_core.zoo.registry",
    "load_exported": "radio_core.export.runtime",
    "load_model": "radio_core.zoo.load",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'radio_core' has no attribute {name!r}")
    value: object = getattr(import_module(_HOME[name]), name)
    globals()[name] = value  # the next access does not come here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
