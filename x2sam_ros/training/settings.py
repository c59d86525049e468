"""Settings of a file as the dataclasses they mean: names and types are checked, whatever is missing keeps its value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from x2sam_ros.errors import ConfigError

Made = TypeVar("Made")

_WORDS = {float: "a number", int: "a whole number", str: "a text", bool: "true or false", NoneType: "nothing"}


def filled(start: Made, values: Any, where: str) -> Made:
    """Return a dataclass with other values for some of its fields.

    Args:
        start: has the values of all others.
        values: by name; lists for tuples, tables for dataclasses.
        where: what messages begin with.

    Raises:
        ConfigError: a name is unknown, a value has another type, or makes no sense.
    """
    hints, known = get_type_hints(type(start)), [field.name for field in fields(start)]  # type: ignore[arg-type]
    given = named(values, where)
    strange = [name for name in given if name not in known]
    if strange:
        raise ConfigError(f"{where}: there is no setting {strange[0]!r}, but {', '.join(known)}")
    found = {
        name: _fitted(value, hints[name], getattr(start, name), f"{where}: {name}") for name, value in given.items()
    }
    try:
        made: Made = replace(start, **found)  # type: ignore[type-var]  # any dataclass will do
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
    return made


def named(values: Any, where: str) -> Mapping[str, Any]:
    """Return ``values`` if they have names.

    Raises:
        ConfigError: they do not.
    """
    if not isinstance(values, Mapping) or not all(isinstance(name, str) for name in values):
        raise ConfigError(f"{where} is {values!r}, expected settings with names")
    return values


def _fitted(value: Any, hint: Any, start: Any, name: str) -> Any:
    """Return a value as the type ``hint`` wants it; ``start`` is what it replaces."""
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    for kind in kinds:
        inner: Any = get_origin(kind) or kind
        parts, has_fields = get_args(kind), is_dataclass(inner)
        if has_fields and isinstance(value, Mapping):
            return filled(start if isinstance(start, inner) else inner(), value, name)
        if inner is tuple and isinstance(value, (list, tuple)):
            each = parts[:1] * len(value) if parts[1:] == (...,) else parts
            if len(each) == len(value):
                return tuple(_fitted(x, part, "", f"{name}: {i}") for i, (x, part) in enumerate(zip(value, each), 1))
        if inner is Mapping and isinstance(value, Mapping):
            return {
                _fitted(k, parts[0], None, name): _fitted(x, parts[1], None, f"{name}: {k}") for k, x in value.items()
            }
        if inner is float and type(value) in (int, float, str):
            try:
                return float(value)  # YAML reads 1e-4 as a text
            except ValueError:
                continue
        if type(value) is inner:
            return value
    raise ConfigError(f"{name} is {value!r}, expected {' or '.join(_told(kind) for kind in kinds)}")


def _told(kind: Any) -> str:
    """Return a type in words."""
    inner, parts = get_origin(kind) or kind, get_args(kind)
    if inner is tuple:
        each = [_told(part) for part in parts if part is not ...]
        return f"a list of {', '.join(each)}"
    return "settings with names" if inner is Mapping or is_dataclass(inner) else _WORDS.get(inner, str(inner))
