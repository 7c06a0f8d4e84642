"""Teachers by name."""

from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path

from radio_core.teachers.base import Teacher, UnknownTeacher

TOY_TEACHERS = ("toy-clip", "toy-dino", "toy-sam")
_FORMS = (
    "open_clip:MODEL[/PRETRAINED]",
    "dinov2:HUB_ID_OR_DIRECTORY",
    "sam:vit_b|vit_l|vit_h:CHECKPOINT",
    "sam:DIRECTORY",
)


def toy_teacher_folder(name: str) -> Path:
    """Directory of the weights of a bundled toy teacher."""
    return Path(str(files("radio_core.teachers"))) / "weights" / name


def is_teacher(source: str) -> bool:
    """Whether `load_teacher` takes the source, judged by its form alone."""
    kind, _, rest = source.partition(":")
    return source in TOY_TEACHERS or bool(rest and kind in ("open_clip", "dinov2", "sam"))


def load_teacher(source: str) -> Teacher:
    """Load a frozen teacher.

    Args:
        source: a bundled toy teacher ("toy-clip", "toy-dino", "toy-sam") or one of the forms
            "open_clip:MODEL/PRETRAINED", "open_clip:local-dir:PATH", "dinov2:HUB_ID_OR_DIRECTORY",
            "sam:vit_h:CHECKPOINT", "sam:DIRECTORY".

    Raises:
        UnknownTeacher: a ValueError; the message lists the known names.
        ValueError: the weights are not those of such a model.
        ImportError: the library of the teacher is missing; the message names the extra.
    """
    if source in TOY_TEACHERS:
        return _load_toy(source)
    kind, _, rest = source.partition(":")
    if rest and kind == "open_clip":
        from radio_core.teachers.open_clip import OpenClipTeacher, split_model

        return OpenClipTeacher.load(source, *split_model(rest))
    if rest and kind == "dinov2":
        from radio_core.teachers.dinov2 import DinoV2Teacher

        return DinoV2Teacher.load(source, rest)
    if rest and kind == "sam":
        from radio_core.teachers.sam import SamTeacher, load_sam

        model, _, checkpoint = rest.partition(":")
        return SamTeacher(source, load_sam(model, checkpoint or None), "Apache-2.0")
    close = get_close_matches(source, TOY_TEACHERS, n=1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    raise UnknownTeacher(
        f"unknown teacher {source!r}{hint}; known: {', '.join((*TOY_TEACHERS, *_FORMS))}"
    )


def _load_toy(name: str) -> Teacher:
    folder = toy_teacher_folder(name)
    if name == "toy-clip":
        from radio_core.teachers.open_clip import OpenClipTeacher

        return OpenClipTeacher.load(name, f"local-dir:{folder}", licence="Apache-2.0")
    if name == "toy-dino":
        from radio_core.teachers.dinov2 import DinoV2Teacher

        return DinoV2Teacher.load(name, str(folder), licence="Apache-2.0")
    from radio_core.teachers.sam import SamTeacher, load_sam

    return SamTeacher(name, load_sam(str(folder)), "Apache-2.0")
