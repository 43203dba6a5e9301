"""What callers pass, checked before anything is done with it: what does not fit is named in one line."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Sequence
from typing import Any

from .errors import RequestError
from .types import Face


def as_faces(face: Face | Sequence[Face], enabled: tuple[str, ...]) -> tuple[Face, ...]:
    """One face, or two, with just these characteristics. Raises RequestError."""
    faces = tuple(face) if isinstance(face, (tuple, list)) else (face,)
    if not 1 <= len(faces) <= 2 or not all(isinstance(f, Face) for f in faces):
        found = ", ".join(type(f).__name__ for f in faces) or "nothing"
        raise RequestError(f"expected a Face from perceive(), or two, found {found}")
    for f in faces:
        names = tuple(x.name for x in f.labels)
        if names != enabled:
            differ = ", ".join(sorted(set(names) ^ set(enabled))[:3]) or "their order"
            raise RequestError(
                f"this Face was perceived with other switches, or another bundle: {len(names)} characteristics, here "
                f"{len(enabled)} ({differ}): perceive the photo with this instance"
            )
    return faces


def as_face(face: Face, enabled: tuple[str, ...]) -> Face:
    """One face, as `as_faces`. Raises RequestError."""
    if not isinstance(face, Face):
        raise RequestError(f"expected one Face from perceive(), found {type(face).__name__}: take them one by one")
    return as_faces(face, enabled)[0]


def texts(name: str, value: Iterable[str]) -> tuple[str, ...]:
    """A list of strings; a string alone would be taken for a list of its letters. Raises RequestError."""
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise RequestError(f"{name} {value!r}; expected a list of strings")
    found = tuple(value)
    if not all(isinstance(x, str) for x in found):
        raise RequestError(f"{name} {list(found)!r}; expected a list of strings")
    return found


def whole(name: str, value: int | None) -> int | None:
    """A whole number, or None. Raises RequestError."""
    try:
        return None if value is None else operator.index(value)
    except TypeError:
        raise RequestError(f"{name} {value!r}; expected a whole number") from None


def number(name: str, value: Any) -> float:
    """A number that is one, as a float; it may be infinite. Raises RequestError."""
    try:
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        found = math.nan
    if isinstance(value, (str, bytes)) or math.isnan(found):
        raise RequestError(f"{name} {value!r}; expected a number")
    return found


def megabytes(name: str, value: float) -> float:
    """At least 0, and finite. Raises RequestError."""
    found = number(name, value)
    if not 0 <= found < math.inf:
        raise RequestError(f"{name} {value!r}; expected megabytes, at least 0 and not without end")
    return found


def seconds(name: str, value: float | None) -> float | None:
    """More than 0; None for ever, which an infinite number means too. Raises RequestError."""
    if value is None or (found := number(name, value)) == math.inf:
        return None
    if found <= 0:
        raise RequestError(f"{name} {value!r}; expected more than 0 seconds, or None: never")
    return found
