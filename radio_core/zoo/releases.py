"""The released RADIO models: where their files are, and what is known of them before loading."""

from dataclasses import dataclass, replace

from radio_core.vision import Resolution

NON_COMMERCIAL = "NVIDIA Source Code License (non-commercial)"
OPEN_MODEL = "NVIDIA Open Model License"

DEFAULT_RELEASE = "c-radio_v4-h"
"""What the official loader loads when no version is asked for."""


@dataclass(frozen=True, kw_only=True)
class Release:
    """One released checkpoint.

    The checkpoint itself has the last word: what it says replaces what is written here.

    Attributes:
        name: as `load_model` takes it.
        hub_repo: repository on the Hugging Face hub.
        hub_file: name of the checkpoint in it.
        architecture: the student, for people.
        patch_size: pixels of one feature cell.
        embed_dim: width of the features.
        max_resolution: longest image side in pixels that it is meant for.
        preferred_resolution: (height, width) in pixels.
        supports_windows: whether a window size is accepted.
        num_windowed: windowed layers between two global ones; None where `num_global` counts.
        num_global: number of global layers; None for the default, 4.
        own_windows: its attention is windowed by design; a window size is accepted and ignored.
        adaptors: adaptors that its README names; empty if it names none.
        teachers: teachers that it was distilled from; empty if not published.
        pos_align_corners_training: whether its position grid was resized with align_corners when
            it was released; None for a student without a position grid.
        licence: licence of the weights.
        inferred: fields above that follow from the name or from its adaptors, not from a statement.
    """

    name: str
    hub_repo: str = "nvidia/RADIO"
    hub_file: str
    architecture: str
    patch_size: int = 16
    embed_dim: int
    max_resolution: int = 2048
    preferred_resolution: Resolution
    supports_windows: bool = True
    num_windowed: int | None = None
    num_global: int | None = None
    own_windows: bool = False
    adaptors: tuple[str, ...] = ()
    teachers: tuple[str, ...] = ()
    pos_align_corners_training: bool | None = True
    licence: str
    inferred: tuple[str, ...] = ()


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

_V1 = Release(
    name="radio_v1",
    hub_file="radio_v1.pth.tar",
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
    hub_file="radio_v2.pth.tar",
    architecture="ViT-H/16",
    patch_size=16,
    max_resolution=2048,
    preferred_resolution=Resolution(432, 432),
    num_windowed=5,
    adaptors=("clip", "dino_v2", "sam"),
    teachers=(*_V1.teachers, "SAM", "RTX-Translate"),
)
_V25_H = Release(
    name="radio_v2.5-h",
    hub_file="radio_v2.5-h.pth.tar",
    architecture="ViT-H/16",
    embed_dim=1280,
    preferred_resolution=Resolution(768, 768),
    num_global=4,
    adaptors=("clip", "siglip", "dino_v2", "sam"),
    teachers=("DFN CLIP", "SigLIP", "DINOv2", "SAM"),
    licence=NON_COMMERCIAL,
    inferred=("embed_dim", "teachers"),
)
_C_V2_H = Release(
    name="c-radio_v2-vlm-h",
    hub_repo="nvidia/C-RADIOv2-VLM-H",
    hub_file="c-radio_v2-vlm-h.pth.tar",
    architecture="ViT-H/16",
    embed_dim=1280,
    preferred_resolution=Resolution(768, 768),
    num_global=8,
    licence=OPEN_MODEL,
    inferred=("embed_dim",),
)
_C_V3_H = Release(
    name="c-radio_v3-h",
    hub_repo="nvidia/C-RADIOv3-H",
    hub_file="c-radio_v3-h_half.pth.tar",
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
    hub_file="c-radio_v4-h_half.pth.tar",
    supports_windows=True,
    adaptors=("siglip2-g", "dino_v3", "sam3"),
    teachers=("SigLIP 2", "DINOv3", "SAM 3"),
    pos_align_corners_training=False,
)

