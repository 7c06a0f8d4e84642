"""The sub-commands of ``radio``, one module each, and how they read their options.

A command is ``main(argv: list[str]) -> int`` and is named in the entry point group
``radio.commands``. The first line of its module's docstring is its line in ``radio --help``.
"""

import dataclasses
import difflib
import inspect
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar, cast

from radio_core.config_file import read_config

T = TypeVar("T")
_CONFIG_NOTE = "--config FILE.yaml reads these fields from a file; flags win over it."


class UsageError(ValueError):
    """The command line is wrong (exit code 2); the message names the fix or the known choices."""


def parse(
    config: Callable[..., T], argv: Sequence[str], *, prog: str, default: T | None = None
) -> T:
    """Turn a command line into a typed config.

    Args:
        config: a dataclass (its fields become flags, its docstrings the help), or a function
            (its parameters become flags; it is called and its result returned).
        argv: the arguments after the command's name.
        prog: the command as the user typed it, e.g. ``"radio train"``.
        default: a complete config, such as a recipe's, whose values are the flags' defaults.

    For a dataclass, ``--config FILE.yaml`` replaces defaults by the file's values; flags win over
    both.

    Returns:
        An instance of the dataclass, or what the function returned.

    Raises:
        UsageError: an unknown flag, or a config file that does not fit the dataclass.
        SystemExit: code 0 after ``--help``, code 2 after a message about a value that does not fit.
    """
    import tyro

    if not dataclasses.is_dataclass(config):
        return tyro.cli(config, args=argv, prog=prog)
    path, rest = _take_config_option(argv)
    fields = cast(type[T], config)
    if path is not None:
        try:
            default = read_config(fields, path, default=default)
        except ValueError as error:
            raise UsageError(str(error)) from error
    value: T
    value, unknown = tyro.cli(
        fields,
        args=rest,
        prog=prog,
        default=tyro.MISSING_NONPROP if default is None else default,
        description=f"{inspect.getdoc(config) or ''}\n\n{_CONFIG_NOTE}",
        return_unknown_args=True,
        config=(tyro.conf.AvoidSubcommands,),  # a union has the flags of its default's type
    )
    if unknown:
        raise UsageError(_unknown_option(unknown, sorted(_flags(value))))
    return value


def _take_config_option(argv: Sequence[str]) -> tuple[Path | None, list[str]]:
    """Split ``--config FILE`` or ``--config=FILE`` off an argument list (the last one counts)."""
    path: Path | None = None
    rest: list[str] = []
    remaining = iter(argv)
    for argument in remaining:
        if argument == "--config":
            following = next(remaining, None)
            if following is None:
                raise UsageError("--config needs the name of a YAML file")
            path = Path(following)
        elif argument.startswith("--config="):
            path = Path(argument.removeprefix("--config="))
        else:
            rest.append(argument)
    return path, rest


def _flags(value: object, prefix: str = "") -> Iterator[str]:
    """The flags that a config has: ``--field``, ``--section.field``, ``--list.0.field``."""
    if dataclasses.is_dataclass(value):
        names = [field.name for field in dataclasses.fields(value)]
        children = [(name.replace("_", "-"), getattr(value, name)) for name in names]
    elif isinstance(value, dict):
        children = [(str(key).replace("_", "-"), child) for key, child in value.items()]
    elif isinstance(value, (list, tuple)) and any(map(dataclasses.is_dataclass, value)):
        children = [(str(index), child) for index, child in enumerate(value)]
    else:
        children = []
    if not children:
        yield f"--{prefix}"
    for name, child in children:
        yield from _flags(child, f"{prefix}.{name}" if prefix else name)


def _unknown_option(unknown: Sequence[str], known: Sequence[str]) -> str:
    """One line about what was not understood, with the nearest flag and all known ones."""
    first = next((argument for argument in unknown if argument.startswith("-")), unknown[0])
    near = difflib.get_close_matches(first.partition("=")[0], known, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"unknown option {first!r}; {hint}Known: {', '.join(known)}, --config, --help"
