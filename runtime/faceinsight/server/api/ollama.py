"""Ollama's API over the same chat: what Home Assistant and Frigate speak without an addition of theirs.

A request is turned into OpenAI's, which is checked in one place; answers are lines of JSON in Ollama's shapes. Nothing
can be pulled, pushed or changed.
"""

from __future__ import annotations

import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from datetime import datetime, timezone
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from ..errors import ApiError, bad_request
from ..framing import ndjson
from ..state import State
from ..web import Json, last_of, read_json, stream, unless_gone
from .chat import events_of, findings, finish_reason
from .chat_request import ChatRequest, parse
from .schemas import require

#: The version of Ollama whose API this is; clients compare it before they use newer parts of it.
VERSION = "0.13.0"
_TAG = ":latest"
#: The place of a picture in a text, with the line before it that says what it is.
_PLACE = re.compile(r"^(?:[^\n?]{1,60}:\n)?(?:\[tracker\][^\n]*\n)?\[img(?:-\d+)?\][ \t]*$\n?", re.MULTILINE)
#: What changes models.
REFUSED = ("pull", "push", "create", "copy", "delete", "blobs/{digest}")
#: Options that have the same name and meaning in OpenAI's API, or are ignored there too.
_OPTIONS = (
    "temperature", "top_p", "top_k", "min_p", "seed", "stop", "repeat_penalty", "frequency_penalty", "presence_penalty",
)  # fmt: skip


async def version(request: Request) -> Response:
    """GET /api/version: of the API that this is."""
    return Json({"version": VERSION})


async def tags(request: Request) -> Response:
    """GET /api/tags: the models."""
    state: State = request.app.state.server
    return Json({"models": [_entry(state, name) for name in (state.model, *state.aliases)]})


async def running(request: Request) -> Response:
    """GET /api/ps: the models that are loaded."""
    state: State = request.app.state.server
    entry = _entry(state, state.model)
    entry |= {"expires_at": "0001-01-01T00:00:00Z", "size_vram": 0, "context_length": state.info["context"]}
    return Json({"models": [entry]})


async def show(request: Request) -> Response:
    """POST /api/show: what a model is."""
    state: State = request.app.state.server
    body = await read_json(request)
    name = _model(body)
    if name not in state.models:
        raise ApiError(404, "model_not_found", f"model '{name[:80]}' not found")
    entry, info = _entry(state, state.model), state.info
    licences = "\n".join(sorted({x["licence"] for x in info["licences"]}))
    return Json(
        {
            "license": licences,
            "modelfile": "",
            "parameters": "",
            "template": "",
            "details": entry["details"],
            "model_info": {"general.architecture": "faceinsight", "faceinsight.context_length": info["context"]},
            "capabilities": ["completion", "vision"],
            "modified_at": entry["modified_at"],
        }
    )


async def refuse(request: Request) -> Response:
    """What changes models: refused, there is one bundle and no network."""
    raise ApiError(403, "forbidden", "This server has one bundle and no network: models are not changed through it.")


async def chat(request: Request) -> Response:
    """POST /api/chat: an answer to the last message."""
    state: State = request.app.state.server
    body = await read_json(request)
    messages = body.get("messages")
    require(messages is None or isinstance(messages, list), "invalid_value", "messages: expected a list.")
    reply = Reply(state, body, "message")
    if not messages:
        return _loaded(reply, body)
    return await _answered(request, reply, _openai(body, [_message(m) for m in messages]))


async def generate(request: Request) -> Response:
    """POST /api/generate: an answer to a prompt."""
    state: State = request.app.state.server
    body = await read_json(request)
    prompt, images = body.get("prompt") or "", body.get("images")
    require(isinstance(prompt, str), "invalid_value", "prompt: expected a string.")
    reply = Reply(state, body, "response")
    if not prompt and not images:
        return _loaded(reply, body)
    message = _message({"role": "user", "content": prompt, "images": images})
    system = [{"role": "system", "content": body["system"]}] if body.get("system") else []
    return await _answered(request, reply, _openai(body, [*system, message]))


