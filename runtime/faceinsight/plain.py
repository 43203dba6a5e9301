"""What is handed out as plain values, for JSON: dictionaries, lists, text, numbers, None."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from .errors import FaceInsightError

#: Metadata of a field that stays out of JSON.
INTERNAL: Mapping[str, Any] = {"json": False}


class Plain:
    """A dataclass that can be written as JSON."""

    __slots__ = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON-serialisable, as `faceinsight schema` describes it.

        Raises FaceInsightError for a number that is not finite: JSON has none.
        """
        return plain(self)  # type: ignore[no-any-return]


def public(kind: Any) -> tuple[dataclasses.Field[Any], ...]:
    """The fields of a dataclass that are in its JSON."""
    return tuple(f for f in dataclasses.fields(kind) if f.metadata.get("json", True))


def plain(value: Any, path: str = "") -> Any:
    """A value made of dataclasses, arrays, tuples and dictionaries -> what JSON can hold. path: how an error names it.

    Raises FaceInsightError.
    """
    if dataclasses.is_dataclass(value):
        path = path or type(value).__name__
        return {f.name: plain(getattr(value, f.name), f"{path}.{f.name}") for f in public(value)}
    if isinstance(value, (np.ndarray, np.generic)):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(k): plain(v, f"{path}.{k}") for k, v in value.items()}
    if isinstance(value, (tuple, list)):
        return [plain(v, f"{path}[{i}]") for i, v in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        raise FaceInsightError(f"{path} is {value}, which JSON cannot hold: the bundle or the picture is at fault")
    return value


def to_json(value: Any, *, indent: int | None = 1, escape: bool = False) -> str:
    """JSON text of a value as `plain` takes it; with indent None, on one line. escape: all that is not ASCII."""
    return json.dumps(plain(value), indent=indent, ensure_ascii=escape, allow_nan=False)
