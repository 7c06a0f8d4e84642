"""The models of the table: their names checked before any work, and what is known of each."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from radio_core.cli import UsageError
from radio_core.models import RadioModel
from radio_core.teachers.load import is_teacher
from radio_core.zoo.releases import BUNDLED, find_release
from radio_eval.eval_model import EvalModel
from radio_eval.models import MODEL_FORMS, RANDOM

_PREFIXES = ("timm:", "hf:", RANDOM)
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_CAPABILITIES = ("summary", "features", "image_text", "sam")


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What the table knows of a model without having it in memory.

    Attributes:
        source: as `--models` names it.
        weights: digest of weights and structure; None for a network that is not known.
        parameters: of the vision backbone; None for a network that is not known.
        resolution: side in pixels of its images (the shorter one where they are not square).
        resizing: how images are brought to that size, as JSON types.
        capabilities: which of summary, features, image_text and sam it has.
    """

    source: str
    weights: str | None
    parameters: int | None
    resolution: int
    resizing: dict[str, Any]
    capabilities: frozenset[str]

    @classmethod
    def of(cls, source: str, model: EvalModel) -> "Subject":
        """What a loaded model is."""
        return cls(
            source=source,
            weights=model.fingerprint(),
            parameters=None if model.module is None else backbone_parameters(model.module),
            resolution=model.image_size,
            resizing=model.resizing(),
            capabilities=frozenset(n for n in _CAPABILITIES if getattr(model, n) is not None),
        )

    def identity(self) -> dict[str, Any]:
        """What tells it from other models, as JSON types."""
        return {"model": self.source, "weights": self.weights, "resizing": self.resizing}


def read_models(text: str) -> tuple[str, ...]:
    """The names in `--models`.

    Args:
        text: names with commas between them.

    Raises:
        UsageError: none, one twice, or one that no model can have; the known forms are listed.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise UsageError("--models names no model; for example --models toy,toy-clip")
    seen: dict[str, str] = {}
    for name in names:
        if not _is_known(name):
            raise UsageError(f"unknown model {name!r}; known: {', '.join(MODEL_FORMS)}")
        release = find_release(name)
        full = name if release is None else release.name
        if full in seen:
            raise UsageError(f"--models names {full} twice: as {seen[full]!r} and as {name!r}")
        seen[full] = name
    return tuple(names)


def _is_known(name: str) -> bool:
    """Whether a name has a form that `load_eval_model` takes; what is there shows when it loads."""
    if name in BUNDLED or is_teacher(name) or find_release(name) is not None:
        return True
    if any(name.startswith(prefix) and name != prefix for prefix in _PREFIXES):
        return True
    if Path(name).exists():
        return True
    return _HUB_ID.fullmatch(name) is not None and not Path(name).parent.exists()


def backbone_parameters(module: nn.Module) -> int:
    """Number of weights of the vision backbone: no adaptors, text towers, necks or decoders."""
    return sum(parameter.numel() for parameter in _backbone(module).parameters())


def _backbone(module: nn.Module) -> nn.Module:
    if isinstance(module, RadioModel):
        return module.backbone
    for path in ("model.visual", "sam.image_encoder"):  # of open_clip's and SAM's teachers
        try:
            return module.get_submodule(path)
        except AttributeError:
            continue
    return module
