"""The socket that a server listens at: TCP, or a Unix socket in the file system."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from ..errors import RequestError
from .options import Options


def listen(options: Options) -> tuple[socket.socket, str]:
    """The socket, and the address that clients are given. Raises RequestError."""
    if options.unix:
        return _listen_unix(Path(options.unix)), f"unix:{options.unix}"
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            options.host, options.port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP
        )[0]
        # With the protocol named: only then asyncio sends small answers at once (TCP_NODELAY), not 40 ms later.
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(128)
    except OSError as e:
        raise RequestError(f"--host {options.host} --port {options.port}: {e.strerror or e}") from None
    host, port = listener.getsockname()[:2]
    return listener, f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"


def _listen_unix(path: Path) -> socket.socket:
    """At a path; what an earlier server left there is removed, what another one listens at is not."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.is_socket():
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                if probe.connect_ex(str(path)) == 0:
                    raise RequestError(f"--unix {path}: another server listens there")
            path.unlink()
        before = os.umask(0o117)
        try:
            listener.bind(str(path))
        finally:
            os.umask(before)
        listener.listen(128)
    except (OSError, RequestError) as e:
        listener.close()
        if isinstance(e, RequestError):
            raise
        raise RequestError(f"--unix {path}: {e.strerror or e}") from None
    return listener
