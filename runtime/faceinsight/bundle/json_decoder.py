"""Plain JSON -> frozen dataclasses, strictly: a wrong or missing field names its path, what was found and expected."""

from __future__ import annotations

import dataclasses
import math
import types
from functools import cache
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


class FieldError(ValueError):
    """A field does not fit; the message starts with its path."""


def decode(cls: type[T], value: object, path: str) -> T:
    """Build `cls` (a dataclass, or a type built from str, int, float, bool, tuple, dict, None) from JSON data."""
    return _decode(cls, value, path)  # type: ignore[no-any-return]


@cache
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls)


def _decode(kind: Any, value: object, path: str) -> Any:
    origin = get_origin(kind)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _dataclass(kind, value, path)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in get_args(kind):
            return None
        return _decode(next(a for a in get_args(kind) if a is not type(None)), value, path)
    if origin is tuple:
        return _tuple(get_args(kind), value, path)
    if origin is dict:
        item = get_args(kind)[1]
        return {k: _decode(item, v, f"{path}.{k}") for k, v in _expect(dict, value, path).items()}
    if kind is float:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise _mismatch(path, "a finite number", value)
        return float(value)
    if kind is int and isinstance(value, bool):
        raise _mismatch(path, "int", value)
    return _expect(kind, value, path)


def _dataclass(cls: Any, value: object, path: str) -> Any:
    data = _expect(dict, value, path)
    fields = {f.name: f for f in dataclasses.fields(cls)}
    unknown = sorted(set(data) - set(fields))
    if unknown:
        raise FieldError(f"{path}: unknown field {unknown[0]!r}; expected {', '.join(fields)}")
    hints = _hints(cls)
    out = {}
    for name, field in fields.items():
        if name in data:
            out[name] = _decode(hints[name], data[name], f"{path}.{name}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise FieldError(f"{path}: field {name!r} is missing")
    try:
        return cls(**out)
    except FieldError:
        raise
    except ValueError as e:
        raise FieldError(f"{path}: {e}") from None


def _tuple(args: tuple[Any, ...], value: object, path: str) -> tuple[Any, ...]:
    items = _expect(list, value, path)
    kinds = [args[0]] * len(items) if args[-1] is Ellipsis else list(args)
    if len(items) != len(kinds):
        raise FieldError(f"{path}: expected {len(kinds)} items, found {len(items)}")
    return tuple(_decode(k, v, f"{path}[{i}]") for i, (k, v) in enumerate(zip(kinds, items, strict=True)))


def _expect(kind: Any, value: object, path: str) -> Any:
    if not isinstance(value, kind):
        raise _mismatch(path, kind.__name__, value)
    return value


def _mismatch(path: str, expected: str, value: object) -> FieldError:
    return FieldError(f"{path}: expected {expected}, found {type(value).__name__} {str(value)[:60]!r}")
