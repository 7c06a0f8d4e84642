"""Optional dependencies: imported where they are used, and named with their extra when missing."""

from importlib import import_module
from types import ModuleType


def require(module: str, extra: str) -> ModuleType:
    """Import an optional module.

    Args:
        module: the dotted name to import, e.g. ``"open_clip"`` or ``"segment_anything.modeling"``.
        extra: the extra of ``radio-toolkit`` that installs it, e.g. ``"clip"``.

    Returns:
        The module itself (for a dotted name the innermost one).

    Raises:
        ImportError: the package is not installed; the message has the command that installs it.
            An installed package that fails by itself raises its own error unchanged.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        if error.name != package:
            raise
        raise ImportError(
            f"{package!r} is not installed; it comes with the extra {extra!r}: "
            f"pip install 'radio-toolkit[{extra}]'",
            name=package,
        ) from error