class Reply:
    """One answer in Ollama's shapes."""

    def __init__(self, state: State, body: Mapping[str, Any], field: str) -> None:
        """body: of the request, whose name of the model is given back; field: "message" of a chat or "response"."""
        self.state, self._model, self._field = state, body.get("model"), field
        self._began = time.monotonic()

    def part(self, text: str, **more: Any) -> dict[str, Any]:
        """A part of the answer's text."""
        value = {"role": "assistant", "content": text} if self._field == "message" else text
        now = datetime.now(timezone.utc).isoformat().replace("+00:00", "Z")
        return {"model": self._model, "created_at": now, self._field: value, "done": False, **more}

    def last(self, request: Request, chat: ChatRequest, done: Mapping[str, Any], text: str) -> dict[str, Any]:
        """The end of it; text: what was not sent yet."""
        self.state.count(request, done)
        usage, first, total = done["usage"], done.get("first_token_ms", 0.0), done.get("total_ms", 0.0)
        reason = "length" if finish_reason(done) == "length" else "stop"
        return self.part(
            text,
            done=True,
            done_reason=reason,
            total_duration=int((time.monotonic() - self._began) * 1e9),
            load_duration=0,
            prompt_eval_count=usage["prompt_tokens"],
            prompt_eval_duration=int(first * 1e6),
            eval_count=usage["completion_tokens"],
            eval_duration=int(max(0.0, total - first) * 1e6),
            faceinsight=findings(chat, done),
        )

    async def chunks(
        self, request: Request, chat: ChatRequest, events: AsyncIterator[Mapping[str, Any]]
    ) -> AsyncGenerator[bytes, None]:
        """Events as lines."""
        async for event in events:
            if event["event"] == "chunk":
                yield ndjson(self.part(event["text"]))
            else:
                yield ndjson(self.last(request, chat, event, ""))


async def _answered(request: Request, reply: Reply, body: dict[str, Any]) -> Response:
    state = reply.state
    asked = parse(body, state.models)
    state.note(request, images=asked.images, question=asked.question)
    events = _unrefused(events_of(state, request, asked))
    if asked.stream:
        return await stream(request, events, lambda rest: reply.chunks(request, asked, rest), ndjson)

    done = await unless_gone(request, last_of(events))
    return Json(reply.last(request, asked, done, done["text"]))


async def _unrefused(events: AsyncGenerator[dict[str, Any], None]) -> AsyncGenerator[dict[str, Any], None]:
    """Ollama knows no refusal beside the answer: what no JSON of the wanted shape can say is an error."""
    try:
        async for event in events:
            if event["event"] == "refusal":
                raise ApiError(422, "refused", event["text"])
            yield event
    finally:
        await events.aclose()


def _loaded(reply: Reply, body: Mapping[str, Any]) -> Response:
    """A request without words asks for a model to be loaded, or to leave the memory: it is there, and stays."""
    name = _model(body)
    if name not in reply.state.models:
        raise ApiError(404, "model_not_found", f"model '{name[:80]}' not found")
    reason = "unload" if body.get("keep_alive") in (0, "0", "0s") else "load"
    return Json(reply.part("", done=True, done_reason=reason))


def _openai(body: Mapping[str, Any], messages: list[dict[str, Any]]) -> dict[str, Any]:
    """A request to Ollama as one of OpenAI's, so that one place checks both. Raises ApiError."""
    options = body.get("options") or {}
    require(isinstance(options, dict), "invalid_value", "options: expected an object.")
    out = {name: options[name] for name in _OPTIONS if name in options}
    limit = options.get("num_predict")
    if limit not in (None, -1, -2):
        out["max_tokens"] = limit
    shape = body.get("format")
    if shape == "json":
        out["response_format"] = {"type": "json_object"}
    elif isinstance(shape, dict):
        out["response_format"] = {"type": "json_schema", "json_schema": {"schema": shape}}
    elif shape:
        raise bad_request("invalid_value", 'format: expected "json" or a JSON schema.')
    streams = body.get("stream")
    return out | {
        "model": _model(body),
        "messages": messages,
        "stream": True if streams is None else streams,
        "tools": body.get("tools"),
    }


def _message(message: Any) -> dict[str, Any]:
    """One of Ollama's messages as one of OpenAI's: its pictures are base64 without a word before it."""
    require(isinstance(message, dict), "invalid_value", "messages: expected objects.")
    text, images = message.get("content") or "", message.get("images") or []
    require(isinstance(text, str), "invalid_value", "content: expected a string.")
    fits = isinstance(images, list) and all(isinstance(image, str) for image in images)
    require(fits, "invalid_value", "images: expected a list of pictures in base64.")
    uris = [image if image.startswith("data:") else f"data:image/jpeg;base64,{image}" for image in images]
    parts = [{"type": "image_url", "image_url": uri} for uri in uris]
    if images:
        text = _PLACE.sub("", text)
    return {"role": message.get("role"), "content": [{"type": "text", "text": text}, *parts]}


def _model(body: Mapping[str, Any]) -> str:
    """The model's name without the tag that every model has. Raises ApiError."""
    name = body.get("model") or body.get("name")
    if not isinstance(name, str):
        raise bad_request("missing_field", "model: expected a string.")
    return name.removesuffix(_TAG)


def _entry(state: State, name: str) -> dict[str, Any]:
    info = state.info
    details = {"parent_model": "", "format": "gguf", "family": "faceinsight", "families": ["faceinsight"]}
    return {
        "name": name + _TAG,
        "model": name + _TAG,
        "modified_at": info["created"],
        "size": info["bytes"],
        "digest": info["bundle_sha256"],
        "details": {**details, "parameter_size": "", "quantization_level": ""},
    }
