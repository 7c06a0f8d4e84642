"""Packages whose import costs nothing: a public name is imported when it is first used."""

import sys
from collections.abc import Callable, Mapping
from importlib import import_module


def lazy_names(
    package: str, homes: Mapping[str, tuple[str, ...]], before: Callable[[], object] | None = None
) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """The functions ``__getattr__`` and ``__dir__`` of a package.

    Args:
        package: its name.
        homes: module -> the public names that are in it.
        before: called before a name is imported, such as a check of what is installed.
    """
    home_of = {name: module for module, names in homes.items() for name in names}
    namespace = vars(sys.modules[package])

    def get(name: str) -> object:
        if name not in home_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        if before is not None:
            before()
        value: object = getattr(import_module(home_of[name]), name)
        namespace[name] = value  # the next access does not come here
        return value

    return get, lambda: sorted({*namespace, *home_of})
