"""GET /openapi.json: the routes, and the bodies that they read, from the code that reads them."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import re
import types
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Union, get_args, get_origin, get_type_hints

from ..security import LoginBody
from . import chat_request
from .audience import ContentBody
from .camera import AskNowBody, SwitchBody
from .schemas import MAX_CHOICES, MAX_TEXT, AskBody, ChooseBody, FacesBody

Json = dict[str, Any]
Routes = Iterable[tuple[str, str, Callable[..., Any]]]

_TEXT = {"type": "string", "maxLength": MAX_TEXT}
_STRING, _INTEGER, _NUMBER, _OBJECT = ({"type": kind} for kind in ("string", "integer", "number", "object"))
_PLAIN: Mapping[Any, Json] = {str: _TEXT, int: _INTEGER, float: _NUMBER, bool: {"type": "boolean"}}


def describe(routes: Routes, version: str, models: Iterable[str] = ()) -> Json:
    """The document.

    Args:
        routes: methods, path and endpoint of each.
        version: of this program.
        models: names that are known here; none while the bundle loads.
    """
    named = {"enum": sorted(models)} if models else _STRING
    paths: Json = {}
    for methods, path, endpoint in routes:
        for method in methods.split():
            path = re.sub(r":path}", "}", path)
            paths.setdefault(path, {})[method.lower()] = _operation(method, path, endpoint, named)
    return {
        "openapi": "3.1.0",
        "info": {"title": "FaceInsight", "version": version, "license": {"name": "Apache-2.0"}},
        "paths": paths,
        "components": {
            "schemas": {"Error": _ERROR, "OllamaError": _OLLAMA_ERROR},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"token": []}],
    }


def _operation(method: str, path: str, endpoint: Callable[..., Any], model: Json) -> Json:
    """One of them. model: the schema of its name."""
    error = "OllamaError" if path.startswith("/api/") else "Error"
    text = (inspect.getdoc(getattr(endpoint, "func", endpoint)) or "").partition("\n")[0]
    summary = text.partition(": ")[2] or text
    out: Json = {
        "summary": summary[:1].upper() + summary[1:],
        "responses": {
            "200": _ANSWERS.get(path, {"description": "Done.", "content": {"application/json": {"schema": _OBJECT}}}),
            "default": {
                "description": "An error, or not there yet.",
                "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{error}"}}},
            },
        },
    }
    if "/api/" not in path and path in ("/health", "/readyz"):
        out["responses"]["default"]["content"]["application/json"]["schema"] = _OBJECT
    names = re.findall(r"{(\w+)}", path)
    out["parameters"] = [{"name": n, "in": "path", "required": True, "schema": {"type": "string"}} for n in names]
    if path == "/v1/faces" and method == "POST":
        for name in ("labels", "parsing"):
            out["parameters"].append({"name": name, "in": "query", "schema": _STRING})
    if path == "/v1/audience":
        out["parameters"] += [{"name": n, "in": "query", "schema": _STRING} for n in ("window", "format")]
    if path in _BODIES and method == "POST":
        content = copy.deepcopy(_BODIES[path])
        if "model" in content["application/json"]["schema"]["properties"]:
            content["application/json"]["schema"]["properties"]["model"] = model
        out["requestBody"] = {"required": True, "content": content}
    return out


def schema_of(kind: Any) -> Json:
    """The schema of a type that json_decoder.py decodes: unknown fields are refused."""
    if kind in _PLAIN:
        return _PLAIN[kind]
    if get_origin(kind) in (Union, types.UnionType):
        some = [schema_of(part) for part in get_args(kind) if part is not type(None)]
        return {"anyOf": [*some, {"type": "null"}]}
    if get_origin(kind) is tuple:
        return {"type": "array", "items": schema_of(get_args(kind)[0])}
    hints = get_type_hints(kind)
    return {
        "type": "object",
        "properties": {f.name: schema_of(hints[f.name]) for f in dataclasses.fields(kind)},
        "required": [f.name for f in dataclasses.fields(kind) if f.default is dataclasses.MISSING],
        "additionalProperties": False,
    }


def _json(schema: Json) -> Json:
    return {"application/json": {"schema": schema}}


def _either(*schemas: Json) -> Json:
    return {"anyOf": [*schemas, {"type": "null"}]}


def _chat() -> Json:
    """The fields of a chat that are read; others are ignored."""
    url = {"type": "string", "pattern": "^data:image/(jpeg|png|webp);base64,"}
    parts = [
        {"type": "object", "properties": {"type": {"const": "text"}, "text": _TEXT}, "required": ["type", "text"]},
        {
            "type": "object",
            "properties": {
                "type": {"const": "image_url"},
                "image_url": {"anyOf": [url, {"type": "object", "properties": {"url": url}, "required": ["url"]}]},
            },
            "required": ["type", "image_url"],
        },
    ]
    message = {
        "type": "object",
        "properties": {
            "role": {"enum": ["system", "developer", "user", "assistant"]},
            "content": {"anyOf": [_TEXT, {"type": "array", "items": {"anyOf": parts}}]},
        },
        "required": ["role", "content"],
    }
    ranges = {
        name: _either({"type": "number", "minimum": low, "maximum": high})
        for name, (low, high, _) in chat_request.SAMPLING.items()
    }
    limit = _either({"type": "integer", "minimum": 1})
    stop = {"type": "string", "minLength": 1, "maxLength": chat_request.MAX_STOP}
    return {
        "type": "object",
        "properties": {
            "model": _STRING,
            "messages": {"type": "array", "minItems": 1, "maxItems": chat_request.MAX_MESSAGES, "items": message},
            "max_tokens": limit,
            "max_completion_tokens": limit,
            "n": _either({"const": 1}),
            "stop": _either(stop, {"type": "array", "items": stop, "maxItems": chat_request.MAX_STOPS}),
            "stream": _either({"type": "boolean"}),
            "stream_options": _either(_OBJECT),
            "logprobs": _either({"type": "boolean"}),
            "top_logprobs": _either({"type": "integer", "minimum": 0, "maximum": 8}),
            "response_format": _either(_OBJECT),
            "seed": _either(_INTEGER),
            "faceinsight": _either(
                {
                    "type": "object",
                    "properties": {
                        "face": _either({"type": "integer", "minimum": 0}),
                        "labels": _either({"type": "array", "items": _STRING}),
                    },
                    "additionalProperties": False,
                }
            ),
            **ranges,
        },
        "required": ["model", "messages"],
    }


def _ollama(**more: Json) -> Json:
    """A request to Ollama's API: what both of its answers read."""
    properties = {
        "model": _STRING,
        "stream": _either({"type": "boolean"}),
        "format": _either({"enum": ["json", ""]}, _OBJECT),
        "options": _either(_OBJECT),
        **more,
    }
    return {"type": "object", "properties": properties, "required": ["model"]}


