"""Configs as YAML files: a dataclass to a mapping and back, checked field by field.

pydantic and cattrs do the same, but no dependency brings them, and their messages name classes
where a user knows fields. tyro's own YAML needs tags with the names of Python classes.
"""

import dataclasses
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


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
            are merged key by key, unless they differ in their `type`; a file that has every
            field has no need of it.
    """
    import yaml

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not a YAML file: {error}") from error
    values = {} if values is None else values  # an empty file
    try:
        if default is not None and not _is_whole(config, values):
            values = _merge(to_mapping(default), values)
        return from_mapping(config, values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _is_whole(config: Any, values: Any) -> bool:
    """True if a mapping has every field, also of the dataclasses in it."""
    return isinstance(values, Mapping) and all(
        name in values and (not dataclasses.is_dataclass(kind) or _is_whole(kind, values[name]))
        for name, kind in _hints(config).items()
    )


def to_mapping(value: object) -> Any:
    """A dataclass as plain dicts, lists, strings, numbers, booleans and None, for YAML or JSON."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_mapping(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: to_mapping(child) for key, child in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_mapping(child) for child in value]
    return str(value) if isinstance(value, Path) else value


def from_mapping(config: type[T], values: object, where: str = "") -> T:
    """The inverse of `to_mapping` for one dataclass.

    Args:
        config: the dataclass; its fields may be nested dataclasses, tuples, lists, sequences,
            dicts, mappings, unions, literals, paths, strings, numbers and booleans, or a base
            class with `of_type(name)`, which gives the dataclass that the field `type` names.
        values: field name -> plain value. A number where the field is a float may be an int or a
            string such as "1e-3" (which YAML reads as a string).
        where: the dotted name that error messages start with.
    """
    fields = _hints(config)
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


def _hints(config: type) -> dict[str, Any]:
    """The fields that a dataclass is made of -> their types."""
    assert dataclasses.is_dataclass(config)
    hints = get_type_hints(config)
    return {field.name: hints[field.name] for field in dataclasses.fields(config) if field.init}


def _merge(base: Any, over: Any) -> Any:
    """Mappings are merged key by key, everything else is replaced; so is what has another type."""
    if not (isinstance(base, Mapping) and isinstance(over, Mapping)):
        return over
    if "type" in over and over["type"] != base.get("type"):
        return over
    return {**base, **{key: _merge(base.get(key), child) for key, child in over.items()}}


def _typed(hint: Any, value: Any, where: str) -> Any:
    """`value` (plain) as an instance of `hint`; `where` is its dotted name."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return from_mapping(hint, value, where)
    if hasattr(hint, "of_type"):
        if not isinstance(value, Mapping) or "type" not in value:
            raise ValueError(f"{where} must be a mapping with a field 'type', got {value!r}")
        try:
            kind = hint.of_type(value["type"])
        except ValueError as error:
            raise ValueError(f"{where}.type: {error}") from error
        return from_mapping(kind, value, where)
    if origin in (Union, types.UnionType):
        reasons = []
        for member in arguments:
            try:
                return _typed(member, value, where)
            except ValueError as error:
                reasons.append(str(error))
        raise ValueError("; or ".join(dict.fromkeys(reasons)))
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
        found = _leaf(hint, value)
        if found is not None or (hint in (None, type(None)) and value is None):
            return found
    if origin is Literal:
        wanted = "one of " + ", ".join(map(repr, arguments))
    elif hint in (None, type(None)):
        wanted = "null"
    else:
        wanted = hint.__name__ if origin is None else str(hint).replace("typing.", "")
    raise ValueError(f"{where} must be {wanted}, got {value!r}")


def _leaf(hint: Any, value: Any) -> Any:
    """A bool, int, float, str or path without silent conversions; None for a value that is none."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is float and (number or isinstance(value, str)):
        try:
            return float(value)
        except ValueError:
            return None
    if hint is int and number and float(value).is_integer():
        return int(value)
    if hint in (bool, str) and isinstance(value, hint):
        return value
    if isinstance(hint, type) and issubclass(hint, Path) and isinstance(value, str):
        return hint(value)
    return None
