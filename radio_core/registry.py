"""Everything that has a name: entry points of installed packages, and people's own code.

Teachers, students, recipes, losses, balancers, data sources, evaluators and commands are found in
the same way, the built-in ones too: by the name of an entry point, or as "module:attribute" of a
module that Python can import.
"""

import difflib
import os
import sys
from collections.abc import Iterable
from functools import cache, cached_property
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar, cast

T = TypeVar("T")


class UnknownName(ValueError):
    """Nothing has the given name; the message lists the known ones and the nearest."""

    @classmethod
    def of(cls, what: str, name: str, known: Iterable[str]) -> "UnknownName":
        """The error for a name of a kind of thing ("teacher"), with all known names."""
        names = list(known)
        near = difflib.get_close_matches(name, names, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        return cls(f"unknown {what} {name!r}{hint}; known: {', '.join(names) or 'none'}")


class Registry(Generic[T]):
    """The things of one kind, by name; each is imported when it is asked for.

    Args:
        group: of entry points, e.g. "radio.teachers".
        what: the kind of thing, for messages, e.g. "teacher".
    """

    def __init__(self, group: str, what: str) -> None:
        self.group = group
        self.what = what

    @cached_property
    def entries(self) -> dict[str, EntryPoint]:
        """Name -> entry point, sorted; nothing is imported.

        Raises:
            ValueError: two distributions give the same name to different things.
        """
        found: dict[str, EntryPoint] = {}
        for entry in entry_points(group=self.group):
            other = found.setdefault(entry.name, entry)
            if other.value != entry.value:
                raise ValueError(
                    f"two installed packages define {entry.name!r} of {self.group}: "
                    f"{other.value} and {entry.value}; uninstall one"
                )
        return dict(sorted(found.items()))

    def __contains__(self, name: object) -> bool:
        """An entry point has that name."""
        return name in self.entries

    def load(self, name: str) -> T:
        """Import what a name means.

        Args:
            name: of an entry point, or "module:attribute".

        Raises:
            UnknownName: a ValueError; the message lists the known names.
            ImportError: it needs a package that is missing.
        """
        entry = self.entries.get(name)
        if entry is not None:
            return cast(T, entry.load())
        module, colon, attribute = name.partition(":")
        if not colon or not all(
            part.isidentifier() for part in (module + "." + attribute).split(".")
        ):
            raise UnknownName.of(self.what, name, [*self.entries, "MODULE:ATTRIBUTE"])
        try:
            found: Any = import_module(module)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module}.".startswith(f"{error.name}."):
                raise
            unknown = UnknownName.of(self.what, module, self.entries)
            raise UnknownName(
                f"{unknown}; and Python finds no module {module!r}: is its folder on PYTHONPATH?"
            ) from error
        for part in attribute.split("."):
            if not hasattr(found, part):
                raise UnknownName(f"{self.what} {name!r}: {found.__name__} has no {part!r}")
            found = getattr(found, part)
        return cast(T, found)

    def known(self, name: str) -> T | None:
        """What a name in a file means, which is not trusted: no module is imported for it.

        Args:
            name: of an entry point, or "module:attribute" of a module that is imported already, or
                that the environment variable RADIO_PLUGINS names.

        Returns:
            What has that name; None if nothing has.
        """
        if name in self.entries:
            return cast(T, self.entries[name].load())
        import_plugins()
        module, _, attribute = name.partition(":")
        # Not getattr: a module may import others when it is asked for a name.
        return cast("T | None", vars(sys.modules.get(module, object)).get(attribute))


@cache
def import_plugins() -> None:
    """Import the user's own modules, which RADIO_PLUGINS="my_students,my_teachers" names.

    Raises:
        ImportError: one cannot be imported.
    """
    for module in filter(None, os.environ.get("RADIO_PLUGINS", "").split(",")):
        try:
            import_module(module.strip())
        except ImportError as error:
            raise ImportError(f"RADIO_PLUGINS names {module.strip()!r}: {error}") from error