_BASE64 = {"type": "array", "items": _STRING}
_IMAGE = {"schema": {"type": "string", "format": "binary"}}
#: Path -> the media types that it reads.
_BODIES: Mapping[str, Json] = {
    "/v1/chat/completions": _json(_chat()),
    "/v1/faces": _json(schema_of(FacesBody)) | {f"image/{kind}": _IMAGE for kind in ("jpeg", "png", "webp")},
    "/v1/faces/{id}/ask": _json(schema_of(AskBody)),
    "/v1/faces/{id}/choose": _json(
        schema_of(ChooseBody)
        | {
            "properties": {
                name: {"type": "array", "items": _TEXT, "minItems": 1, "maxItems": MAX_CHOICES}
                for name in ("questions", "answers")
            }
        }
    ),
    "/v1/camera": _json(schema_of(SwitchBody)),
    "/v1/login": _json(schema_of(LoginBody)),
    "/v1/camera/ask": _json(schema_of(AskNowBody)),
    "/v1/content": _json(schema_of(ContentBody)),
    "/api/show": _json({"type": "object", "properties": {"model": _STRING}, "required": ["model"]}),
    "/api/chat": _json(
        _ollama(
            messages=_either(
                {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "properties": {"role": _STRING, "content": _TEXT, "images": _either(_BASE64)},
                        "required": ["role"],
                    },
                }
            )
        )
    ),
    "/api/generate": _json(_ollama(prompt=_either(_TEXT), images=_either(_BASE64), system=_either(_TEXT))),
}


def _answer(description: str, *required: str, streams: str | None = None) -> Json:
    """An object that has these fields; streams: the media type where it is streamed."""
    schema = {"type": "object", "properties": {name: {} for name in required}, "required": list(required)}
    return {"description": description, "content": _json(schema) | ({streams: {}} if streams else {})}


_SSE, _NDJSON = "text/event-stream", "application/x-ndjson"
_ANSWERS: Mapping[str, Json] = {
    "/": {"description": "A page.", "content": {"text/html": {}}},
    "/demo": {"description": "A page.", "content": {"text/html": {}}},
    "/static/{name}": {
        "description": "A part of the pages.",
        "content": {kind: {} for kind in ("text/html", "text/css", "text/javascript", "image/svg+xml")},
    },
    "/metrics": {"description": "Prometheus' exposition.", "content": {"text/plain": {}}},
    "/v1/models": _answer("The names of the model.", "object", "data"),
    "/v1/models/{id}": _answer("A name of the model.", "id", "object", "max_model_len"),
    "/v1/chat/completions": _answer("A completion.", "id", "choices", "usage", "faceinsight", streams=_SSE),
    "/v1/faces/{id}/ask": _answer("An answer.", "text", "labels", "outcome", "finish_reason", streams=_SSE),
    "/v1/faces/{id}/choose": _answer("Probabilities.", "choices"),
    "/v1/camera/events": {"description": "Server-sent events.", "content": {_SSE: {}}},
    "/v1/camera/ask": _answer("An answer.", "text", "labels", "tracks", "age_ms", streams=_SSE),
    "/v1/audience": _answer("Figures.", "windows", "expected", "contents", streams="text/csv"),
    "/v1/content": _answer("What is on the screen.", "id"),
    "/api/chat": _answer("An answer.", "model", "message", "done", streams=_NDJSON),
    "/api/generate": _answer("An answer.", "model", "response", "done", streams=_NDJSON),
}
_ERROR: Json = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {
                "message": _STRING,
                "type": _STRING,
                "param": {"type": ["string", "null"]},
                "code": _STRING,
            },
            "required": ["message", "type", "param", "code"],
        }
    },
    "required": ["error"],
}
_OLLAMA_ERROR: Json = {"type": "object", "properties": {"error": _STRING}, "required": ["error"]}
