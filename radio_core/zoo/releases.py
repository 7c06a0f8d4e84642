"""The models that are known by name: where their files are, and what is known before loading."""

import difflib
import math
from dataclasses import dataclass, replace
from pathlib import Path

from safetensors import safe_open

from radio_core.models.config import WEIGHTS_FILE, RadioConfig, read_config
from radio_core.models.vit import schedule_text
from radio_core.registry import UnknownName
from radio_core.vision import Resolution

BUNDLED: dict[str, Path] = {"toy": Path(__file__).parent / "weights" / "toy"}
"""Models whose weights come with the package: name -> directory."""

NON_COMMERCIAL = "NVIDIA Source Code License (non-commercial)"
OPEN_MODEL = "NVIDIA Open Model License"

DEFAULT_RELEASE = "c-radio_v4-h"
"""What the official loader loads when no version is asked for."""


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """What a user must know of a model before loading it; of a release also where its file is.

    The checkpoint itself has the last word: what it says replaces what is written here.

    Attributes:
        name: as `load_model` takes it.
        hub_repo: repository on the Hugging Face hub; empty where it comes with the package.
        file: name of the checkpoint in it.
        architecture: the backbone, for people.
        patch_size: pixels of one feature cell.
        embed_dim: width of the backbone's features.
        parameters: number of weights, adaptors included; None if unknown before the download.
        max_resolution: longest image side in pixels that it is meant for; None if unknown.
        preferred_resolution: (height, width) in pixels; None if unknown.
        supports_windows: a window size is accepted.
        num_windowed: windowed layers between two global ones; None where `num_global` counts.
        num_global: number of global layers; None for the default, 4.
        own_windows: its attention is windowed by design; a window size is accepted and ignored.
        adaptors: names of its adaptors; of a release, those that its authors name.
        teachers: names of the teachers that it was distilled from; empty if not published.
        pos_align_corners: its position grid was resized with align_corners when it was trained;
            None without such a grid. `load_model` resizes without it unless asked.
        licence: licence of the weights.
        inferred: fields above that are concluded, not stated; the checkpoint decides.
    """

    name: str
    hub_repo: str = "nvidia/RADIO"
    file: str = ""
    architecture: str
    patch_size: int = 16
    embed_dim: int
    parameters: int | None = None
    max_resolution: int | None = 2048
    preferred_resolution: Resolution | None
    supports_windows: bool = True
    num_windowed: int | None = None
    num_global: int | None = None
    own_windows: bool = False
    adaptors: tuple[str, ...] = ()
    teachers: tuple[str, ...] = ()
    pos_align_corners: bool | None = True
    licence: str
    inferred: tuple[str, ...] = ()

    @property
    def short_names(self) -> tuple[str, ...]:
        """Other names for it."""
        return tuple(short for short, full in SHORT_NAMES.items() if full == self.name)

    @property
    def hub_file(self) -> str | None:
        """ "repository/file" on the Hugging Face hub; None where it comes with the package."""
        return f"{self.hub_repo}/{self.file}" if self.hub_repo else None

    @property
    def text_adaptors(self) -> tuple[str, ...]:
        """Its adaptors that also encode text."""
        return tuple(name for name in self.adaptors if name in TEXT_ADAPTORS)

    @property
    def teacher_licences(self) -> tuple[str, ...]:
        """Licence of each teacher's own weights, in the order of the teachers."""
        return tuple(TEACHER_LICENCES.get(teacher, "unknown") for teacher in self.teachers)

    @property
    def windows(self) -> str:
        """Which layers stay global in windowed mode, for people; empty without the mode."""
        if self.own_windows:
            return "its own"
        if not self.supports_windows:
            return ""
        return schedule_text(self.num_windowed, self.num_global)

    def applied_to(self, config: RadioConfig) -> RadioConfig:
        """What the card adds to the configuration that a checkpoint of this release has."""
        return replace(
            config,
            name=self.name,
            backbone=config.backbone.with_fields(
                num_windowed=self.num_windowed, num_global=self.num_global
            ),
            max_resolution=self.max_resolution,
            preferred_resolution=self.preferred_resolution,
            supports_windows=self.supports_windows and not self.own_windows,
            licence=self.licence,
        )


TEACHER_LICENCES = {
    "OpenAI CLIP": "MIT",
    "DFN CLIP": "Apple's own (research or sample code)",
    "SigLIP": "Apache-2.0",
    "SigLIP 2": "Apache-2.0",
    "DINOv2": "Apache-2.0",
    "DINOv3": "DINOv3 License",
    "SAM": "Apache-2.0",
    "SAM 3": "SAM License",
    "toy-clip": "Apache-2.0",
    "toy-dino": "Apache-2.0",
    "toy-sam": "Apache-2.0",
}
"""Licence of each teacher's own weights; a teacher that is not here has an unknown one."""

