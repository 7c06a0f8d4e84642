"""Licences of teachers' weights, and what each means for the weights of a student.

A student is made with its teachers, so whoever publishes it has to know under what terms. This is
a table of facts to start from and no legal advice: the licence's own text has the last word.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import yaml

from radio_core.zoo.releases import NON_COMMERCIAL, OPEN_MODEL

Terms = Literal["permissive", "non-commercial", "custom", "unknown"]

UNKNOWN = "unknown: look it up before you publish"
"""Name of the licence of a teacher of which nothing is known."""


@dataclass(frozen=True, kw_only=True)
class Licence:
    """A licence of weights.

    Attributes:
        name: as `ModelSpec.licence` has it.
        terms: "permissive", "non-commercial", "custom" (its own text decides) or "unknown".
        meaning: what it means for a student's weights, in one sentence.
    """

    name: str
    terms: Terms
    meaning: str


_PERMISSIVE = "Puts no restriction on the student's weights, commercial use included."
_META = (
    "Meta's own terms: commercial use is allowed within them, and whoever passes on the model or "
    "derivative works of it does so under the same agreement, with a copy of it."
)
_ALL = (
    Licence(name="MIT", terms="permissive", meaning=_PERMISSIVE),
    Licence(name="Apache-2.0", terms="permissive", meaning=_PERMISSIVE),
    Licence(name="BSD-3-Clause", terms="permissive", meaning=_PERMISSIVE),
    Licence(
        name="CC-BY-NC-4.0",
        terms="non-commercial",
        meaning="Allows no commercial use; give credit, and treat the student's weights alike.",
    ),
    Licence(
        name="apple-amlr",
        terms="non-commercial",
        meaning="Apple's research licence: the model and what is derived from it serve research "
        "only, so treat the student's weights alike.",
    ),
    Licence(
        name="FAIR Noncommercial Research License",
        terms="non-commercial",
        meaning="Allows non-commercial research only; treat the student's weights alike.",
    ),
    Licence(name="DINOv3 License", terms="custom", meaning=_META),
    Licence(name="SAM License", terms="custom", meaning=_META),
    Licence(
        name=NON_COMMERCIAL,
        terms="non-commercial",
        meaning="Allows research and evaluation only; treat the student's weights alike.",
    ),
    Licence(
        name=OPEN_MODEL,
        terms="custom",
        meaning="NVIDIA's own terms: commercial use and derivative models are allowed within them.",
    ),
    Licence(
        name=UNKNOWN,
        terms="unknown",
        meaning="Nothing is known of the terms: the student's weights may not be yours to publish.",
    ),
)

LICENCES: dict[str, Licence] = {licence.name: licence for licence in _ALL}
"""Every licence that is known, by name."""

_SPELLINGS = {
    **{name.lower(): name for name in LICENCES},
    "dinov3-license": "DINOv3 License",
    "sam-license": "SAM License",
    "fair-noncommercial-research-license": "FAIR Noncommercial Research License",
    "nsclv1": NON_COMMERCIAL,
    "nvidia-open-model-license": OPEN_MODEL,
}
"""Lower-case name, as model cards spell it -> our name."""

_TIMM = r"(timm|dinov2|dinov3):(hf-hub:)?(timm/)?"
_PATTERNS = (
    (r"toy-(clip|dino|sam)", "Apache-2.0"),
    (r"open_clip:[^/]+/openai", "MIT"),
    (r"hf:openai/clip-.+", "MIT"),
    (rf"{_TIMM}[^/]+[._]openai\b.*", "MIT"),
    (r"open_clip:(?!EVA)(?![^/]*CLIPA)[^/]+/(laion|datacomp_|commonpool_).+", "MIT"),
    (r"(open_clip:hf-hub|hf):laion/CLIP-.+", "MIT"),
    (rf"{_TIMM}vit_[^/]+_clip_[^/]+\.laion[^/_]+", "MIT"),
    (r"open_clip:[^/]+/dfn\d+b.*", "apple-amlr"),
    (r"(open_clip:hf-hub|hf):apple/DFN.+", "apple-amlr"),
    (rf"{_TIMM}[^/]+\.dfn\d+b.*", "apple-amlr"),
    (r"open_clip:[^/]+/metaclip.+", "CC-BY-NC-4.0"),
    (r"(open_clip:hf-hub|hf):facebook/metaclip.+", "CC-BY-NC-4.0"),
    (rf"{_TIMM}[^/]+\.metaclip.+", "CC-BY-NC-4.0"),
    (r"open_clip:[^/]*SigLIP[^/]*/webli", "Apache-2.0"),
    (r"open_clip:hf-hub:timm/[^/]*SigLIP.+", "Apache-2.0"),
    (r"hf:google/siglip.+", "Apache-2.0"),
    (rf"{_TIMM}[^/]+siglip[^/]+\.(v2_)?webli", "Apache-2.0"),
    (r"(dinov2|hf):facebook/dinov2.+", "Apache-2.0"),
    (rf"{_TIMM}vit_[^/]+dinov2[^/]*", "Apache-2.0"),
    (r"(dinov3|hf):facebook/dinov3.+", "DINOv3 License"),
    (rf"{_TIMM}[^/]+dinov3\.(lvd1689m|sat493m)", "DINOv3 License"),
    (rf"{_TIMM}[^/]+\.dinov3_(lvd1689m|sat493m)", "DINOv3 License"),
    (r"sam:vit_[bhl](:.+)?", "Apache-2.0"),
    (rf"{_TIMM}samvit_[^/]+", "Apache-2.0"),
    (r"sam2:facebook/sam2.+", "Apache-2.0"),
    (r"sam3:facebook/sam3.*", "SAM License"),
)
"""(pattern of a teacher's source, name of its licence); the first that fits counts."""


def licence_of(source: str, stated: str | None = None) -> Licence:
    """The licence of a teacher's weights.

    Args:
        source: as `load_teacher` takes it; a path in it says nothing.
        stated: what the metadata beside the weights says; it counts where the source is not in
            the table.
    """
    for pattern, name in _PATTERNS:
        if re.fullmatch(pattern, source, re.IGNORECASE):
            return LICENCES[name]
    return licence_named(stated or UNKNOWN)


def licence_named(name: str) -> Licence:
    """The licence of that name in any usual spelling; one that is not in the table is "custom"."""
    known = _SPELLINGS.get(name.strip().lower())
    if known is not None:
        return LICENCES[known]
    meaning = "Not in the toolkit's table: read its text before you publish the student's weights."
    return Licence(name=name.strip(), terms="custom", meaning=meaning)


def stated_licence(folder: Path) -> str | None:
    """The licence in the model card (README.md) of a folder, as the hub writes it; else None."""
    try:
        text = (folder / "README.md").read_text(encoding="utf-8", errors="replace")
        _, front, _ = re.split(r"^---\s*$", text, maxsplit=2, flags=re.MULTILINE)
        card = yaml.safe_load(front)
    except (OSError, ValueError, yaml.YAMLError):
        return None
    if not isinstance(card, Mapping):
        return None
    names = (card.get("license_name"), card.get("license"))
    return next((n for n in names if isinstance(n, str) and n.strip() and n != "other"), None)
