"""The ``radio`` command: finds the sub-commands that are installed and runs one of them.

A command is named in the entry point group ``radio.commands``, "export.onnx" for
``radio export onnx``, and is one of:

- a function of one dataclass, whose fields are the flags, as in
  ``def onnx(options: OnnxOptions) -> int``;
- a function of ``argv``, the arguments as they are, where the flags depend on them
  (``radio train RECIPE``): ``def train(argv: Sequence[str]) -> int``.

The first line of the function's docstring is its line in ``--help``. Neither torch nor any command
is imported before one is chosen.
"""

import ast
import dataclasses
import difflib
import inspect
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.abc import InspectLoader
from importlib.machinery import PathFinder
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, TypeVar, cast, get_type_hints

from radio_core import __version__
from radio_core.config_file import read_config
from radio_core.registry import Registry, UnknownName

T = TypeVar("T")
Command = Callable[[Any], int]
COMMANDS: Registry[Command] = Registry("radio.commands", "command")

_EXPECTED = (ValueError, OSError, ImportError, RuntimeError)
_CONFIG_NOTE = "--config FILE.yaml reads these fields from a file; flags win over it."


def write_json(path: Path | None, result: object) -> None:
    """Write the result of a command to the file of its `--json`, if there is one."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


class UsageError(ValueError):
    """The command line is wrong (exit code 2); the message names the fix or the known choices."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``radio ARGUMENTS``.

    Args:
        argv: the arguments after ``radio``; the process's own when None.

    Returns:
        The exit code: 0 done, 1 failed (one line on stderr says why), 2 bad usage.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if words and words[0] in ("-V", "--version"):
        print(f"radio {__version__}")
        return 0
    try:
        commands: Mapping[str, EntryPoint] = COMMANDS.entries
    except ValueError as error:
        print(f"radio: {error}", file=sys.stderr)
        return 1
    path: list[str] = []
    while words and not words[0].startswith("-") and words[0] != "help":
        path.append(words.pop(0))
        name = ".".join(path)
        if name in commands and f"{name}.{words[0] if words else ''}" not in commands:
            return _run(name, words)
        if not any(known.startswith(f"{name}.") for known in commands):
            known = _children(commands, path[:-1])
            unknown = UnknownName.of("command" if len(path) == 1 else "action", path[-1], known)
            print(f"{' '.join(['radio', *path[:-1]])}: {unknown}", file=sys.stderr)
            return 2
    print(_help(commands, path), file=sys.stdout if words else sys.stderr)
    return 0 if words else 2


def _children(commands: Mapping[str, EntryPoint], path: Sequence[str]) -> list[str]:
    """The words that may follow those of `path`."""
    depth = len(path)
    words = [name.split(".") for name in commands]
    return list(dict.fromkeys(w[depth] for w in words if w[:depth] == list(path)))


def _help(commands: Mapping[str, EntryPoint], path: Sequence[str]) -> str:
    """What ``radio --help`` and ``radio export --help`` print: a line a command."""
    lines: dict[str, str] = {}
    for word in _children(commands, path):
        name = ".".join([*path, word])
        below = [child for child in commands if child.startswith(f"{name}.")]
        if name in commands:
            lines[word] = first_line(commands[name])
        else:
            lines[word] = ", ".join(_children(commands, name.split("."))) if below else ""
    width = max(map(len, lines), default=0)
    prog = " ".join(["radio", *path])
    about = "Distil several vision foundation models into one, use it, evaluate and export it.\n\n"
    return (
        f"usage: {prog} COMMAND [OPTIONS]\n\n{'' if path else about}commands:\n"
        + "\n".join(f"  {word:<{width}}  {line}".rstrip() for word, line in lines.items())
        + f"\n\n'{prog} COMMAND --help' tells a command's options; 'radio --version' the version.\n"
        "RADIO_DEBUG=1 shows the traceback of a command that fails."
    )


def first_line(entry: EntryPoint) -> str:
    """The first line of the docstring of a function or class, read without importing anything."""
    path: Sequence[str] | None = None
    spec = None
    parts = entry.module.split(".")
    for depth in range(1, len(parts) + 1):
        spec = PathFinder.find_spec(".".join(parts[:depth]), path)
        if spec is None:
            return "(not installed)"
        path = spec.submodule_search_locations
    if spec is None or not isinstance(spec.loader, InspectLoader):
        return ""
    try:
        tree = ast.parse(spec.loader.get_source(entry.module) or "")
    except (SyntaxError, ImportError):
        return ""
    named = (node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef))
    docstring = next((ast.get_docstring(n) for n in named if n.name == entry.attr), None)
    return docstring.splitlines()[0].strip() if docstring else ""


def _run(name: str, argv: list[str]) -> int:
    """Run a command and turn what it raises into a line and an exit code.

    An exception that says something to the user (:class:`UsageError`, ValueError, OSError,
    ImportError, RuntimeError) becomes one line on stderr; any other is a defect and is raised.
    With RADIO_DEBUG=1 every exception is raised.
    """
    prog = f"radio {name.replace('.', ' ')}"
    debug = os.environ.get("RADIO_DEBUG", "") not in ("", "0")
    try:
        command = COMMANDS.load(name)
        (parameter,) = inspect.signature(command).parameters
        kind = get_type_hints(command).get(parameter)
        given = (
            parse(cast(type[Any], kind), argv, prog=prog)
            if dataclasses.is_dataclass(kind)
            else argv
        )
        return int(command(given))
    except SystemExit as stop:  # from the option parser
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
            return 1
        return stop.code or 0
    except BrokenPipeError:  # the reader of our output went away, as in `radio models | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        if debug:
            raise
        print(f"{prog}: interrupted", file=sys.stderr)
        return 1
    except _EXPECTED as error:
        if debug:
            raise
        message = " ".join(str(error).split()) or type(error).__name__
        print(f"{prog}: {message}", file=sys.stderr)
        return 2 if isinstance(error, (UsageError, UnknownName)) else 1


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
        import tyro

        hints = get_type_hints(type(value), include_extras=True)
        for field in dataclasses.fields(value):
            child, name = getattr(value, field.name), field.name.replace("_", "-")
            if tyro.conf.OmitArgPrefixes in getattr(hints[field.name], "__metadata__", ()):
                yield from _flags(child)
            else:
                yield from _flags(child, f"{prefix}.{name}" if prefix else name)
        return
    if isinstance(value, dict):
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
    name = first.partition("=")[0]
    below = [flag for flag in known if flag.startswith(f"{name}.")]  # it is a section's
    near = below or difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    return f"unknown option {first!r}; {hint}Known: {', '.join(known)}, --config, --help"
