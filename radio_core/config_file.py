"""Configs as YAML files: a dataclass to a mapping and back, checked field by field."""

import dataclasses
import enum
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")
_TYPE = "type"


def write_config(config: object, path: Path) -> None:
    """Write a dataclass instance as YAML, in the order of its fields."""
    import yaml

    path.write_text(yaml.safe_dump(to_mapping(config), sort_keys=False), encoding="utf-8")


def read_config(config: type[T], path: Path, *, default: T | None = None) -> T:
    """Read a dataclass from YAML.

    Args:
        config: the dataclass.
        path: the file; a field it leaves out keeps its default.
        default: an instance to take the defaults from, instead of the dataclass's own. Mappings
            are merged key by key, unless they differ in their ``type``; a file that has every
            field has no need of it.

    Raises:
        ValueError: not a YAML mapping, an unknown field (the known ones are listed), a value of
            another type, or one that the dataclass itself refuses; the path comes first.
    """
    import yaml

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        values = {} if values is None else values  # an empty file
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not a YAML file: {error}") from error
    try:
        if default is not None and isinstance(values, Mapping) and not _whole(config, values):
            values = _merge(to_mapping(default), values)
        return from_mapping(config, values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def to_mapping(value: object) -> Any:
    """A dataclass as plain dicts, lists, strings, numbers, booleans and None, for YAML or JSON."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_mapping(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: to_mapping(child) for key, child in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_mapping(child) for child in value]
    if isinstance(value, enum.Enum):
        return to_mapping(value.value)
    return str(value) if isinstance(value, Path) else value


def from_mapping(config: type[T], values: object, where: str = "") -> T:
    """The inverse of :func:`to_mapping` for one dataclass.

    Args:
        config: the dataclass; its fields may be nested dataclasses, tuples, lists, sequences,
            dicts, mappings, unions, literals, enums, paths, strings, numbers and booleans.
        values: field name -> plain value. A number where the field is a float may be an int or a
            string such as ``1e-3`` (which YAML reads as a string).
        where: the dotted name that error messages start with.

    Raises:
        ValueError: naming the field, what was found and what is wanted.
    """
    if not dataclasses.is_dataclass(config):
        raise TypeError(f"{config.__name__} is not a dataclass")
    hints = get_type_hints(config)
    fields = {field.name: hints[field.name] for field in dataclasses.fields(config) if field.init}
    if not isinstance(values, Mapping):
        raise ValueError(f"{where or 'the file'} must be a mapping of fields, got {values!r}")
    unknown = [key for key in values if key not in fields]
    if unknown:
        at = f" in {where}" if where else ""
        raise ValueError(f"unknown field {unknown[0]!r}{at}; known: {', '.join(fields)}")
    prefix = f"{where}." if where else ""
    typed = {key: _typed(fields[key], value, f"{prefix}{key}") for key, value in values.items()}
    try:
        return config(**typed)
    except TypeError as error:  # a required field is missing
        raise ValueError(f"{where or config.__name__}: {error}") from error


def _whole(config: type, values: Mapping[Any, Any]) -> bool:
    """Whether a file has every field, as those have that a run wrote."""
    return all(field.name in values for field in dataclasses.fields(config) if field.init)


def _merge(base: Any, over: Any) -> Any:
    """Mappings are merged key by key, everything else is replaced; so is what has another type."""
    if isinstance(base, Mapping) and isinstance(over, Mapping):
        if _TYPE in over and over[_TYPE] != base.get(_TYPE):
            return over
        merged = {key: _merge(base[key], over[key]) if key in over else base[key] for key in base}
        return {**merged, **{key: over[key] for key in over if key not in base}}
    return over


def _typed(hint: Any, value: Any, where: str) -> Any:
    """``value`` (plain) as an instance of ``hint``; ``where`` is its dotted name."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return from_mapping(hint, value, where)
    if hasattr(hint, "of_type"):  # a base class, whose subclasses have names
        if not isinstance(value, Mapping) or _TYPE not in value:
            raise ValueError(f"{where} must be a mapping with a field {_TYPE!r}, got {value!r}")
        try:
            kind = hint.of_type(value[_TYPE])
        except ValueError as error:
            raise ValueError(f"{where}.{_TYPE}: {error}") from error
        return from_mapping(kind, value, where)
    if origin in (Union, types.UnionType):
        return _first_that_fits(arguments, value, where)
    if origin is tuple and isinstance(value, (list, tuple)):
        kinds = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else list(arguments)
        if len(kinds) == len(value):
            pairs = enumerate(zip(kinds, value, strict=True))
            return tuple(_typed(kind, child, f"{where}.{i}") for i, (kind, child) in pairs)
    elif origin in (list, Sequence) and isinstance(value, (list, tuple)):
        return [_typed(arguments[0], child, f"{where}.{i}") for i, child in enumerate(value)]
    elif origin in (dict, Mapping) and isinstance(value, Mapping):
        return {key: _typed(arguments[1], child, f"{where}.{key}") for key, child in value.items()}
    elif origin is Literal and value in arguments:
        return value
    elif origin is None:
        return _plain(hint, value, where)
    raise ValueError(f"{where} must be {_name(hint)}, got {value!r}")


def _plain(hint: Any, value: Any, where: str) -> Any:
    """A leaf: None, bool, int, float, str, a path or an enum member, without silent conversions."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint in (None, type(None)) and value is None:
        return None
    if hint is float and (number or isinstance(value, str)):
        try:
            return float(value)
        except ValueError:
            pass
    elif hint is int and number and float(value).is_integer():
        return int(value)
    elif hint in (bool, str) and isinstance(value, hint):
        return value
    elif isinstance(hint, type) and issubclass(hint, (Path, enum.Enum)) and _fits(hint, value):
        return hint(value)
    raise ValueError(f"{where} must be {_name(hint)}, got {value!r}")


def _fits(hint: type[Path] | type[enum.Enum], value: Any) -> bool:
    """Whether a plain value names a path, or a member of the enum."""
    if issubclass(hint, enum.Enum):
        return value in [member.value for member in hint]
    return isinstance(value, str)


def _first_that_fits(hints: tuple[Any, ...], value: Any, where: str) -> Any:
    """The first member of a union that accepts ``value``, or the dataclass of its ``type``."""
    types = {name: hint for hint in hints for name in _type_names(hint)}
    if types and isinstance(value, Mapping) and _TYPE in value:
        if value[_TYPE] not in types:
            known = ", ".join(map(repr, types))
            raise ValueError(f"{where}.{_TYPE} must be one of {known}, got {value[_TYPE]!r}")
        return from_mapping(types[value[_TYPE]], value, where)
    reasons = []
    for hint in hints:
        try:
            return _typed(hint, value, where)
        except ValueError as error:
            reasons.append(str(error))
    raise ValueError("; or ".join(dict.fromkeys(reasons)))


def _type_names(hint: Any) -> tuple[Any, ...]:
    """What the field ``type`` of a dataclass may be, which tells members of a union apart."""
    if not (dataclasses.is_dataclass(hint) and isinstance(hint, type)):
        return ()
    field = get_type_hints(hint).get(_TYPE)
    return get_args(field) if get_origin(field) is Literal else ()


def _name(hint: Any) -> str:
    """A type as people write it."""
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(map(repr, get_args(hint)))
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return "one of " + ", ".join(repr(member.value) for member in hint)
    if hint is None or hint is type(None):
        return "null"
    return hint.__name__ if get_origin(hint) is None else str(hint).replace("typing.", "")
