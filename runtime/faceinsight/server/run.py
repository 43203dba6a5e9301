"""A server's life: its signals, its reloads, its end."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import uvicorn

from ..errors import FaceInsightError, RequestError
from . import systemd
from .app import Door, build
from .audience.figures import Audience
from .errors import ApiError
from .listen import listen
from .metrics import Metrics
from .options import Options
from .outlets.gather import Outlets
from .page.words import load as load_words
from .security import Gate, gate
from .state import State
from .supervisor import Supervisor
from .watching.consent import Consent
from .watching.live import LiveCamera

log = logging.getLogger(__name__)

#: Seconds that requests under way have when the server ends, and then their connections.
GRACE, CLOSING = 2.5, 1
#: Options that are the worker's.
LOADING = ("bundle", "device", "allow", "deny", "threads", "forget_after")
#: Seconds that a connection may be without a whole request; how many connections there may be.
IDLE, CONNECTIONS = 30.0, 256
#: Options that a reload cannot change.
FIXED = (
    *("host", "port", "unix", "camera", "camera_size", "camera_fps", "consent", "consent_seconds", "kiosk", "words"),
    *("audience", "audience_window"),
    *("mqtt", "mqtt_name", "mqtt_password_file", "mqtt_ca_file", "webhook", "webhook_token_file", "window_log"),
)

if sys.platform == "win32":
    raise ImportError("the server needs a Unix system")


class _Http(uvicorn.Server):
    """Uvicorn, whose signals are ours."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave them alone."""
        yield


def run(options: Options, again: Callable[[], Options]) -> int:
    """Serve until a signal.

    Args:
        options: how.
        again: reads the options once more, for a reload.

    Returns:
        An exit code: 0 after SIGTERM, 130 after Ctrl-C, 1 where it could not start.

    Raises:
        RequestError: the options do not fit this machine.
    """
    logging.getLogger("faceinsight.server").setLevel(logging.INFO)
    for name in ("uvicorn.error", "uvicorn.access"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    import resource

    # A core dump would be a picture of what is asked.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    who = _gate(options)
    listener, url = listen(options)
    try:
        return asyncio.run(_serve(options, again, who, listener, url))
    finally:
        listener.close()
        if options.unix:
            Path(options.unix).unlink(missing_ok=True)


def _gate(options: Options) -> Gate:
    token_file = Path(options.token_file) if options.token_file else None
    return gate(options.host, options.hostname, token_file, unix=options.unix is not None)


def _settings(options: Options) -> dict[str, Any]:
    return {name: getattr(options, name) for name in LOADING} | {"kiosk": options.kiosk}


async def _serve(options: Options, again: Callable[[], Options], who: Gate, listener: socket.socket, url: str) -> int:
    metrics = Metrics()
    supervisor = Supervisor(_settings(options), queue=options.queue, deadline=options.timeout, metrics=metrics)
    state = State(supervisor, metrics, words=load_words(options.words))
    state.take(options)
    outlets = Outlets(options, state)
    if options.camera:
        width, height = map(int, options.camera_size.split("x"))
        consent = Consent(asked=options.asks_consent, seconds=options.consent_seconds)
        state.camera = LiveCamera(supervisor, metrics, options.camera, (width, height), options.camera_fps, consent)
        if options.audience:
            state.audience = Audience(lambda: supervisor.info, window=options.audience_window)
            state.camera.observers.append(state.audience.observe)
        await state.camera.start()
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
    asked, hangup = asyncio.Event(), asyncio.Event()
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
    loop.add_signal_handler(signal.SIGHUP, hangup.set)
    supervisor.start()
    tasks: dict[str, asyncio.Task[Any]] = {
        "http": loop.create_task(http.serve(sockets=[listener])),
        "asked": loop.create_task(asked.wait()),
        "failed": loop.create_task(supervisor.wait_failed()),
    }
    beside = [
        loop.create_task(_close_idle(http)),
        loop.create_task(_reload(hangup, options, again, door, state)),
        loop.create_task(systemd.report(supervisor)),
        loop.create_task(outlets.run()),
    ]
    sys.stdout.write(f"faceinsight serves {url}\n")
    sys.stdout.flush()
    await asyncio.wait(tasks.values(), return_when=asyncio.FIRST_COMPLETED)
    failure = tasks["failed"].result() if tasks["failed"].done() else None
    systemd.notify("STOPPING=1")
    if state.camera:
        state.camera.close()
        await state.camera.stop(forget=False)
    ending = _end(door, supervisor, http, tasks["http"], grace=0 if failure else GRACE)
    await asyncio.gather(outlets.close(), ending)
    for task in (*tasks.values(), *beside):
        task.cancel()
    await asyncio.wait((*tasks.values(), *beside))
    if failure:
        raise RequestError(failure)
    return code


async def _reload(
    hangup: asyncio.Event, options: Options, again: Callable[[], Options], door: Door, state: State
) -> None:
    """At each SIGHUP, read options, token and bundle anew. What does not fit is logged, and all stays as it was."""
    while True:
        await hangup.wait()
        hangup.clear()
        systemd.notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
        try:
            wanted = again()
            for name in FIXED:
                if getattr(wanted, name) != getattr(options, name):
                    log.warning("--%s is read at the start only: restart for it", name)
            wanted = dataclasses.replace(wanted, **{name: getattr(options, name) for name in FIXED})
            who = _gate(wanted)
            await state.supervisor.reload(_settings(wanted))
        except (FaceInsightError, ApiError) as e:
            state.metrics.reloads.labels("failed").inc()
            log.error("not reloaded, all stays as it was: %s", e)
        else:
            state.metrics.reloads.labels("done").inc()
            options, door.gate = wanted, who
            state.take(wanted)
            log.info("reloaded")
        systemd.notify("READY=1")


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
