"""HTTP around the endpoints: bodies read within limits, clients that vanish, answers as a stream."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from .errors import ApiError, bad_request, queue_full
from .framing import Framing, sse
from .state import State

T = TypeVar("T")

#: Bytes of a body: a JPEG of 16 megapixels in base64, and slack. Seconds to send it. Depth of its JSON.
MAX_BODY, BODY_SECONDS, MAX_DEPTH = 24_000_000, 30.0, 32
#: Commas of a JSON body, which bound its parts: nobody else is answered while one is parsed, and that takes as long as
#: there are parts. Pictures are one string each.
MAX_COMMAS = 50_000
#: Bytes of all bodies that are held at a time: a crowd of clients must not fill the memory.
MAX_HELD = 128_000_000
#: Seconds between two comments that keep a stream alive.
PING = 15.0


class Json(Response):
    """An answer as JSON that no cache keeps."""

    media_type = "application/json"

    def __init__(self, content: Any, status_code: int = 200, headers: Mapping[str, str] | None = None) -> None:
        """Of plain values."""
        super().__init__(content, status_code, {"cache-control": "no-store", **(headers or {})})

    def render(self, content: Any) -> bytes:
        """As UTF-8."""
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode()


def error_response(error: ApiError, path: str) -> Json:
    """An error in the shape that clients of this path know."""
    return Json(_error_body(error, path), error.status, error.headers)


def _error_body(error: ApiError, path: str) -> dict[str, Any]:
    """Ollama's clients read {"error": "..."}, all others OpenAI's object."""
    return {"error": str(error)} if path.startswith("/api/") else error.body


async def read_body(request: Request) -> bytes:
    """All of it. Raises ApiError where it would be turned away anyway, is too large, or takes too long."""
    state: State = request.app.state.server
    state.admit(request)
    too_large = ApiError(413, "too_large", f"The body has more than {MAX_BODY:,} bytes.")
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length[:20]) > MAX_BODY:
        raise too_large
    parts: list[bytes] = []

    async def read() -> None:
        size = 0
        async for part in request.stream():
            size += len(part)
            if size > MAX_BODY:
                raise too_large
            state.held += len(part)
            request.scope["held"] += len(part)
            if state.held > MAX_HELD:
                raise queue_full(state.supervisor.lane.retry_after)
            parts.append(part)

    try:
        await asyncio.wait_for(read(), BODY_SECONDS)
    except asyncio.TimeoutError:
        raise ApiError(408, "timeout", f"The body did not come within {BODY_SECONDS:.0f} s.") from None
    return b"".join(parts)


async def read_json(request: Request) -> dict[str, Any]:
    """The body as a JSON object. Raises ApiError."""
    return parse_json(await read_body(request))


def parse_json(body: bytes) -> dict[str, Any]:
    """A JSON object of limited depth and number of parts, without NaN and infinity. Raises ApiError."""
    if body.count(b",") > MAX_COMMAS:
        raise bad_request("invalid_json", f"The JSON has more than {MAX_COMMAS:,} commas.")

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON")

    try:
        data = json.loads(body, parse_constant=refuse)
    except (ValueError, RecursionError):
        raise bad_request("invalid_json", "The body is not JSON.") from None
    if not isinstance(data, dict):
        raise bad_request("invalid_json", "The body is not a JSON object.")
    level: list[Any] = [data]
    for _ in range(MAX_DEPTH):
        below = [x for item in level for x in (item.values() if isinstance(item, dict) else item)]
        level = [x for x in below if isinstance(x, (dict, list))]
        if not level:
            return data
    raise bad_request("invalid_json", f"The JSON is nested more than {MAX_DEPTH} levels deep.")


async def unless_gone(request: Request, work: Awaitable[T]) -> T:
    """The result of the work, which is cancelled when the client goes away. Raises ClientDisconnect then.

    The body must have been read.
    """
    task = asyncio.ensure_future(work)
    if not await _ended_first(task, _disconnect(request.receive)):
        raise ClientDisconnect
    return task.result()


async def _ended_first(task: asyncio.Future[Any], *others: Awaitable[Any]) -> bool:
    """Did it end before any of the others? Whatever has not ended is cancelled."""
    futures = {task, *map(asyncio.ensure_future, others)}
    try:
        await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)
        return task.done()
    finally:
        left = {f for f in futures if not f.done()}
        for future in left:
            future.cancel()
        if left:
            await asyncio.wait(left)


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class Stream(Response):
    """A stream of parts. When the client goes away, what makes them is closed at once; what goes wrong is a last
    part."""

    def __init__(self, chunks: AsyncGenerator[bytes, None], framing: Framing) -> None:
        """chunks: whole parts."""
        headers = {"content-type": framing.media_type, "cache-control": "no-store", "x-accel-buffering": "no"}
        super().__init__(headers=headers)
        del self.headers["content-length"]
        self._chunks, self._framing = chunks, framing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send them."""
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        sending = asyncio.ensure_future(self._send(send, scope["path"]))
        if not await _ended_first(sending, _disconnect(receive), self._ping(send)):
            scope["notes"].append("client gone")
            return
        sending.result()
        await send({"type": "http.response.body", "body": b""})

    async def _send(self, send: Send, path: str) -> None:
        async with aclosing(self._chunks) as chunks:
            try:
                async for chunk in chunks:
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
            except ApiError as e:
                last = self._framing(_error_body(e, path))
                await send({"type": "http.response.body", "body": last, "more_body": True})

    async def _ping(self, send: Send) -> None:
        while True:
            await asyncio.sleep(PING)
            if self._framing.ping:
                await send({"type": "http.response.body", "body": self._framing.ping, "more_body": True})


async def stream(
    request: Request,
    events: AsyncGenerator[dict[str, Any], None],
    write: Callable[[AsyncIterator[dict[str, Any]]], AsyncGenerator[bytes, None]],
    framing: Framing = sse,
) -> Response:
    """A stream of events, once the first one is there: what fails before is an error with a status.

    Args:
        request: its client may go away meanwhile.
        events: of the worker.
        write: events to the bytes of the stream.
        framing: of these.
    """

    async def chunks() -> AsyncGenerator[bytes, None]:
        async with aclosing(events), aclosing(write(_chain(first, events))) as written:
            async for chunk in written:
                yield chunk

    try:
        first = await unless_gone(request, _next(events))
    except BaseException:
        await events.aclose()
        raise
    return Stream(chunks(), framing)


async def _next(events: AsyncIterator[T]) -> T:
    return await events.__anext__()


async def _chain(first: T, events: AsyncIterator[T]) -> AsyncIterator[T]:
    yield first
    async for event in events:
        yield event


async def last_of(events: AsyncIterator[T]) -> T:
    """The last one, of at least one."""
    last = await _next(events)
    async for event in events:
        last = event
    return last
