"""The ``radio`` command: finds the sub-commands that are installed and runs one of them.

Neither torch nor any sub-command is imported before a sub-command is chosen.
"""

import ast
import difflib
import os
import sys
from collections.abc import Mapping, Sequence
from importlib.abc import InspectLoader
from importlib.machinery import PathFinder
from importlib.metadata import EntryPoint, entry_points

from radio_core import __version__
from radio_core.commands import UsageError

GROUP = "radio.commands"
_EXPECTED = (ValueError, OSError, ImportError, RuntimeError)


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``radio ARGUMENTS``.

    Args:
        argv: the arguments after ``radio``; the process's own when None.

    Returns:
        The exit code: 0 done, 1 failed (one line on stderr says why), 2 bad usage.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        commands = find_commands()
    except ValueError as error:
        print(f"radio: {error}", file=sys.stderr)
        return 1
    if not arguments:
        print(help_text(commands), file=sys.stderr)
        return 2
    name, *rest = arguments
    if name in ("-h", "--help", "help"):
        print(help_text(commands))
        return 0
    if name in ("-V", "--version"):
        print(f"radio {__version__}")
        return 0
    if name not in commands:
        print(_unknown_command(name, list(commands)), file=sys.stderr)
        return 2
    return run_command(commands[name], rest)


def find_commands(group: str = GROUP) -> dict[str, EntryPoint]:
    """The installed sub-commands by name, sorted; nothing of them is imported.

    Args:
        group: of entry points. A command whose actions come from several packages has a group of
            its own, such as ``radio.llava``.

    Raises:
        ValueError: two distributions give the same name to different functions.
    """
    found: dict[str, EntryPoint] = {}
    for entry in entry_points(group=group):
        other = found.setdefault(entry.name, entry)
        if other.value != entry.value:
            raise ValueError(
                f"two installed packages define {entry.name!r} of {group}: "
                f"{other.value} and {entry.value}; uninstall one"
            )
    return dict(sorted(found.items()))


def run_action(group: str, command: str, argv: Sequence[str]) -> int:
    """Run one of the actions of a command, such as `radio llava train`; it is imported here.

    Args:
        group: entry points of the actions, each called as ``function(argv) -> int``.
        command: what the user typed before them, e.g. ``"radio llava"``.
        argv: the action's name and its arguments; without any, the actions are listed.

    Returns:
        The exit code.

    Raises:
        UsageError: an unknown action; the known ones are listed.
    """
    actions = find_commands(group)
    if not argv or argv[0] in ("-h", "--help"):
        lines = [f"usage: {command} ACTION [OPTIONS]", "", "actions:", *summaries(actions)]
        print("\n".join([*lines, "", f"'{command} ACTION --help' tells an action's options."]))
        return 0 if argv else 2
    action, *rest = argv
    if action not in actions:
        raise UsageError(f"unknown action {action!r}; known: {', '.join(actions)}")
    return int(actions[action].load()(rest))


def help_text(commands: Mapping[str, EntryPoint]) -> str:
    """What ``radio --help`` prints: one line a command."""
    return "\n".join(
        [
            "usage: radio COMMAND [OPTIONS]",
            "",
            "Distil several vision foundation models into one, use it, evaluate and export it.",
            "",
            "commands:",
            *summaries(commands),
            "",
            "'radio COMMAND --help' tells a command's options; 'radio --version' the version.",
            "RADIO_DEBUG=1 shows the traceback of a command that fails.",
        ]
    )


def summaries(commands: Mapping[str, EntryPoint]) -> list[str]:
    """A line a command: its name and what it does."""
    width = max((len(name) for name in commands), default=0)
    lines = [f"  {name:<{width}}  {summary(entry.module)}" for name, entry in commands.items()]
    return [line.rstrip() for line in lines]


def summary(module: str) -> str:
    """The first line of a module's docstring, read from its source without importing anything.

    Args:
        module: the dotted name, e.g. ``"radio_core.commands.train"``.

    Returns:
        The line, ``"(not installed)"`` when the module is not there, or ``""`` when it has none.
    """
    path: Sequence[str] | None = None
    spec = None
    parts = module.split(".")
    for depth in range(1, len(parts) + 1):
        spec = PathFinder.find_spec(".".join(parts[:depth]), path)
        if spec is None:
            return "(not installed)"
        path = spec.submodule_search_locations
    if spec is None or not isinstance(spec.loader, InspectLoader):
        return ""
    try:
        source = spec.loader.get_source(module)
        docstring = ast.get_docstring(ast.parse(source or ""))
    except (SyntaxError, ImportError):
        return ""
    return docstring.splitlines()[0].strip() if docstring else ""


def run_command(entry: EntryPoint, argv: list[str]) -> int:
    """Import a sub-command, run it and turn what it raises into a line and an exit code.

    Args:
        entry: its entry point; the object is called as ``function(argv) -> int``.
        argv: the arguments after the command's name.

    Returns:
        The exit code. An exception that says something to the user (:class:`UsageError`,
        ValueError, OSError, ImportError, RuntimeError) becomes one line on stderr; any other is a
        defect and is raised. With RADIO_DEBUG=1 every exception is raised.
    """
    try:
        return int(entry.load()(argv))
    except SystemExit as stop:  # from the option parser
        return _exit_code(stop)
    except BrokenPipeError:  # the reader of our output went away, as in `radio models | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        if _debug():
            raise
        print(f"radio {entry.name}: interrupted", file=sys.stderr)
        return 1
    except _EXPECTED as error:
        if _debug():
            raise
        message = " ".join(str(error).split()) or type(error).__name__
        print(f"radio {entry.name}: {message}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1


def _debug() -> bool:
    return os.environ.get("RADIO_DEBUG", "") not in ("", "0")


def _exit_code(stop: SystemExit) -> int:
    if isinstance(stop.code, str):
        print(stop.code, file=sys.stderr)
        return 1
    return stop.code or 0


def _unknown_command(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"radio: unknown command {name!r}.{hint} Known: {', '.join(known) or 'none'}"


if __name__ == "__main__":
    sys.exit(main())
