"""The camera's paths: how it is, who is there, and questions about them now."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from ..errors import ApiError
from ..framing import sse
from ..state import State
from ..watching.live import MAX_PREVIEW, LiveCamera
from ..web import Json, Stream, read_json
from .faces import answer
from .schemas import decoded, require, whole

#: Milliseconds that the newest look at a person may be old, unless the request says otherwise; and at most.
MAX_AGE, LONGEST_AGE = 1000, 10_000


@dataclass(frozen=True, slots=True)
class SwitchBody:
    """POST /v1/camera."""

    enabled: bool


@dataclass(frozen=True, slots=True)
class AskNowBody:
    """POST /v1/camera/ask.

    Attributes:
        question: in English; may say "the person on the left".
        track: of `people`; None: whom the question means, or the nearest.
        other: a second one, to compare.
        mirrored: is the picture shown as in a mirror?
        max_age_ms: what counts as now.
    """

    question: str
    track: str | None = None
    other: str | None = None
    mirrored: bool = False
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
        await camera.start()
    else:
        await camera.stop()
    return Json(camera.status)


async def consent(request: Request) -> Response:
    """GET /v1/consent: whether the people in front of the camera agreed, and for how long that holds."""
    return Json(_consent(_camera(request)))


async def agree(request: Request) -> Response:
    """POST /v1/consent: they agree, or agree still: the camera is read until that ends."""
    camera = _camera(request)
    await camera.agree()
    return Json(_consent(camera))


async def withdraw(request: Request) -> Response:
    """DELETE /v1/consent: they do not agree any more: no frame is read, and everything is forgotten."""
    camera = _camera(request)
    wiped = await camera.forget_all()
    return Json(_consent(camera) | {"wiped": wiped})


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
    if not _camera(request).consent.holds:
        raise ApiError(409, "consent_required", "Nobody in front of the camera has agreed yet.", retry=False)
    body = decoded(AskNowBody, await read_json(request))
    age = whole(body.max_age_ms, "max_age_ms", 1, LONGEST_AGE) or MAX_AGE
    require(body.track is not None or body.other is None, "missing_field", "other needs a track.", "track")
    tracks = [track for track in (body.track, body.other) if track is not None]
    about = {"tracks": tracks, "mirrored": body.mirrored, "max_age": age / 1e3}
    return await answer(request, "ask_now", body, about)


def _camera(request: Request) -> LiveCamera:
    state: State = request.app.state.server
    if state.camera is None:
        raise ApiError(404, "no_camera", "This server has no camera: --camera SOURCE gives it one.")
    return state.camera


def _consent(camera: LiveCamera) -> dict[str, Any]:
    consent = camera.consent
    return {"consent": consent.state, "seconds": consent.seconds, "left_s": round(consent.left, 1)}
