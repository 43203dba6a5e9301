"""JSON schema (draft 2020-12) of everything that `--json` and `to_dict` write, made from the dataclasses themselves.

schema.json beside this file is what this module makes: `python -m faceinsight.cli.schema` writes it anew.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

import numpy as np

from ..bench.compare import Comparison
from ..bench.result import Result
from ..diagnostics.doctor import Check
from ..diagnostics.fit import Fit
from ..diagnostics.info import Info
from ..errors import RequestError
from ..plain import public
from ..types import STATES, Answer, AnswerScores, Face, Report
from .photos import PhotoAnswer

FILE = Path(__file__).with_name("schema.json")
#: Fields whose values are a few words: (dataclass, field) -> these.
WORDS = {("Label", "state"): STATES}
_SIMPLE = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}


def read(document: str | None = None) -> dict[str, Any]:
    """The published schema: of any document, or of one by its name. Raises RequestError for an unknown one."""
    whole: dict[str, Any] = json.loads(FILE.read_text())
    if document is None:
        return whole
    names = [d["$ref"].rpartition("/")[2] for d in whole["anyOf"]]
    if document not in names:
        raise RequestError(f"no schema of {document!r}; there are {', '.join(names)}")
    del whole["anyOf"]
    return whole | {"$ref": f"#/$defs/{document}"}


def build() -> dict[str, Any]:
    """The schema, from the dataclasses."""
    defs: dict[str, Any] = {}
    answered = _object(defs, Answer, before=PhotoAnswer)
    documents = {
        "report": _list(_schema(defs, Report)),
        "report-line": _line(_schema(defs, Report), "faces"),
        "ask": _list(answered),
        "describe-line": _line(answered, "answers"),
        "face": _schema(defs, Face),
        "choices": _list(_schema(defs, AnswerScores)),
        "info": _fields(defs, get_type_hints(Info)),
        "doctor": _fields(defs, {"ok": bool, "checks": tuple[Check, ...]}),
        "fit": _object(defs, Fit, fits=bool),
        "bench": _schema(defs, Result),
        "bench-compare": _object(defs, Comparison, regressions=tuple[str, ...], unclear=tuple[str, ...]),
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "What FaceInsight writes as JSON",
        "anyOf": [{"$ref": f"#/$defs/{name}"} for name in documents],
        "$defs": documents | dict(sorted(defs.items())),
    }


def _list(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


def _line(items: dict[str, Any], name: str) -> dict[str, Any]:
    """A line of JSON Lines about one photo: what was found, or why it could not be read."""
    text = {"type": "string"}
    return {"anyOf": [_closed({"photo": text, name: _list(items)}), _closed({"photo": text, "error": text})]}


def _schema(defs: dict[str, Any], kind: Any) -> dict[str, Any]:
    """Of a type as dataclasses use them; dataclasses themselves go to `defs`."""
    origin, args = get_origin(kind), get_args(kind)
    if kind in _SIMPLE:
        return {"type": _SIMPLE[kind]}
    if dataclasses.is_dataclass(kind):
        name = kind.__name__  # type: ignore[union-attr]
        if name not in defs:
            defs[name] = {}
            defs[name] = _object(defs, kind)
        return {"$ref": f"#/$defs/{name}"}
    if origin in (Union, types.UnionType):
        return {"anyOf": [_schema(defs, a) for a in args]}
    if origin is np.ndarray:
        return _list(_list({"type": "number"}))
    if origin is list or (origin is tuple and args[-1] is Ellipsis):
        return _list(_schema(defs, args[0]))
    if origin is tuple:
        of = [_schema(defs, a) for a in args]
        return {"type": "array", "prefixItems": of, "minItems": len(of), "maxItems": len(of)}
    if origin is dict:
        return {"type": "object", "additionalProperties": _schema(defs, args[1])}
    raise TypeError(f"no JSON schema for {kind}")


def _object(defs: dict[str, Any], kind: Any, *, before: Any = None, **more: Any) -> dict[str, Any]:
    """Of a dataclass, with the fields of another one before its own, or more of them behind."""
    fields: dict[str, Any] = {}
    for part in (before, kind) if before else (kind,):
        hints = get_type_hints(part)
        fields |= {f.name: hints[f.name] for f in public(part)}
    found = _fields(defs, fields | more)
    for name, property_ in found["properties"].items():
        if words := WORDS.get((kind.__name__, name)):
            property_["enum"] = list(words)
    return {"description": inspect.cleandoc(kind.__doc__).replace("`", "'")} | found


def _fields(defs: dict[str, Any], hints: Mapping[str, Any]) -> dict[str, Any]:
    return _closed({name: _schema(defs, hint) for name, hint in hints.items()})


def _closed(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


if __name__ == "__main__":
    FILE.write_text(json.dumps(build(), indent=1, ensure_ascii=False) + "\n")
