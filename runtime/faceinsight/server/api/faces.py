"""The native API: faces of a picture with ids, questions about them, wiping."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from ..errors import ApiError, bad_request
from ..framing import sse
from ..lane import SERVER
from ..state import State
from ..web import Json, parse_json, read_body, read_json, stream, unless_gone
from .schemas import (
    MAX_CHOICES,
    AskBody,
    Asked,
    ChooseBody,
    FacesBody,
    clean,
    data_uri,
    decoded,
    require,
    tokens,
)

IMAGES = ("image/jpeg", "image/jpg", "image/png", "image/webp", "application/octet-stream")


async def faces(request: Request) -> Response:
    """POST /v1/faces: a picture -> a report of each face; ?parsing=1 adds where its parts lie."""
    state: State = request.app.state.server
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    body = await read_body(request)
    asked = request.query_params.get("labels")
    labels = None if asked is None else [x for x in asked.split(",") if x]
    if kind in IMAGES:
        image = body
        require(bool(image), "missing_field", "The body is empty: send a picture.")
    elif kind == "application/json":
        given = decoded(FacesBody, parse_json(body))
        image = data_uri(given.image, "image")
        labels = list(given.labels) if given.labels is not None else labels
    else:
        raise ApiError(415, "unsupported_media_type", f"Expected {', '.join(IMAGES[:4])} or application/json.")
    state.note(request, images=(image,))
    fields = {"labels": labels, "parsing": request.query_params.get("parsing") == "1"}
    done = await unless_gone(request, state.call(request, "faces", fields, (image,)))
    bundle = {"name": state.info["bundle"], "sha256": state.info["bundle_sha256"]}
    return Json({name: done[name] for name in ("image", "faces", "timings")} | {"bundle": bundle})


async def ask(request: Request) -> Response:
    """POST /v1/faces/{id}/ask: a question about one face, or two."""
    body = decoded(AskBody, await read_json(request))
    faces = [request.path_params["id"], *([body.other] if body.other else [])]
    return await answer(request, "ask", body, {"faces": faces})


async def answer(request: Request, op: str, body: Asked, about: Mapping[str, Any]) -> Response:
    """The answer to a question, whole or as it comes. op, about: what the worker is to do it of."""
    state: State = request.app.state.server
    question = clean(body.question, "question").strip()
    require(bool(question), "missing_field", "question: it is empty.", "question")
    state.note(request, question=question)
    fields = {
        **about,
        "question": question,
        "after": None if body.after is None else clean(body.after, "after"),
        "max_tokens": tokens(body.max_tokens, "max_tokens"),
    }
    if body.stream:
        return await stream(request, state.events(request, op, fields), lambda e: _chunks(state, request, e))
    done = await unless_gone(request, state.call(request, op, fields))
    return Json(_answer(done))


async def _chunks(
    state: State, request: Request, events: AsyncIterator[Mapping[str, Any]]
) -> AsyncGenerator[bytes, None]:
    """The text as it comes, and the whole answer, as server-sent events."""
    async for event in events:
        if event["event"] == "chunk":
            yield sse({"text": event["text"]})
        else:
            state.count(request, event)
            yield sse({"answer": _answer(event)})


def _answer(done: Mapping[str, Any]) -> dict[str, Any]:
    """An answer in the native API's shape."""
    names = ("text", "labels", "confidence", "evidence", "outcome", "reason", "rules", "faces", "usage", "timings")
    now = {name: done[name] for name in ("tracks", "age_ms") if name in done}
    return {"finish_reason": done["finish"]} | {name: done[name] for name in names} | now


async def choose(request: Request) -> Response:
    """POST /v1/faces/{id}/choose: how the LLM chooses between given answers."""
    state: State = request.app.state.server
    body = decoded(ChooseBody, await read_json(request))
    for name, texts in (("questions", body.questions), ("answers", body.answers)):
        if not 1 <= len(texts) <= MAX_CHOICES:
            raise bad_request("too_many", f"{name}: expected 1 to {MAX_CHOICES}.", name)
    fields = {
        "faces": [request.path_params["id"]],
        "questions": [clean(q, "questions") for q in body.questions],
        "answers": [clean(a, "answers") for a in body.answers],
    }
    done = await unless_gone(request, state.call(request, "choose", fields))
    return Json({"choices": done["choices"], "timings": done["timings"]})


async def forget(request: Request) -> Response:
    """DELETE /v1/faces/{id}: wipe a face, and the others of its picture."""
    return await _forget(request, request.path_params["id"])


async def forget_all(request: Request) -> Response:
    """DELETE /v1/faces: wipe all that is held."""
    return await _forget(request, None)


async def _forget(request: Request, face_id: str | None) -> Response:
    state: State = request.app.state.server
    # Before all others, and never turned away: whoever wants to be forgotten does not wait.
    done = await unless_gone(request, state.call(request, "forget", {"face": face_id}, rank=SERVER))
    return Json({"wiped": done["wiped"]})
