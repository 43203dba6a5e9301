"""A server's life: its socket, its signals, its end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import uvicorn

from ..errors import RequestError
from .app import Door, build
from .metrics import Metrics
from .options import Options
from .security import gate
from .state import State
from .supervisor import Supervisor

log = logging.getLogger(__name__)

#: Seconds that requests under way have when the server ends, and then their connections.
GRACE, CLOSING = 2.5, 1
#: Options that are the worker's.
LOADING = ("bundle", "device", "allow", "deny", "threads", "forget_after")
#: Seconds that a connection may be without a whole request; how many connections there may be.
IDLE, CONNECTIONS = 30.0, 256


class _Http(uvicorn.Server):
    """Uvicorn, whose signals are ours."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave them alone."""
        yield


def run(options: Options) -> int:
    """Serve until a signal. Returns an exit code: 0 after SIGTERM, 130 after Ctrl-C, 1 where it could not start.

    Raises RequestError where the options do not fit this machine.
    """
    logging.getLogger("faceinsight.server").setLevel(logging.INFO)
    for name in ("uvicorn.error", "uvicorn.access"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    token_file = Path(options.token_file) if options.token_file else None
    who = gate(options.host, options.hostname, token_file, unix=options.unix is not None)
    listener, url = _listen(options)
    try:
        return asyncio.run(_serve(options, who, listener, url))
    finally:
        listener.close()
        if options.unix:
            Path(options.unix).unlink(missing_ok=True)


async def _serve(options: Options, who: Any, listener: socket.socket, url: str) -> int:
    metrics = Metrics()
    settings = {name: getattr(options, name) for name in LOADING}
    supervisor = Supervisor(settings, queue=options.queue, deadline=options.timeout, metrics=metrics)
    state = State(supervisor, metrics, options.alias, options.forget_after, options.log_content)
    door = build(state, who)
    http = _Http(
        uvicorn.Config(
            door,
            http="h11",
            ws="none",
            loop="asyncio",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=CONNECTIONS,
            timeout_keep_alive=int(IDLE),
            timeout_graceful_shutdown=CLOSING,
        )
    )
    asked = asyncio.Event()
    code = 0

    def on_signal(number: int) -> None:
        nonlocal code
        if asked.is_set():
            supervisor.kill_now()
            os._exit(128 + number)
        code = 130 if number == signal.SIGINT else 0
        asked.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal, number)
    supervisor.start()
    tasks: dict[str, asyncio.Task[Any]] = {
        "http": loop.create_task(http.serve(sockets=[listener])),
        "asked": loop.create_task(asked.wait()),
        "failed": loop.create_task(supervisor.wait_failed()),
        "idle": loop.create_task(_close_idle(http)),
    }
    sys.stdout.write(f"faceinsight serves {url}\n")
    sys.stdout.flush()
    await asyncio.wait(tasks.values(), return_when=asyncio.FIRST_COMPLETED)
    failure = tasks["failed"].result() if tasks["failed"].done() else None
    await _end(door, supervisor, http, tasks["http"], grace=0 if failure else GRACE)
    for task in tasks.values():
        task.cancel()
    await asyncio.wait(tasks.values())
    if failure:
        raise RequestError(failure)
    return code


async def _end(
    door: Door, supervisor: Supervisor, http: uvicorn.Server, task: asyncio.Task[None], *, grace: float
) -> None:
    """Turn new requests away, let those under way finish, then end them."""
    door.draining = True
    until = time.monotonic() + grace
    while door.active and time.monotonic() < until:
        await asyncio.sleep(0.02)
    supervisor.drop_all()
    http.should_exit = True
    await asyncio.wait((task,), timeout=CLOSING + 0.5)
    await supervisor.stop()


async def _close_idle(http: uvicorn.Server) -> None:
    """Close connections that send no whole request: uvicorn waits for one without limit."""
    idle: dict[Any, tuple[Any, float]] = {}
    while True:
        await asyncio.sleep(IDLE / 6)
        now, before = time.monotonic(), idle
        idle = {}
        for connection in list(http.server_state.connections):
            cycle = getattr(connection, "cycle", None)
            if cycle is not None and not cycle.response_complete:
                continue
            last, since = before.get(connection, (cycle, now))
            idle[connection] = (cycle, since if last is cycle else now)
            if now - idle[connection][1] > IDLE:
                transport = getattr(connection, "transport", None)
                if transport is not None:
                    transport.close()


def _listen(options: Options) -> tuple[socket.socket, str]:
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


if sys.platform == "win32":
    raise ImportError("the server needs a Unix system")
