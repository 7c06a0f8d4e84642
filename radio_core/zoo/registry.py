"""The models that are known by name, and what is known of each."""

import difflib
import math
from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open

from radio_core.models.backbone import Resolution
from radio_core.models.checkpoint import WEIGHTS_FILE, read_config
from radio_core.models.config import RadioConfig

_WEIGHTS = Path(__file__).parent / "weights"

BUNDLED: dict[str, Path] = {"toy": _WEIGHTS / "toy"}
"""Models whose weights come with the package: name -> directory."""


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """What a user must know of a model before loading it.

    Attributes:
        name: as `load_model` takes it.
        patch_size: pixels of one feature cell.
        embed_dim: width of the backbone's features.
        parameters: number of weights, adaptors included.
        max_resolution: longest image side in pixels; None if unknown.
        preferred_resolution: (height, width) in pixels; None if unknown.
        adaptors: names of its adaptors.
        text_adaptors: those of them that also encode text.
        teachers: names of the teachers it was distilled from.
        supports_windows: whether windowed attention may be asked for.
        licence: licence of the weights.
        hub_file: "repository/file" on the Hugging Face hub; None when it comes with the package.
    """

    name: str
    patch_size: int
    embed_dim: int
    parameters: int
    max_resolution: int | None
    preferred_resolution: Resolution | None
    adaptors: tuple[str, ...]
    text_adaptors: tuple[str, ...]
    teachers: tuple[str, ...]
    supports_windows: bool
    licence: str
    hub_file: str | None = None


def list_models() -> list[ModelCard]:
    """The card of every model that `load_model` knows by name."""
    return [model_card(name) for name in BUNDLED]


def model_card(name: str) -> ModelCard:
    """The card of one model.

    Raises:
        ValueError: unknown name; the known ones and the nearest are listed.
    """
    if name not in BUNDLED:
        raise unknown_model(name)
    return _card(name, read_config(BUNDLED[name]), BUNDLED[name] / WEIGHTS_FILE)


def unknown_model(name: str) -> ValueError:
    """The error for a name that is not known; it lists the known ones and the nearest."""
    near = difflib.get_close_matches(name.lower(), BUNDLED, n=1, cutoff=0.4)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return ValueError(
        f"unknown model {name!r}{hint}; known: {', '.join(BUNDLED)}; or give a directory "
        "written by RadioModel.save_pretrained"
    )


def _card(name: str, config: RadioConfig, weights: Path) -> ModelCard:
    size = config.preferred_resolution
    return ModelCard(
        name=name,
        patch_size=config.backbone.patch_size,
        embed_dim=config.backbone.embed_dim,
        parameters=_count_weights(weights),
        max_resolution=config.max_resolution,
        preferred_resolution=None if size is None else Resolution(*size),
        adaptors=tuple(adaptor.name for adaptor in config.adaptors),
        text_adaptors=tuple(adaptor.name for adaptor in config.adaptors if adaptor.text_tower),
        teachers=config.teachers,
        supports_windows=config.supports_windows,
        licence=config.licence,
    )


def _count_weights(path: Path) -> int:
    """Number of values in a safetensors file, from its header alone."""
    with safe_open(path, framework="pt") as file:
        names = list(file.keys())
        return sum(math.prod(file.get_slice(name).get_shape()) for name in names)