TEXT_ADAPTORS = ("clip", "siglip", "siglip2-g")
"""Adaptors of the releases whose teacher also has a text tower."""

_V1 = ModelCard(
    name="radio_v1",
    file="radio_v1.pth.tar",
    architecture="ViT-H/14",
    patch_size=14,
    embed_dim=1280,
    max_resolution=1050,
    preferred_resolution=Resolution(378, 378),
    teachers=("DFN CLIP", "OpenAI CLIP", "DINOv2"),
    licence=NON_COMMERCIAL,
)
_V2 = replace(
    _V1,
    name="radio_v2",
    file="radio_v2.pth.tar",
    architecture="ViT-H/16",
    patch_size=16,
    max_resolution=2048,
    preferred_resolution=Resolution(432, 432),
    num_windowed=5,
    adaptors=("clip", "dino_v2", "sam"),
    teachers=(*_V1.teachers, "SAM", "RTX-Translate"),
)
_V25_H = ModelCard(
    name="radio_v2.5-h",
    file="radio_v2.5-h.pth.tar",
    architecture="ViT-H/16",
    embed_dim=1280,
    preferred_resolution=Resolution(768, 768),
    num_global=4,
    adaptors=("clip", "siglip", "dino_v2", "sam"),
    teachers=("DFN CLIP", "SigLIP", "DINOv2", "SAM"),
    licence=NON_COMMERCIAL,
    inferred=("embed_dim", "teachers"),
)
_C_V2_H = ModelCard(
    name="c-radio_v2-vlm-h",
    hub_repo="nvidia/C-RADIOv2-VLM-H",
    file="c-radio_v2-vlm-h.pth.tar",
    architecture="ViT-H/16",
    embed_dim=1280,
    preferred_resolution=Resolution(768, 768),
    num_global=8,
    licence=OPEN_MODEL,
    inferred=("embed_dim",),
)
_C_V3_H = ModelCard(
    name="c-radio_v3-h",
    hub_repo="nvidia/C-RADIOv3-H",
    file="c-radio_v3-h_half.pth.tar",
    architecture="ViT-H/16",
    embed_dim=1280,
    preferred_resolution=Resolution(512, 512),
    supports_windows=False,
    adaptors=("clip", "siglip2-g", "dino_v2", "sam"),
    teachers=("DFN CLIP", "SigLIP 2", "DINOv2", "SAM"),
    licence=OPEN_MODEL,
    inferred=("teachers",),
)
_C_V4_H = replace(
    _C_V3_H,
    name="c-radio_v4-h",
    hub_repo="nvidia/C-RADIOv4-H",
    file="c-radio_v4-h_half.pth.tar",
    supports_windows=True,
    adaptors=("siglip2-g", "dino_v3", "sam3"),
    teachers=("SigLIP 2", "DINOv3", "SAM 3"),
    pos_align_corners=False,
)
_E_V2 = ModelCard(
    name="e-radio_v2",
    file="eradio_v2.pth.tar",
    architecture="E-RADIO-L, convolutions and windowed attention",
    embed_dim=1536,
    preferred_resolution=Resolution(512, 512),
    own_windows=True,
    pos_align_corners=None,
    licence=NON_COMMERCIAL,
    inferred=("architecture", "embed_dim"),
)


def _like(sibling: ModelCard, name: str, architecture: str, embed_dim: int, file: str) -> ModelCard:
    """The same release in another size; its C-RADIO repository is named after it."""
    repo = sibling.hub_repo
    if repo != ModelCard.hub_repo:
        version, _, size = name.removeprefix("c-radio_").partition("-")
        repo = f"nvidia/C-RADIO{version}-{size if size == 'g' else size.upper()}"
    return replace(
        sibling,
        name=name,
        hub_repo=repo,
        file=file,
        architecture=architecture,
        embed_dim=embed_dim,
    )


