"""Teachers: frozen foundation models behind one small contract."""

from radio_core.teachers.base import Teacher, UnknownTeacher
from radio_core.teachers.licences import Licence, licence_named
from radio_core.teachers.registry import TEACHER_FORMS, TOY_TEACHERS, load_teacher
from radio_core.vision import ModelSpec, Output

__all__ = [
    "TEACHER_FORMS",
    "TOY_TEACHERS",
    "Licence",
    "ModelSpec",
    "Output",
    "Teacher",
    "UnknownTeacher",
    "licence_named",
    "load_teacher",
]
