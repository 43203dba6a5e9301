"""POST /v1/chat/completions: OpenAI's chat over the faces of a picture."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from ..framing import sse
from ..state import State
from ..web import Json, last_of, read_json, stream, unless_gone
from .chat_request import ChatRequest, parse

NO_IMAGE = "Send a picture of a face."
#: How an answer ended -> OpenAI's word for it; "stop" for all others.
_FINISH_REASONS = {"length": "length", "withheld": "content_filter"}


async def completions(request: Request) -> Response:
    """Answer the last question about the newest picture."""
    state: State = request.app.state.server
    chat = parse(await read_json(request), state.models)
    reply = Reply(state, chat)
    state.note(request, images=chat.images, question=chat.question)
    events = events_of(state, request, chat)
    if chat.stream:
        return await stream(request, events, lambda rest: reply.chunks(request, rest))

    done = await unless_gone(request, last_of(events))
    return Json(reply.whole(request, done))


def events_of(state: State, request: Request, chat: ChatRequest) -> AsyncGenerator[dict[str, Any], None]:
    """What the worker says to it."""
    if not chat.images:
        return _without_image(chat)
    fields = {
        "question": chat.question,
        "after": chat.after,
        "face": chat.face,
        "labels": chat.labels,
        "max_tokens": chat.max_tokens,
        "stop": chat.stop,
        "schema": chat.schema,
    }
    return state.events(request, "chat", fields, chat.images)


async def _without_image(chat: ChatRequest) -> AsyncGenerator[dict[str, Any], None]:
    """Clients ask without a picture when they are set up, or want a title for the chat: that is no error."""
    yield {"event": "refusal" if chat.schema else "chunk", "text": NO_IMAGE}
    yield {
        "event": "done",
        "finish": "no_image",
        "text": None if chat.schema else NO_IMAGE,
        "refusal": NO_IMAGE if chat.schema else None,
        "usage": {"prompt_tokens": 0, "completion_tokens": 0, "cached_tokens": 0, "image_tokens": 0},
        "logprobs": None,
        "ignored": [],
    }


class Reply:
    """One answer in OpenAI's shapes."""

    def __init__(self, state: State, chat: ChatRequest) -> None:
        """To this request."""
        self._state, self._chat = state, chat
        info = state.info
        self._head = {
            "id": f"chatcmpl-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": state.model,
            "system_fingerprint": f"fi-{state.version}-{info['bundle_sha256'][:12]}",
        }

    def whole(self, request: Request, done: Mapping[str, Any]) -> dict[str, Any]:
        """The whole answer."""
        self._state.count(request, done)
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": done["text"], "refusal": done.get("refusal")},
            "logprobs": self._logprobs(done),
            "finish_reason": finish_reason(done),
        }
        head = {**self._head, "object": "chat.completion"}
        return {**head, "choices": [choice], "usage": _usage(done), "faceinsight": findings(self._chat, done)}

    async def chunks(self, request: Request, events: AsyncIterator[Mapping[str, Any]]) -> AsyncGenerator[bytes, None]:
        """The same as server-sent events."""
        yield self._chunk({"role": "assistant", "content": ""})
        async for event in events:
            if event["event"] == "chunk":
                yield self._chunk({"content": event["text"]})
                continue
            if event["event"] == "refusal":
                yield self._chunk({"refusal": event["text"]})
                continue
            self._state.count(request, event)
            yield self._chunk({}, finish_reason(event), faceinsight=findings(self._chat, event))
            if self._chat.include_usage:
                head = {**self._head, "object": "chat.completion.chunk"}
                yield sse({**head, "choices": [], "usage": _usage(event)})
            yield sse("[DONE]")

    def _chunk(self, delta: dict[str, Any], ended: str | None = None, **more: Any) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": ended}
        usage = {"usage": None} if self._chat.include_usage else {}
        return sse({**self._head, "object": "chat.completion.chunk", "choices": [choice], **usage, **more})

    def _logprobs(self, done: Mapping[str, Any]) -> dict[str, Any] | None:
        """Of the tokens, where they are what the text says: decoding is greedy, so each is the likeliest one; of others
        the worker does not say."""
        if not self._chat.logprobs or not done["logprobs"]:
            return None
        if "".join(x["token"] for x in done["logprobs"]).rstrip() != done["text"]:
            return None
        content = []
        for item in done["logprobs"]:
            entry = {**item, "bytes": list(item["token"].encode())}
            content.append(entry | {"top_logprobs": [entry] if self._chat.top_logprobs else []})
        return {"content": content, "refusal": None}


def findings(chat: ChatRequest, done: Mapping[str, Any]) -> dict[str, Any]:
    """Our own field in an answer: what it rests on."""
    names = ("finish", "outcome", "reason", "labels", "evidence", "confidence", "rules", "timings")
    faces = done.get("faces") or [None]
    out = {name: done[name] for name in names if name in done}
    return out | {"face": faces[0], "faces": faces if faces[0] else [], "ignored": [*chat.ignored, *done["ignored"]]}


def finish_reason(done: Mapping[str, Any]) -> str:
    """How it ended, in OpenAI's words."""
    return _FINISH_REASONS.get(done["finish"], "stop")


def _usage(done: Mapping[str, Any]) -> dict[str, Any]:
    usage = done["usage"]
    total = usage["prompt_tokens"] + usage["completion_tokens"]
    details = {"cached_tokens": usage["cached_tokens"], "image_tokens": usage["image_tokens"]}
    return {
        "prompt_tokens": usage["prompt_tokens"],
        "completion_tokens": usage["completion_tokens"],
        "total_tokens": total,
        "prompt_tokens_details": details,
    }
