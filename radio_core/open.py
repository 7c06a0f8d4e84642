"""One grammar for what users call a model, and one function that opens it."""

import re
from pathlib import Path
from typing import Any

import torch

from radio_core.export.runtime import SUFFIXES, load_exported
from radio_core.models import RadioConfig, RadioModel, eradio_config, vit_config
from radio_core.models.backbone import BackboneConfig
from radio_core.models.eradio import E_RADIO_B
from radio_core.models.timm_student import TimmConfig
from radio_core.registry import UnknownName
from radio_core.teachers import TEACHER_FORMS, TOY_TEACHERS, is_teacher, load_teacher
from radio_core.teachers.radio import RadioVision
from radio_core.vision import VisionModel
from radio_core.zoo.load import load_model
from radio_core.zoo.releases import BUNDLED, find_release

RANDOM = "random:"
RADIO = "radio:"
RANDOM_MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in ("tiny", "small", "base", "large", "huge")},
    **{name: (name, {}) for name in ("eradio", "eradio_xxxtiny")},
    "eradio-b": ("eradio", dict(E_RADIO_B)),
    "eradio-b-coarse": ("eradio", {**E_RADIO_B, "neck_start_stage": 3}),
}
"""Shapes that need no checkpoint, "random:base": name -> preset and its options."""

SOURCES = (
    *BUNDLED,
    *TOY_TEACHERS,
    "random:PRESET",
    *TEACHER_FORMS,
    "a release or its hub id (see `radio models`), with #ADAPTOR behind it for one of its heads",
    "a file or folder with a RADIO model",
    "a file that `radio export` wrote (.onnx, .engine, .pt2)",
    "MODULE:ATTRIBUTE, a function of your own that returns a model",
)
"""What `open_model` takes, for people."""

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(@[\w./-]+)?")


def known_source(source: str) -> bool:
    """Judge by its form alone whether `open_model` takes a source; nothing is opened."""
    name = source.removeprefix(RADIO).partition("#")[0]
    if not name:
        return False
    return (
        is_teacher(source)
        or (source.startswith(RANDOM) and source != RANDOM)
        or name.endswith(SUFFIXES)
        or name in BUNDLED
        or find_release(name) is not None
        or Path(name).exists()
        or (_HUB_ID.fullmatch(name) is not None and not Path(name).parent.exists())
    )


def open_model(
    source: str,
    *,
    adaptor: str = "",
    window_size: int | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
) -> VisionModel:
    """Open a frozen model by what a user calls it.

    Args:
        source: whatever `load_model` takes ("toy", "radio_h", a file, folder or hub id), with
            "#ADAPTOR" behind it for a head; a teacher as `load_teacher` takes it ("toy-clip",
            "open_clip:...", "timm:NAME", "hf:ID"); "random:PRESET" for a shape with random
            weights (`RANDOM_MODELS`, "random:timm:NETWORK"); a file that `radio export` wrote
            (.onnx, .engine, .pt2); or "module:attribute" of your own code.
        adaptor: a head of a RADIO model, in place of its backbone, as "#ADAPTOR" is.
        window_size: side in patches of the attention windows of a RADIO model; None for global
            attention.
        device: where it goes, and expects its images.
        dtype: of a RADIO model's backbone; None for the one that its checkpoint names.

    Raises:
        UnknownName: a ValueError; nothing of that name, the message lists the known forms.
        ValueError: no such adaptor, windows for a model without them, or a damaged file.
        OSError: the files cannot be had; the message says where to put them.
        ImportError: a library is missing; the message names the extra.
    """
    whole, _, named = source.removeprefix(RADIO).partition("#")
    head = adaptor or named
    if not source.startswith(RADIO) and is_teacher(source):
        if adaptor or window_size is not None:
            raise ValueError(f"only RADIO models have adaptors and window sizes: not {source}")
        return load_teacher(source).to(device)
    if whole.endswith(SUFFIXES):
        if window_size is not None:
            raise ValueError(f"{whole} has its windows in it: leave window_size out")
        return RadioVision(Path(whole).name, load_exported(whole, device), head)
    if whole.startswith(RANDOM):
        model = random_model(whole.removeprefix(RANDOM)).to(device)
        model.window_size = window_size
        return RadioVision(whole, model, head)
    release = find_release(whole)
    if not known_source(whole):
        raise UnknownName(f"unknown model {source!r}; known: {', '.join(SOURCES)}")
    name = whole if release is None else release.name
    if Path(whole).exists():
        name = Path(whole).name
    radio = load_model(whole, window_size=window_size, device=device, dtype=dtype)
    return RadioVision(name, radio, head)


def random_backbone(preset: str) -> BackboneConfig:
    """The backbone that "random:PRESET" stands for.

    Raises:
        UnknownName: an unknown preset; the known ones are listed.
        ValueError: a network that timm does not know.
    """
    if preset.startswith("timm:"):
        # Its last map alone, as in the paper's Table 7.
        return TimmConfig(name=preset.removeprefix("timm:"), feature_stride=32)
    if preset not in RANDOM_MODELS:
        raise UnknownName.of("shape", preset, [*RANDOM_MODELS, "timm:NETWORK"])
    name, options = RANDOM_MODELS[preset]
    if name.startswith("eradio"):
        return eradio_config(name, **options)
    return vit_config(name)


def random_model(preset: str, seed: int = 0, num_windowed: int | None = None) -> RadioModel:
    """A model of a usual shape with freshly initialised weights, in eval mode.

    Args:
        preset: see `random_backbone`.
        seed: of the weights.
        num_windowed: windowed layers between two global ones; None for the shape's own schedule.
    """
    backbone = random_backbone(preset)
    if num_windowed is not None:
        backbone = backbone.with_fields(num_windowed=num_windowed)
    config = RadioConfig(backbone=backbone, supports_windows=backbone.supports_windows)
    return random_like(config, seed)


def random_like(config: RadioConfig, seed: int = 0) -> RadioModel:
    """A model of a given shape with freshly initialised weights: the "random weights" baseline."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return RadioModel(config).eval()
