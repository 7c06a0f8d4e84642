"""DINOv2 and DINOv3, from transformers or from timm, whichever the source names."""

import json
from pathlib import Path

from radio_core.teachers.base import Teacher
from radio_core.teachers.timm_models import TimmTeacher, local_folder
from radio_core.teachers.transformers_models import TransformersTeacher

_KINDS = {
    "dinov2": ("dinov2", "dinov2_with_registers"),
    "dinov3": ("dinov3_vit", "dinov3_convnext"),
}
"""Generation -> `model_type`s of transformers."""


def load_dino(
    name: str, source: str, generation: str, input_size: int | None = None, licence: str = ""
) -> Teacher:
    """A DINO whose summary is the class token (of a ConvNeXt the pooled features).

    Args:
        name: name of the teacher.
        source: hub id ("facebook/dinov3-vitl16-pretrain-lvd1689m", "timm/..."), name in timm
            ("vit_large_patch16_dinov3.lvd1689m") or a directory in the format of either library.
        generation: "dinov2" or "dinov3".
        input_size: see `load_teacher`.
        licence: licence of the weights; by default what is known of the name.

    Raises:
        ValueError: another kind of model, or weights that do not fit its config.
    """
    if not _is_timm(source):
        return TransformersTeacher.load(name, source, licence, _KINDS[generation])
    teacher = TimmTeacher.load(name, source, licence, input_size, class_token=True)
    about = teacher.network.pretrained_cfg
    if not any(generation in str(about.get(key)) for key in ("architecture", "tag")):
        raise ValueError(
            f"{source} is a {about.get('architecture')!r} of timm, which is no {generation}: load "
            f"it as timm:{source}"
        )
    return teacher


def _is_timm(source: str) -> bool:
    """Whether a source is in timm's format: a name of timm, or a directory as timm writes it."""
    folder = local_folder(source)
    if folder is None:
        return source.startswith(("timm/", "hf-hub:")) or "/" not in source
    return _describes_timm(folder / "config.json")


def _describes_timm(config: Path) -> bool:
    """Whether a config.json is timm's; a damaged one is left to transformers to complain about."""
    try:
        found = json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and "architecture" in found and "model_type" not in found
