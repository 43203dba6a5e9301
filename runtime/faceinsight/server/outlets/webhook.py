"""Closed audience windows as POST requests to one address."""

from __future__ import annotations

import http.client
import json
import logging
import ssl
from collections.abc import Mapping
from typing import Any
from urllib.parse import SplitResult, urlsplit

from ..._version import __version__
from ...errors import RequestError
from ..metrics import Metrics
from .channel import Channel, Rejected

log = logging.getLogger(__name__)

#: Seconds that a connection, and each part of an answer, may take.
TIMEOUT = 5.0
#: Statuses after which the same request may work, as all from 500 on; and how many of them a message may be given.
_AGAIN, _TRIES = (408, 425, 429), 10


class Webhook:
    """POSTs `{"device": name, "window": {...}}` for each window, in order, again where nobody answers."""

    def __init__(self, url: str, *, name: str, token: str | None, metrics: Metrics) -> None:
        """Raises RequestError where the URL or the token does not fit. token: sent as a bearer token."""
        self._url = _parse(url)
        if token is not None and not (token.isascii() and token.isprintable()):
            raise RequestError("--webhook-token-file: expected printable ASCII characters")
        if token is not None and self._url.scheme == "http" and self._url.hostname not in ("localhost", "127.0.0.1"):
            log.warning("webhook: the token is sent over http, which others on the network can read")
        self._name, self._refusals = name, 0
        self._headers = {"content-type": "application/json", "user-agent": f"faceinsight/{__version__}"}
        self._headers |= {"authorization": f"Bearer {token}"} if token else {}
        self._channel = Channel("webhook", self._post, metrics)

    def window(self, window: Mapping[str, Any]) -> None:
        """A request."""
        self._channel.put(json.dumps({"device": self._name, "window": window}).encode())

    def state(self, state: Mapping[str, Any]) -> None:
        """Is not sent: it would push windows out of the queue where nobody answers."""

    async def close(self) -> None:
        """Send what waits."""
        await self._channel.close()

    def _post(self, body: bytes) -> None:
        """Raises OSError where it may work later, Rejected where it will not. Redirects are not followed."""
        url = self._url
        port = url.port or (443 if url.scheme == "https" else 80)
        host = str(url.hostname)
        connection = (
            http.client.HTTPSConnection(host, port, timeout=TIMEOUT, context=ssl.create_default_context())
            if url.scheme == "https"
            else http.client.HTTPConnection(host, port, timeout=TIMEOUT)
        )
        try:
            connection.request("POST", (url.path or "/") + (f"?{url.query}" if url.query else ""), body, self._headers)
            status = connection.getresponse().status
        except http.client.HTTPException as e:
            raise OSError(f"no HTTP answer ({type(e).__name__})") from None
        finally:
            connection.close()
        if status in _AGAIN or status >= 500:
            self._refusals += 1
            if self._refusals < _TRIES:
                raise OSError(f"answered with {status}")
        self._refusals = 0
        if not 200 <= status < 300:
            raise Rejected(f"answered with {status}")


def _parse(text: str) -> SplitResult:
    expected = "expected http://host[:port]/path or https://..., without a user or password (--webhook-token-file)"
    try:
        url = urlsplit(text)
        fits = url.scheme in ("http", "https") and url.hostname and "@" not in url.netloc and (url.port or 1) > 0
    except ValueError:
        fits = False
    if not fits or not text.isascii() or not text.isprintable() or " " in text:
        # The address itself may hold a secret.
        raise RequestError(f"--webhook: {expected}")
    return url
