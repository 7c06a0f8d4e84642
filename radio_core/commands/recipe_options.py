"""Reading `RECIPE [--field value ...]`, which several commands take."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from radio_core.commands import UsageError, parse
from radio_core.distill.config import TrainConfig
from radio_core.distill.recipes import RECIPES, get_recipe
from radio_core.teachers import UnknownTeacher


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
    return parse(TrainConfig, rest, prog=f"{prog} {name}", default=default)


def recipe_list() -> str:
    """One line a recipe, for a command's help."""
    lines = [f"  {n:<12}{(r.__doc__ or '').splitlines()[0]}" for n, r in RECIPES.items()]
    return "\n".join(["recipes:", *lines])


@contextmanager
def teachers_from_command_line() -> Iterator[None]:
    """An unknown teacher is then a mistake on the command line (exit code 2)."""
    try:
        yield
    except UnknownTeacher as error:
        raise UsageError(str(error)) from error
