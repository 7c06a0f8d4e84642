"""Teachers: frozen foundation models behind one small contract."""

from radio_core.teachers.base import Teacher
from radio_core.teachers.licences import Licence, licence_named
from radio_core.teachers.load import TEACHER_FORMS, TOY_TEACHERS, is_teacher, load_teacher

__all__ = [
    "TEACHER_FORMS",
    "TOY_TEACHERS",
    "Licence",
    "Teacher",
    "is_teacher",
    "licence_named",
    "load_teacher",
]
