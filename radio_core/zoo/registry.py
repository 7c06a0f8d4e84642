"""The models that are known by name, and what is known of each."""

import difflib
import math
from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open

from radio_core.models.checkpoint import WEIGHTS_FILE, read_config
from radio_core.models.config import RadioConfig
from radio_core.models.windows import DEFAULT_NUM_GLOBAL
from radio_core.vision import Resolution
from radio_core.zoo.releases import (
    RELEASES,
    SHORT_NAMES,
    TEACHER_LICENCES,
    TEXT_ADAPTORS,
    Release,
    find_release,
)

_WEIGHTS = Path(__file__).parent / "weights"

BUNDLED: dict[str, Path] = {"toy": _WEIGHTS / "toy"}
"""Models whose weights come with the package: name -> directory."""

OWN_WINDOWS = "its own"
"""What a card says of windows in E-RADIO."""


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """What a user must know of a model before loading it.

    Attributes:
        name: as `load_model` takes it.
        short_names: other names for it.
        architecture: the backbone, for people.
        patch_size: pixels of one feature cell.
        embed_dim: width of the backbone's features.
        parameters: number of weights, adaptors included; None if unknown before the download.
        max_resolution: longest image side in pixels; None if unknown.
        preferred_resolution: (height, width) in pixels; None if unknown.
        adaptors: names of its adaptors; of a release, those that its authors name.
        text_adaptors: those of them that also encode text.
        teachers: names of the teachers it was distilled from; empty if unknown.
        teacher_licences: licence of each teacher's own weights, in the same order.
        supports_windows: whether a window size is accepted.
        windows: which layers stay global in windowed mode, for people; empty without the mode.
        pos_align_corners: whether its position grid was resized with align_corners when it was
            trained; None without such a grid. `load_model` resizes without it unless asked.
        licence: licence of the weights.
        hub_file: "repository/file" on the Hugging Face hub; None when it comes with the package.
        inferred: fields above that are concluded, not stated; the checkpoint decides.
    """

    name: str
    short_names: tuple[str, ...] = ()
    architecture: str
    patch_size: int
    embed_dim: int
    parameters: int | None
    max_resolution: int | None
    preferred_resolution: Resolution | None
    adaptors: tuple[str, ...]
    text_adaptors: tuple[str, ...]
    teachers: tuple[str, ...]
    teacher_licences: tuple[str, ...]
    supports_windows: bool
    windows: str
    pos_align_corners: bool | None
    licence: str
    hub_file: str | None = None
    inferred: tuple[str, ...] = ()


def list_models() -> list[ModelCard]:
    """The card of every model that `load_model` knows by name: the bundled ones, the releases."""
    return [model_card(name) for name in (*BUNDLED, *RELEASES)]


def model_card(name: str) -> ModelCard:
    """The card of one model, by its name or a short name; nothing is downloaded.

    Raises:
        ValueError: unknown name; the known ones and the nearest are listed.
    """
    if name in BUNDLED:
        return _bundled_card(name, read_config(BUNDLED[name]), BUNDLED[name] / WEIGHTS_FILE)
    release = find_release(name)
    if release is None:
        raise unknown_model(name)
    return _release_card(release)


def unknown_model(name: str) -> ValueError:
    """The error for a name that is not known; it lists the known ones and the nearest."""
    known = (*BUNDLED, *RELEASES)
    near = difflib.get_close_matches(name.lower(), (*known, *SHORT_NAMES), n=1, cutoff=0.4)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return ValueError(
        f"unknown model {name!r}{hint}; known: {', '.join(known)}; short names: "
        f"{', '.join(SHORT_NAMES)}; or give a checkpoint file, a directory with a model, or a "
        "hub id (owner/name)"
    )


def _bundled_card(name: str, config: RadioConfig, weights: Path) -> ModelCard:
    size = config.preferred_resolution
    backbone = config.backbone
    return ModelCard(
        name=name,
        architecture=f"{backbone.label}/{backbone.patch_size}",
        patch_size=backbone.patch_size,
        embed_dim=backbone.embed_dim,
        parameters=_count_weights(weights),
        max_resolution=config.max_resolution,
        preferred_resolution=None if size is None else Resolution(*size),
        adaptors=tuple(adaptor.name for adaptor in config.adaptors),
        text_adaptors=tuple(adaptor.name for adaptor in config.adaptors if adaptor.text_tower),
        teachers=config.teachers,
        teacher_licences=_licences(config.teachers),
        supports_windows=config.supports_windows,
        windows=backbone.windows if config.supports_windows or backbone.own_windows else "",
        pos_align_corners=getattr(backbone, "pos_align_corners", None),
        licence=config.licence,
    )


def _release_card(release: Release) -> ModelCard:
    return ModelCard(
        name=release.name,
        short_names=tuple(short for short, full in SHORT_NAMES.items() if full == release.name),
        architecture=release.architecture,
        patch_size=release.patch_size,
        embed_dim=release.embed_dim,
        parameters=None,
        max_resolution=release.max_resolution,
        preferred_resolution=release.preferred_resolution,
        adaptors=release.adaptors,
        text_adaptors=tuple(name for name in release.adaptors if name in TEXT_ADAPTORS),
        teachers=release.teachers,
        teacher_licences=_licences(release.teachers),
        supports_windows=release.supports_windows,
        windows=(
            OWN_WINDOWS
            if release.own_windows
            else _windows(release.supports_windows, release.num_windowed, release.num_global)
        ),
        pos_align_corners=release.pos_align_corners_training,
        licence=release.licence,
        hub_file=f"{release.hub_repo}/{release.hub_file}",
        inferred=release.inferred,
    )


def _licences(teachers: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(TEACHER_LICENCES.get(teacher, "unknown") for teacher in teachers)


def _windows(supported: bool, num_windowed: int | None, num_global: int | None) -> str:
    if not supported:
        return ""
    if num_windowed is not None:
        return f"{num_windowed} per global"
    return f"{num_global or DEFAULT_NUM_GLOBAL} global"


def _count_weights(path: Path) -> int:
    """Number of values in a safetensors file, from its header alone."""
    with safe_open(path, framework="pt") as file:
        names = list(file.keys())
        return sum(math.prod(file.get_slice(name).get_shape()) for name in names)
