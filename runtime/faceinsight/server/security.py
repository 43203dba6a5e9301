"""Who may talk to the server: what a web page in the user's browser must not, and beyond this machine only who has the
token."""

from __future__ import annotations

import hmac
import ipaddress
import logging
import socket
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from starlette.requests import cookie_parser

from ..errors import RequestError
from .errors import ApiError

log = logging.getLogger(__name__)

_LOCAL = ("localhost", "127.0.0.1", "[::1]")
#: Paths that answer without a token: they say nothing but whether the server works.
OPEN_PATHS = ("/livez", "/readyz", "/health")
#: The pages, which hold nothing, and where a browser brings the token.
PAGES = ("/", "/demo", "/v1/login")
#: A browser's token: its streams cannot send headers.
COOKIE = "faceinsight"
#: Characters that a token has at least.
MIN_TOKEN = 16


@dataclass(frozen=True, slots=True)
class LoginBody:
    """POST /v1/login."""

    token: str


@dataclass(frozen=True, slots=True)
class Gate:
    """What a request must bring.

    Attributes:
        hosts: names by which the server may be called, in lower case; another one is a web page that has its name
            resolved to this machine (DNS rebinding).
        token: what clients must send; None where only this machine can reach the server.
    """

    hosts: tuple[str, ...]
    token: str | None

    def check(self, path: str, headers: Mapping[str, str]) -> None:
        """Raises ApiError for a request that must not be answered."""
        host = headers.get("host", "").lower()
        if _name(host) not in self.hosts:
            raise ApiError(403, "bad_host", "This server is not called by that name; --hostname adds one.")
        origin = headers.get("origin")
        if origin is not None and origin.lower() not in (f"http://{host}", f"https://{host}"):
            raise ApiError(403, "bad_origin", "Web pages of other origins are not answered.")
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            raise ApiError(403, "bad_origin", "Web pages of other sites are not answered.")
        if self.token is None or path in (*OPEN_PATHS, *PAGES) or path.startswith("/static/"):
            return
        kind, _, given = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and self.is_token(given.strip()):
            return
        cookies = cookie_parser(headers.get("cookie", ""))
        if not hmac.compare_digest(cookies.get(COOKIE, "").encode(), self.cookie.encode()):
            raise ApiError(401, "invalid_api_key", "The token is missing or wrong: Authorization: Bearer TOKEN.")

    def is_token(self, given: str) -> bool:
        """Is this the token?"""
        return self.token is None or hmac.compare_digest(given.encode(), self.token.encode())

    @property
    def cookie(self) -> str:
        """What a browser gets for the token: another token makes it worthless."""
        return hmac.new((self.token or "").encode(), b"faceinsight cookie", "sha256").hexdigest()


def _name(host: str) -> str:
    """A Host header without its port."""
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0]


def gate(host: str, names: Sequence[str], token_file: Path | None, *, unix: bool) -> Gate:
    """The gate of a server.

    Args:
        host: the address it listens at.
        names: further names that it may be called by.
        token_file: has the token.
        unix: it listens at a Unix socket, so only this machine reaches it.

    Raises:
        RequestError: it would be reachable from other machines without a token; or the token cannot be read.
    """
    local = unix or is_loopback(host)
    if not local and token_file is None:
        raise RequestError(
            f"--host {host} can be reached from other machines: give --token-file, or listen at 127.0.0.1"
        )
    bound = () if unix or host in ("0.0.0.0", "::", "") else (f"[{host}]" if ":" in host else host,)
    hosts = tuple(dict.fromkeys(n.lower() for n in (*_LOCAL, *bound, *names)))
    return Gate(hosts, _read_token(token_file) if token_file else None)


def is_loopback(host: str) -> bool:
    """Does every address of this name stay on this machine? Raises RequestError where it has none."""
    try:
        found = {info[4][0] for info in socket.getaddrinfo(host or "0.0.0.0", None, type=socket.SOCK_STREAM)}
    except (OSError, UnicodeError) as e:
        raise RequestError(f"--host {host}: {e}") from None
    return all(ipaddress.ip_address(str(address).partition("%")[0]).is_loopback for address in found)


def read_secret(option: str, path: Path) -> str:
    """What the file of an option says, without white space around it; warns where others can read it.

    Raises:
        RequestError: it cannot be read.
    """
    try:
        text = path.read_text().strip()
        others = stat.S_IMODE(path.stat().st_mode) & 0o077
    except (OSError, UnicodeDecodeError) as e:
        raise RequestError(f"{option} {path} cannot be read: {getattr(e, 'strerror', None) or e}") from None
    if others:
        log.warning("%s can be read by others on this machine: chmod 600", path)
    return text


def _read_token(path: Path) -> str:
    token = read_secret("--token-file", path)
    if len(token) < MIN_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise RequestError(f"--token-file {path}: expected at least {MIN_TOKEN} printable ASCII characters, no spaces")
    return token
