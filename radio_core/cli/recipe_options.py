"""Reading `RECIPE [--field value ...]`, which several commands take."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from radio_core.cli import UsageError, parse
from radio_core.distill.config import TrainConfig
from radio_core.distill.recipes import RECIPES, RECIPES_OF_NETWORKS, get_recipe
from radio_core.models import ERadioConfig, TimmConfig, ViTConfig
from radio_core.registry import UnknownName


def read_recipe(argv: Sequence[str], prog: str) -> TrainConfig:
    """The recipe named first, with the fields that the other arguments change.

    Raises:
        UsageError: an unknown recipe or field; the known ones are listed.
    """
    name, *rest = argv
    try:
        default = get_recipe(name)
    except ValueError as error:
        raise UsageError(str(error)) from error
    _check_student_flags(rest, default)
    return parse(TrainConfig, rest, prog=f"{prog} {name}", default=default)


def _check_student_flags(argv: Sequence[str], default: TrainConfig) -> None:
    """Say it where a flag belongs to another kind of student than the recipe's."""
    fields = {kind.type: _field_names(kind) for kind in (ViTConfig, ERadioConfig, TimmConfig)}
    own = default.student.type
    for argument in argv:
        name = argument.partition("=")[0].removeprefix("--student.").replace("-", "_")
        kinds = [kind for kind, names in fields.items() if name in names]
        if (
            argument.startswith("--student.")
            and kinds
            and own not in kinds
            and "--config" not in argv
        ):
            raise UsageError(
                f"{argument.partition('=')[0]} is a field of {' and '.join(kinds)} students, and "
                f"this recipe's is a {own}; for another kind take its recipe (timm:NAME, "
                "e-radio-b), or give `student:` with its `type:` in --config FILE.yaml"
            )


def _field_names(kind: type) -> set[str]:
    return {field.name for field in dataclasses.fields(kind)}


def recipe_list() -> str:
    """One line a recipe, for a command's help."""
    functions: dict[str, Callable[..., TrainConfig]] = dict(RECIPES)
    functions |= {f"{kind}:NETWORK": recipe for kind, recipe in RECIPES_OF_NETWORKS.items()}
    lines = [f"  {n:<18}{(r.__doc__ or '').splitlines()[0]}" for n, r in functions.items()]
    return "\n".join(["recipes:", *lines])


@contextmanager
def teachers_from_command_line() -> Iterator[None]:
    """An unknown teacher is then a mistake on the command line (exit code 2)."""
    try:
        yield
    except UnknownName as error:
        raise UsageError(str(error)) from error
