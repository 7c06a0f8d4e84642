"""Teachers by name."""

from collections.abc import Callable
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

from radio_core.registry import Registry, UnknownName
from radio_core.teachers.base import Teacher

Loader = Callable[[str, str, int | None], Teacher]
"""Called as loader(source, rest, input_size): the source as a user wrote it, what is behind its
kind and the colon, and the side in pixels at which it is to be built, or None for its own."""
TEACHERS: Registry[Loader] = Registry("radio.teachers", "teacher")
"""Kinds of teachers: what is before the first ":" of a source."""

TOY_TEACHERS = ("toy-clip", "toy-dino", "toy-sam")
TEACHER_FORMS = (
    "open_clip:MODEL/PRETRAINED",
    "open_clip:local-dir:DIRECTORY",
    "open_clip:hf-hub:OWNER/NAME",
    "dinov2:HUB_ID_OR_DIRECTORY",
    "dinov3:HUB_ID_OR_DIRECTORY",
    "sam:vit_b|vit_l|vit_h:CHECKPOINT",
    "sam:DIRECTORY",
    "sam2:HUB_ID_OR_DIRECTORY",
    "sam3:HUB_ID_OR_DIRECTORY",
    "radio:NAME_OR_PATH[#ADAPTOR]",
    "timm:NAME_OR_DIRECTORY",
    "hf:HUB_ID_OR_DIRECTORY",
    "MODULE:FUNCTION[:REST]",
)
"""What `load_teacher` takes besides the names of the toy teachers, for people."""


def toy_teacher_folder(name: str) -> Path:
    """Directory of the weights of a bundled toy teacher."""
    return Path(str(files("radio_core.teachers"))) / "weights" / name


def is_teacher(source: str) -> bool:
    """Judge by its form alone whether `load_teacher` takes the source."""
    kind, _, rest = source.partition(":")
    if kind in TEACHERS:
        return source in TOY_TEACHERS or bool(rest)
    names = [*kind.split("."), *rest.partition(":")[0].split(".")]
    return ":" in source and kind != "random" and all(name.isidentifier() for name in names)


def load_teacher(source: str, input_size: int | None = None) -> Teacher:
    """Load a frozen teacher, on the CPU, in float32. Nothing in its files is executed.

    Args:
        source: a bundled toy teacher ("toy-clip", "toy-dino", "toy-sam") or one of the forms
            - "open_clip:MODEL/PRETRAINED", "open_clip:hf-hub:OWNER/NAME",
              "open_clip:local-dir:DIRECTORY": OpenAI CLIP, OpenCLIP, MetaCLIP, DFN, SigLIP;
            - "dinov2:ID", "dinov3:ID": of transformers (hub id or directory) or timm (name, hub id
              or directory);
            - "sam:vit_h:CHECKPOINT", "sam:DIRECTORY": of segment_anything;
            - "sam2:ID", "sam3:ID": of transformers, hub id or directory;
            - "radio:NAME_OR_PATH", or "radio:NAME_OR_PATH#ADAPTOR": what `load_model` takes;
            - "timm:NAME", "timm:DIRECTORY", "hf:ID", "hf:DIRECTORY": any vision model of timm or
              of transformers;
            - "KIND:REST" of an installed package (entry point of `radio.teachers`), or
              "module:function[:REST]" of your own code, called as `Loader` says.
        input_size: side in pixels at which it sees images unless `forward` is told otherwise; the
            model's own by default.

    Raises:
        UnknownName: a ValueError; the message lists the known names.
        ValueError: the weights are not those of such a model, or it does not take that size.
        OSError: files that are missing, or cannot be downloaded; the message says which.
        ImportError: the library of the teacher is missing; the message names the extra.
    """
    if not is_teacher(source):
        known = [*TOY_TEACHERS, *TEACHER_FORMS]
        raise UnknownName.of("teacher", source, known)
    kind, _, rest = source.partition(":")
    if kind not in TEACHERS:
        attribute, _, rest = rest.partition(":")
        kind = f"{kind}:{attribute}"
    teacher = TEACHERS.load(kind)(source, rest, input_size)
    if not isinstance(teacher, Teacher):
        raise ValueError(f"{kind} gave a {type(teacher).__name__}, not a radio_core Teacher")
    if not teacher.spec.name:
        teacher.spec = replace(teacher.spec, name=source)
    return teacher if input_size is None else teacher.at(input_size)


def load_toy(source: str, rest: str, input_size: int | None) -> Teacher:
    """Load a bundled toy teacher."""
    place = str(toy_teacher_folder(source))
    if source == "toy-clip":
        from radio_core.teachers import open_clip

        return open_clip.load(source, f"local-dir:{place}", None)
    if source == "toy-dino":
        return load_dino(source, place, None)
    from radio_core.teachers import segment_anything

    return segment_anything.load(source, place, None)


def load_dino(source: str, rest: str, input_size: int | None) -> Teacher:
    """Load a DINOv2 or DINOv3 of transformers or of timm; its summary is the class token."""
    from radio_core.teachers import timm_models, transformers_models

    if timm_models.is_timm_format(rest):
        return timm_models.load_dino(source, rest, input_size)
    return transformers_models.load_dino(source, rest, input_size)
