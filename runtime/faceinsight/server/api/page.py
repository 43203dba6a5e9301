"""The page for the public, the page to try it, and what they ask the server first."""

from __future__ import annotations

import hashlib
import mimetypes
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from ..errors import ApiError
from ..page.words import Facts, page
from ..security import COOKIE, Gate, LoginBody
from ..state import State
from ..web import Json, read_json
from .schemas import decoded

FOLDER = Path(__file__).parents[1] / "page" / "static"
#: Nothing but what this server gives; pictures of the page's are blobs. Of the browser's devices only those it uses.
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "media-src blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "permissions-policy": "camera=(self), microphone=(self), geolocation=(), display-capture=(), usb=(), serial=()",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-cache",
}


def _files() -> dict[str, tuple[bytes, str, str]]:
    """Name -> content, media type and tag of each file: read once, a kilobyte each."""
    found = {}
    for path in sorted(FOLDER.iterdir()):
        data = path.read_bytes()
        kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        found[path.name] = data, kind, f'"{hashlib.sha256(data).hexdigest()[:16]}"'
    return found


FILES = _files()


async def root(request: Request) -> Response:
    """GET /: the page for the public, or where there is no camera the one to try it."""
    state: State = request.app.state.server
    return _file(request, "kiosk.html" if state.camera else "demo.html")


async def demo(request: Request) -> Response:
    """GET /demo: the page to try it, with a photo or the browser's own camera."""
    return _file(request, "demo.html")


async def static(request: Request) -> Response:
    """GET /static/{name}: a part of the pages."""
    return _file(request, request.path_params["name"])


async def words(request: Request) -> Response:
    """GET /v1/page: what the pages say in every language, and how they behave."""
    state: State = request.app.state.server
    facts = notice_facts(state)
    camera = state.camera
    return Json(
        {
            "languages": {code: page(text, facts) for code, text in state.words.items()},
            "asks": camera is not None and camera.consent.asked,
            "seconds": camera.consent.seconds if camera else 0,
            "camera": camera is not None,
            "classes": state.info["classes"],
            "regions": state.info["regions"],
        }
    )


async def login(request: Request) -> Response:
    """POST /v1/login: the token as a cookie, for a browser's streams, which cannot send it as a header."""
    gate: Gate = request.scope["gate"]
    body = decoded(LoginBody, await read_json(request))
    if not gate.is_token(body.token):
        raise ApiError(401, "invalid_api_key", "The token is wrong.")
    response = Json({"status": "ok"})
    secure = request.url.scheme == "https"
    response.set_cookie(COOKIE, gate.cookie, httponly=True, samesite="strict", secure=secure, path="/")
    return response


def notice_facts(state: State) -> Facts:
    """What is switched on here."""
    camera, audience = state.camera, state.audience
    return Facts(
        state.info["characteristics"],
        asks=camera is not None and camera.consent.asked,
        seconds=camera.consent.seconds if camera else 0,
        counted=(audience.least, round(audience.window / 60)) if audience else None,
        sent=any(name in state.outlets for name in ("mqtt", "webhook")),
        operator=state.operator,
    )


def _file(request: Request, name: str) -> Response:
    if name not in FILES:
        raise ApiError(404, "unknown_path", "There is no such file here.")
    data, kind, tag = FILES[name]
    headers: dict[str, Any] = HEADERS | {"etag": tag}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return Response(data, media_type=kind, headers=headers)
