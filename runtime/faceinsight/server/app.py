"""The routes, and the door in front of them: what every request passes."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .._version import __version__
from .api import audience, camera, chat, faces, ollama, openapi, page, status
from .errors import ApiError, internal, shutting_down, where
from .security import OPEN_PATHS, Gate
from .state import State
from .web import Json, error_response

log = logging.getLogger(__name__)


async def document(request: Request) -> Response:
    """GET /openapi.json: these paths, and what they read."""
    state: State = request.app.state.server
    return Json(openapi.describe(ROUTES, __version__, state.models if state.supervisor.info else ()))


#: Methods, path and endpoint.
ROUTES: tuple[tuple[str, str, Callable[..., Any]], ...] = (
    ("GET", "/livez", status.livez),
    ("GET", "/readyz", status.readyz),
    ("GET", "/health", status.health),
    ("GET", "/version", status.version),
    ("GET", "/metrics", status.metrics),
    ("GET", "/openapi.json", document),
    ("GET", "/", page.root),
    ("GET", "/demo", page.demo),
    ("GET", "/static/{name}", page.static),
    ("GET", "/v1/page", page.words),
    ("POST", "/v1/login", page.login),
    ("GET", "/v1/models", status.models),
    ("GET", "/v1/models/{id:path}", status.model),
    ("GET", "/v1/report/schema", status.report_schema),
    ("GET", "/v1/privacy", status.privacy),
    ("POST", "/v1/chat/completions", chat.completions),
    ("POST", "/v1/faces", faces.faces),
    ("DELETE", "/v1/faces", faces.forget_all),
    ("DELETE", "/v1/faces/{id}", faces.forget),
    ("POST", "/v1/faces/{id}/ask", faces.ask),
    ("POST", "/v1/faces/{id}/choose", faces.choose),
    ("GET", "/v1/camera", camera.status),
    ("POST", "/v1/camera", camera.switch),
    ("GET", "/v1/camera/events", camera.events),
    ("POST", "/v1/camera/ask", camera.ask),
    ("GET", "/v1/consent", camera.consent),
    ("POST", "/v1/consent", camera.agree),
    ("DELETE", "/v1/consent", camera.withdraw),
    ("GET", "/v1/audience", audience.figures),
    ("POST", "/v1/content", audience.content),
    ("GET", "/api/version", ollama.version),
    ("GET", "/api/tags", ollama.tags),
    ("GET", "/api/ps", ollama.running),
    ("POST", "/api/show", ollama.show),
    ("POST", "/api/chat", ollama.chat),
    ("POST", "/api/generate", ollama.generate),
    *(("POST DELETE", f"/api/{name}", partial(ollama.refuse)) for name in ollama.REFUSED),
)

_TEMPLATES: dict[Any, str] = {endpoint: path for _, path, endpoint in ROUTES}
#: Bytes of all headers.
MAX_HEADERS = 16_000
#: Status of a request whose client went away, as nginx logs it; nobody receives it.
GONE = 499
_CODES = {404: "unknown_path", 405: "method_not_allowed"}


def build(state: State, gate: Gate) -> Door:
    """The whole application."""
    app = Starlette(
        routes=[Route(path, endpoint, methods=method.split()) for method, path, endpoint in ROUTES],
        exception_handlers={
            ApiError: _api_error,
            HTTPException: _http_error,
            ClientDisconnect: _gone,
            Exception: _unexpected,
        },
    )
    app.state.server = state
    return Door(app, state, gate)


class Door:
    """In front of the routes: Host, Origin and token, metrics, one line of log a request.

    Attributes:
        draining: is the server about to end? New requests are turned away.
        active: requests under way.
        gate: who is answered.
    """

    def __init__(self, app: ASGIApp, state: State, gate: Gate) -> None:
        """Before these routes."""
        self.draining, self.active = False, 0
        self.gate = gate
        self._app, self._state = app, state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            return
        scope["notes"], scope["held"], scope["gate"] = [], 0, self.gate
        began, code = time.monotonic(), 0

        async def counted(message: Message) -> None:
            nonlocal code
            if message["type"] == "http.response.start":
                code = message["status"]
                message["headers"] = [*message["headers"], (b"x-content-type-options", b"nosniff")]
                if self.draining:
                    message["headers"].append((b"connection", b"close"))
            await send(message)

        self.active += 1
        try:
            self._check(scope)
            await self._app(scope, receive, counted)
        except ApiError as e:
            self._state.metrics.rejected.labels(e.code).inc()
            await error_response(e, scope["path"])(scope, receive, counted)
        except Exception:  # noqa: BLE001 -- answered and logged by `_unexpected`
            code = code or 500
        finally:
            self.active -= 1
            self._state.held -= scope["held"]
            self._finished(scope, code or GONE, time.monotonic() - began)

    def _check(self, scope: Scope) -> None:
        request = Request(scope)
        if sum(len(name) + len(value) + 4 for name, value in scope["headers"]) > MAX_HEADERS:
            raise ApiError(431, "headers_too_large", f"The headers have more than {MAX_HEADERS:,} bytes.")
        if self.draining and scope["path"] not in OPEN_PATHS:
            raise shutting_down()
        self.gate.check(scope["path"], request.headers)

    def _finished(self, scope: Scope, code: int, seconds: float) -> None:
        route = _TEMPLATES.get(scope.get("endpoint"), "other")
        self._state.metrics.requests.labels(route, str(code)).inc()
        self._state.metrics.duration.labels(route).observe(seconds)
        if code in (429, 503) and "endpoint" in scope:
            self._state.metrics.rejected.labels("queue_full" if code == 429 else "unavailable").inc()
        method = scope["method"] if scope["method"] in ("GET", "HEAD", "POST", "DELETE") else "OTHER"
        # Those who ask again and again whether all is well fill no log.
        level = logging.DEBUG if code == 200 and scope["path"] in OPEN_PATHS else logging.INFO
        log.log(level, "%s", " ".join([method, route, str(code), f"{seconds * 1e3:.1f} ms", *scope["notes"]]))


async def _api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    request.scope["notes"] += [*(f"sha256 {image}" for image in error.images), error.code]
    return error_response(error, request.url.path)


async def _http_error(request: Request, error: Exception) -> Response:
    """No such path, or not with this method."""
    assert isinstance(error, HTTPException)
    code = _CODES.get(error.status_code, "invalid_value")
    text = "There is no such path here; chat is POST /v1/chat/completions, pictures go to POST /v1/faces."
    if error.status_code == 405:
        text = "This path has another method."
    return error_response(ApiError(error.status_code, code, text), request.url.path)


async def _gone(request: Request, error: Exception) -> Response:
    request.scope["notes"].append("client gone")
    return Response(status_code=GONE)


async def _unexpected(request: Request, error: Exception) -> Response:
    """A fault of ours: the log has where, the client a number."""
    number = secrets.token_hex(4)
    log.error("error %s: %s at %s", number, type(error).__name__, where(error))
    return error_response(internal(number), request.url.path)
