"""The audience's paths: its figures, and what is on the screen."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from ...errors import RequestError
from ..audience.figures import Audience
from ..errors import ApiError, bad_request
from ..state import State
from ..web import Json, read_json
from .schemas import decoded, require

#: Seconds of the figures, unless the request says otherwise.
HOUR = 3600


@dataclass(frozen=True, slots=True)
class ContentBody:
    """POST /v1/content. id: of what is on the screen, 1 to 64 letters, digits and the characters "._-"."""

    id: str


async def figures(request: Request) -> Response:
    """GET /v1/audience: figures of the closed windows of the last ?window=3600 seconds; ?format=csv for a table."""
    audience = _audience(request)
    text = request.query_params.get("window", str(max(HOUR, round(audience.window))))
    is_number = text.isascii() and text.isdigit() and len(text) < 10
    require(is_number, "invalid_value", "window: expected whole seconds.", "window")
    wanted = request.query_params.get("format", "csv" if "text/csv" in request.headers.get("accept", "") else "json")
    require(wanted in ("csv", "json"), "invalid_value", "format: expected csv or json.", "format")
    try:
        if wanted == "json":
            return Json(audience.report(int(text)))
        table = audience.csv(int(text))
    except RequestError as e:
        raise bad_request("invalid_value", f"{e}.", "window") from None
    return Response(table, media_type="text/csv", headers={"cache-control": "no-store"})


async def content(request: Request) -> Response:
    """POST /v1/content: what is on the screen from now on."""
    audience = _audience(request)
    name = decoded(ContentBody, await read_json(request)).id
    try:
        audience.set_content(name)
    except RequestError as e:
        raise bad_request("invalid_value", f"{e}.", "id") from None
    return Json({"id": name})


def _audience(request: Request) -> Audience:
    state: State = request.app.state.server
    if state.audience is None:
        raise ApiError(404, "no_audience", "Nobody is counted here: --camera SOURCE --audience does that.")
    return state.audience