_ALL = (
    replace(
        _V25_H,
        name="radio_v2.5-b",
        hub_file="radio-v2.5-b_half.pth.tar",
        architecture="ViT-B/16",
        embed_dim=768,
    ),
    replace(
        _V25_H,
        name="radio_v2.5-l",
        hub_file="radio-v2.5-l_half.pth.tar",
        architecture="ViT-L/16",
        embed_dim=1024,
    ),
    _V25_H,
    replace(
        _V25_H,
        name="radio_v2.5-h-norm",
        hub_file="radio_v2.5-h-norm.pth.tar",
        architecture="ViT-H/16 with feature normalizers",
        inferred=("architecture", *_V25_H.inferred),
    ),
    replace(
        _V25_H,
        name="radio_v2.5-g",
        hub_file="radio_v2.5-g.pth.tar",
        architecture="ViT-g/14 in DINOv2's style",
        patch_size=14,
        embed_dim=1536,
        max_resolution=1792,
        preferred_resolution=Resolution(896, 896),
        num_global=8,
        inferred=("teachers",),
    ),
    replace(
        _V2,
        name="radio_v2.1",
        hub_file="radio_v2.1_bf16.pth.tar",
        architecture="ViT-H/16, trained in bfloat16",
        teachers=("DFN CLIP", "DINOv2", "SAM"),
        inferred=("teachers",),
    ),
    _V2,
    _V1,
    Release(
        name="e-radio_v2",
        hub_file="eradio_v2.pth.tar",
        architecture="E-RADIO-L, convolutions and windowed attention",
        embed_dim=1536,
        preferred_resolution=Resolution(512, 512),
        own_windows=True,
        pos_align_corners_training=None,
        licence=NON_COMMERCIAL,
        inferred=("architecture", "embed_dim"),
    ),
    replace(
        _C_V2_H,
        name="c-radio_v2-g",
        hub_repo="nvidia/C-RADIOv2-g",
        hub_file="c-radio_v2-g_half.pth.tar",
        architecture="ViT-g/16",
        embed_dim=1536,
        inferred=("architecture", "embed_dim"),
    ),
    _C_V2_H,
    replace(
        _C_V3_H,
        name="c-radio_v3-b",
        hub_repo="nvidia/C-RADIOv3-B",
        hub_file="c-radio_v3-b_half.pth.tar",
        architecture="ViT-B/16 with LayerScale",
        embed_dim=768,
    ),
    replace(
        _C_V3_H,
        name="c-radio_v3-l",
        hub_repo="nvidia/C-RADIOv3-L",
        hub_file="c-radio-v3_l_half.pth.tar",  # spelled so, unlike its siblings
        architecture="ViT-L/16 with LayerScale",
        embed_dim=1024,
    ),
    _C_V3_H,
    replace(
        _C_V3_H,
        name="c-radio_v3-g",
        hub_repo="nvidia/C-RADIOv3-g",
        hub_file="c-radio_v3-g_half.pth.tar",
        architecture="ViT-g/16",
        embed_dim=1536,
    ),
    replace(
        _C_V4_H,
        name="c-radio_v4-so400m",
        hub_repo="nvidia/C-RADIOv4-SO400M",
        hub_file="c-radio_v4-so400m_half.pth.tar",
        architecture="ViT-SO400M/16",
        embed_dim=1152,
    ),
    _C_V4_H,
)

RELEASES: dict[str, Release] = {release.name: release for release in _ALL}
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


def find_release(name: str) -> Release | None:
    """The release of a full or a short name, or None.

    Upper and lower case are the same, and so are "-" and "_": "C-RADIO_H" is "c_radio_h".
    """
    wanted = _spelled_alike(name)
    full = SHORT_NAMES.get(wanted, wanted)
    return next((r for r in _ALL if _spelled_alike(r.name) == _spelled_alike(full)), None)


def _spelled_alike(name: str) -> str:
    return name.lower().replace("-", "_")