_ALL = (
    _like(_V25_H, "radio_v2.5-b", "ViT-B/16", 768, "radio-v2.5-b_half.pth.tar"),
    _like(_V25_H, "radio_v2.5-l", "ViT-L/16", 1024, "radio-v2.5-l_half.pth.tar"),
    _V25_H,
    replace(
        _V25_H,
        name="radio_v2.5-h-norm",
        file="radio_v2.5-h-norm.pth.tar",
        architecture="ViT-H/16 with feature normalizers",
        inferred=("architecture", *_V25_H.inferred),
    ),
    replace(
        _like(_V25_H, "radio_v2.5-g", "ViT-g/14 in DINOv2's style", 1536, "radio_v2.5-g.pth.tar"),
        patch_size=14,
        max_resolution=1792,
        preferred_resolution=Resolution(896, 896),
        num_global=8,
        inferred=("teachers",),
    ),
    replace(
        _V2,
        name="radio_v2.1",
        file="radio_v2.1_bf16.pth.tar",
        architecture="ViT-H/16, trained in bfloat16",
        teachers=("DFN CLIP", "DINOv2", "SAM"),
        inferred=("teachers",),
    ),
    _V2,
    _V1,
    _E_V2,
    replace(
        _like(_C_V2_H, "c-radio_v2-g", "ViT-g/16", 1536, "c-radio_v2-g_half.pth.tar"),
        inferred=("architecture", "embed_dim"),
    ),
    _C_V2_H,
    _like(_C_V3_H, "c-radio_v3-b", "ViT-B/16 with LayerScale", 768, "c-radio_v3-b_half.pth.tar"),
    # Its file is spelled unlike those of its siblings.
    _like(_C_V3_H, "c-radio_v3-l", "ViT-L/16 with LayerScale", 1024, "c-radio-v3_l_half.pth.tar"),
    _C_V3_H,
    _like(_C_V3_H, "c-radio_v3-g", "ViT-g/16", 1536, "c-radio_v3-g_half.pth.tar"),
    _like(_C_V4_H, "c-radio_v4-so400m", "ViT-SO400M/16", 1152, "c-radio_v4-so400m_half.pth.tar"),
    _C_V4_H,
)

RELEASES: dict[str, ModelCard] = {release.name: release for release in _ALL}
"""Every release by name."""

SHORT_NAMES = {
    "radio_b": "radio_v2.5-b",
    "radio_l": "radio_v2.5-l",
    "radio_h": "radio_v2.5-h",
    "radio_g": "radio_v2.5-g",
    "e_radio": "e-radio_v2",
    "c_radio_b": "c-radio_v3-b",
    "c_radio_l": "c-radio_v3-l",
    "c_radio_h": "c-radio_v4-h",
    "c_radio_g": "c-radio_v3-g",
    "c_radio_so400m": "c-radio_v4-so400m",
}
"""Short name -> the newest release of that size."""


def find_release(name: str) -> ModelCard | None:
    """The release of a full or a short name, or None.

    Upper and lower case are the same, and so are "-" and "_": "C-RADIO_H" is "c_radio_h".
    """
    wanted = _spelled_alike(name)
    full = SHORT_NAMES.get(wanted, wanted)
    return next((r for r in _ALL if _spelled_alike(r.name) == _spelled_alike(full)), None)


def _spelled_alike(name: str) -> str:
    return name.lower().replace("-", "_")


def list_models() -> list[ModelCard]:
    """The card of every model that `load_model` knows by name: the bundled ones, the releases."""
    return [model_card(name) for name in (*BUNDLED, *RELEASES)]


def model_card(name: str) -> ModelCard:
    """The card of one model, by its name or a short name; nothing is downloaded.

    Raises:
        UnknownName: a ValueError; the known names and the nearest are listed.
    """
    if name not in BUNDLED:
        release = find_release(name)
        if release is None:
            raise unknown_model(name)
        return release
    config = read_config(BUNDLED[name])
    backbone, size = config.backbone, config.preferred_resolution
    with safe_open(BUNDLED[name] / WEIGHTS_FILE, framework="pt") as file:  # its header alone
        shapes = [file.get_slice(tensor).get_shape() for tensor in file.keys()]  # noqa: SIM118
    return ModelCard(
        name=name,
        hub_repo="",
        architecture=f"{backbone.label}/{backbone.patch_size}",
        patch_size=backbone.patch_size,
        embed_dim=backbone.embed_dim,
        parameters=sum(map(math.prod, shapes)),
        max_resolution=config.max_resolution,
        preferred_resolution=None if size is None else Resolution(*size),
        supports_windows=config.supports_windows,
        num_windowed=getattr(backbone, "num_windowed", None),
        num_global=getattr(backbone, "num_global", None),
        own_windows=backbone.own_windows,
        adaptors=tuple(adaptor.name for adaptor in config.adaptors),
        teachers=config.teachers,
        pos_align_corners=getattr(backbone, "pos_align_corners", None),
        licence=config.licence,
    )


def unknown_model(name: str) -> UnknownName:
    """The error for a name that is not known; it lists the known ones and the nearest."""
    known = (*BUNDLED, *RELEASES)
    near = difflib.get_close_matches(name.lower(), (*known, *SHORT_NAMES), n=1, cutoff=0.4)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return UnknownName(
        f"unknown model {name!r}{hint}; known: {', '.join(known)}; short names: "
        f"{', '.join(SHORT_NAMES)}; or give a checkpoint file, a directory with a model, or a "
        "hub id (owner/name)"
    )
