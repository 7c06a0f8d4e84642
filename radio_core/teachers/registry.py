"""Teachers by name."""

from collections.abc import Callable
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path

from radio_core.teachers.base import Teacher, UnknownTeacher

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
)
"""What `load_teacher` takes besides the names of the toy teachers, for people."""


def toy_teacher_folder(name: str) -> Path:
    """Directory of the weights of a bundled toy teacher."""
    return Path(str(files("radio_core.teachers"))) / "weights" / name


def is_teacher(source: str) -> bool:
    """Whether `load_teacher` takes the source, judged by its form alone."""
    kind, _, rest = source.partition(":")
    return source in TOY_TEACHERS or bool(rest and kind in _LOADERS)


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
              of transformers.
        input_size: side in pixels at which it sees images unless `forward` is told otherwise; the
            model's own by default.

    Raises:
        UnknownTeacher: a ValueError; the message lists the known names.
        ValueError: the weights are not those of such a model, or it does not take that size.
        OSError: files that are missing, or cannot be downloaded; the message says which.
        ImportError: the library of the teacher is missing; the message names the extra.
    """
    kind, _, rest = source.partition(":")
    if source in TOY_TEACHERS:
        teacher = _toy(source)
    elif rest and kind in _LOADERS:
        teacher = _LOADERS[kind](source, rest, input_size)
    else:
        close = get_close_matches(source, TOY_TEACHERS, n=1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise UnknownTeacher(
            f"unknown teacher {source!r}{hint}; known: {', '.join((*TOY_TEACHERS, *TEACHER_FORMS))}"
        )
    return teacher if input_size is None else teacher.at(input_size)


def _toy(name: str) -> Teacher:
    folder = toy_teacher_folder(name)
    if name == "toy-clip":
        from radio_core.teachers.open_clip import OpenClipTeacher

        return OpenClipTeacher.load(name, f"local-dir:{folder}")
    if name == "toy-dino":
        from radio_core.teachers.dino import load_dino

        return load_dino(name, str(folder), "dinov2")
    from radio_core.teachers.licences import licence_of
    from radio_core.teachers.sam import SamTeacher, load_sam

    return SamTeacher(name, load_sam(str(folder)), licence_of(name).name)


def _open_clip(source: str, rest: str, input_size: int | None) -> Teacher:
    from radio_core.teachers.open_clip import OpenClipTeacher, split_model

    return OpenClipTeacher.load(source, *split_model(rest), input_size=input_size)


def _dino(source: str, rest: str, input_size: int | None) -> Teacher:
    from radio_core.teachers.dino import load_dino

    return load_dino(source, rest, source.partition(":")[0], input_size)


def _sam(source: str, rest: str, input_size: int | None) -> Teacher:
    from radio_core.teachers.licences import licence_of
    from radio_core.teachers.sam import SamTeacher, load_sam

    model, _, checkpoint = rest.partition(":")
    return SamTeacher(source, load_sam(model, checkpoint or None), licence_of(source).name)


def _sam2(source: str, rest: str, input_size: int | None) -> Teacher:
    from radio_core.teachers.sam2 import Sam2Teacher

    return Sam2Teacher.load(source, rest)


def _sam3(source: str, rest: str, input_size: int | None) -> Teacher:
    from radio_core.teachers.sam3 import Sam3Teacher

    return Sam3Teacher.load(source, rest, input_size)


def _radio(source: str, rest: str, input_size: int | None) -> Teacher:
    from radio_core.teachers.radio import RadioTeacher

    return RadioTeacher.load(source, rest)


def _timm(source: str, rest: str, input_size: int | None) -> Teacher:
    from radio_core.teachers.timm_models import TimmTeacher

    return TimmTeacher.load(source, rest, input_size=input_size)


def _transformers(source: str, rest: str, input_size: int | None) -> Teacher:
    from radio_core.teachers.transformers_models import TransformersTeacher

    return TransformersTeacher.load(source, rest)


# A library is imported when a teacher of it is loaded. Those whose networks have to be built for a
# size take it; `Teacher.at` does the rest.
_LOADERS: dict[str, Callable[[str, str, int | None], Teacher]] = {
    "open_clip": _open_clip,
    "dinov2": _dino,
    "dinov3": _dino,
    "sam": _sam,
    "sam2": _sam2,
    "sam3": _sam3,
    "radio": _radio,
    "timm": _timm,
    "hf": _transformers,
}
