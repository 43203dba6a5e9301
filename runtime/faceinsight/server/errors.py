"""What is answered where a request cannot be: OpenAI's error shape, from fixed lists of statuses and codes."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "unavailable_error",
}
#: Statuses after which the same request may work: the others are marked so that the OpenAI SDK does not retry them.
_RETRY = (408, 429, 503)


class ApiError(Exception):
    """A request that is answered with an error.

    Attributes:
        status: of HTTP.
        code: one word that programs can compare.
        param: the field of the request that is at fault.
        retry_after: seconds after which it may work; None: nobody knows, or it never will.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        param: str | None = None,
        retry_after: int | None = None,
        retry: bool | None = None,
        images: Sequence[str] = (),
    ) -> None:
        """message: one sentence for a person. retry: whether the same request may work; by default by its status.
        images: what the log calls the pictures of the request."""
        super().__init__(message)
        self.status, self.code, self.param, self.retry_after = status, code, param, retry_after
        self.images = images
        self._retry = status in _RETRY if retry is None else retry

    @property
    def body(self) -> dict[str, Any]:
        """The JSON of the answer."""
        kind = _TYPES.get(self.status, "invalid_request_error")
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}

    @property
    def headers(self) -> dict[str, str]:
        """What clients decide by whether and when to try again."""
        headers = {"x-should-retry": "true" if self._retry else "false", "cache-control": "no-store"}
        if self.retry_after is not None:
            headers["retry-after"] = str(self.retry_after)
        return headers


def bad_request(code: str, message: str, param: str | None = None) -> ApiError:
    """400: the request itself is wrong."""
    return ApiError(400, code, message, param=param)


def queue_full(wait: int) -> ApiError:
    """429: too many wait already."""
    return ApiError(429, "queue_full", f"Too many requests are waiting. Try again in {wait} s.", retry_after=wait)


def loading() -> ApiError:
    """503: the bundle is being loaded for the first time."""
    return ApiError(503, "loading", "Loading model", retry_after=1)


def worker_lost() -> ApiError:
    """503: the worker ended while it worked on this request."""
    return ApiError(503, "worker_lost", "The worker ended during this request; a new one is starting.", retry_after=2)


def degraded(wait: int) -> ApiError:
    """503: workers end again and again."""
    text = "The worker ended too often; the server waits before it starts another one."
    return ApiError(503, "degraded", text, retry_after=wait, retry=False)


def shutting_down() -> ApiError:
    """503: the server ends."""
    return ApiError(503, "shutting_down", "The server is shutting down.", retry_after=5)


def internal(number: str) -> ApiError:
    """500: a fault of this program. number: under which the log has it."""
    return ApiError(500, "internal", f"Something went wrong here; the log has it as {number}.", retry=False)


def where(error: BaseException) -> str:
    """The last three places that an error came through, for the log. Not its text: that may hold what was asked."""
    frames = traceback.extract_tb(error.__traceback__)[-3:]
    return " < ".join(f"{Path(f.filename).name}:{f.lineno}" for f in reversed(frames))
