"""Teachers: frozen foundation models behind one small contract."""

from radio_core.teachers.base import Teacher, TeacherOutput, TeacherSpec, UnknownTeacher
from radio_core.teachers.registry import TOY_TEACHERS, load_teacher

__all__ = [
    "TOY_TEACHERS",
    "Teacher",
    "TeacherOutput",
    "TeacherSpec",
    "UnknownTeacher",
    "load_teacher",
]
