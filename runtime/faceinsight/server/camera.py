"""The camera's paths: how it is, who is there, and questions about them now."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from .errors import ApiError
from .faces import answer
from .framing import sse
from .live import MAX_PREVIEW, LiveCamera
from .schemas import decoded, require, whole
from .state import State
from .web import Json, Stream, read_json

#: Milliseconds that the newest look at a person may be old, unless the request says otherwise; and at most.
MAX_AGE, LONGEST_AGE = 1000, 10_000


@dataclass(frozen=True, slots=True)
class SwitchBody:
    """POST /v1/camera."""

    enabled: bool


@dataclass(frozen=True, slots=True)
class AskNowBody:
    """POST /v1/camera/ask. track: of `people`; None: the nearest. max_age_ms: what counts as now."""

    question: str
    track: str | None = None
    after: str | None = None
    max_age_ms: int | None = None
    max_tokens: int | None = None
    stream: bool = False


async def status(request: Request) -> Response:
    """GET /v1/camera: whether frames come, and what is wrong."""
    return Json(_camera(request).status)


async def switch(request: Request) -> Response:
    """POST /v1/camera: switch it on or off; off, everybody is forgotten."""
    camera = _camera(request)
    if decoded(SwitchBody, await read_json(request)).enabled:
        camera.start()
    else:
        await camera.stop()
    return Json(camera.status)


async def events(request: Request) -> Response:
    """GET /v1/camera/events: who is there, comes and leaves, as server-sent events; ?preview=640 adds pictures."""
    camera = _camera(request)
    text = request.query_params.get("preview", "0")
    fits = text.isdigit() and int(text[:6]) <= MAX_PREVIEW
    require(fits, "invalid_value", f"preview: expected a width up to {MAX_PREVIEW}.", "preview")
    camera.require_place()
    return Stream(camera.listen(int(text)), sse)


async def ask(request: Request) -> Response:
    """POST /v1/camera/ask: a question about somebody who stands there now; 409 where nobody does."""
    _camera(request)
    body = decoded(AskNowBody, await read_json(request))
    age = whole(body.max_age_ms, "max_age_ms", 1, LONGEST_AGE) or MAX_AGE
    return await answer(request, "ask_now", body, {"track": body.track, "max_age": age / 1e3})


def _camera(request: Request) -> LiveCamera:
    state: State = request.app.state.server
    if state.camera is None:
        raise ApiError(404, "no_camera", "This server has no camera: --camera SOURCE gives it one.")
    return state.camera
