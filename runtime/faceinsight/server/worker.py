"""The worker process: owns the one FaceInsight, has one request at a time, and may die without anybody else's harm.

Started by the parent (child.py) with a socket's number and, as JSON, how to load the bundle.
"""

from __future__ import annotations

import contextlib
import faulthandler
import hashlib
import json
import logging
import os
import queue
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import FaceInsightError, ImageError, PolicyError, QuestionError
from . import protocol
from .errors import ApiError, bad_request, internal, where

log = logging.getLogger(__name__)

#: Seconds between two looks at what has expired.
_EXPIRE = 1.0
#: Under memory pressure the kernel should take the worker, not its parent.
_OOM_SCORE = "500"


class Pipe:
    """The worker's end of the socket. A thread reads it, so that signs of life and cancellations are heard while the
    main thread works; where the parent is gone, the process ends."""

    def __init__(self, sock: socket.socket) -> None:
        """Reads from now on."""
        self.jobs: queue.Queue[protocol.Frame] = queue.Queue()
        self.insight: Any = None
        self._sock = sock
        self._sending, self._choosing = threading.Lock(), threading.Lock()
        self._running: int | None = None
        self._cancelled: set[int] = set()
        threading.Thread(target=self._read, daemon=True).start()

    def send(self, event: Mapping[str, Any]) -> None:
        """To the parent."""
        with self._sending, contextlib.suppress(OSError):
            self._sock.sendall(protocol.encode(event))

    def begin(self, number: int) -> None:
        """The main thread works on this job now."""
        with self._choosing:
            self._running = number

    def end(self) -> None:
        """It works on none."""
        with self._choosing:
            self._running = None
            self._cancelled.clear()

    def is_cancelled(self, number: int) -> bool:
        """Does nobody want this job any more?"""
        return number in self._cancelled

    def _read(self) -> None:
        try:
            while frame := protocol.receive(self._sock):
                header = frame[0]
                if header["op"] == "ping":
                    self.send({"event": "pong"})
                elif header["op"] == "cancel":
                    self._cancel(header["id"])
                else:
                    self.jobs.put(frame)
        finally:
            os._exit(0)

    def _cancel(self, number: int) -> None:
        with self._choosing:
            self._cancelled.add(number)
            # Of a job that is under way, not of the one behind it.
            if number == self._running and self.insight:
                self.insight.interrupt()


def main(arguments: Sequence[str]) -> int:
    """The process. Returns an exit code."""
    faulthandler.enable()
    for number in (signal.SIGINT, signal.SIGTERM):
        # The parent decides: it closes the socket.
        signal.signal(number, signal.SIG_IGN)
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_OOM_SCORE)
    pipe = Pipe(socket.socket(fileno=int(arguments[0])))
    settings = json.loads(arguments[1])
    try:
        _load(pipe, settings)
    except (FaceInsightError, ImportError) as e:
        pipe.send({"event": "failed", "message": str(e)})
        return 1
    return 0


def _load(pipe: Pipe, settings: dict[str, Any]) -> None:
    """Load the bundle, answer the canary, then work for ever."""
    began = time.perf_counter()
    from .. import FaceInsight
    from .canary import examine
    from .face_store import FaceStore
    from .facts import facts, kiosk_deny
    from .jobs import Jobs

    if settings.pop("kiosk", False):
        settings["deny"] = kiosk_deny(settings)
    with FaceInsight.load(**settings) as insight:
        canary = examine(insight)
        jobs = Jobs(insight, FaceStore(insight, settings["forget_after"]))
        pipe.insight = insight
        load_s = round(time.perf_counter() - began, 3)
        pipe.send({"event": "ready", "canary": canary, "load_s": load_s, **facts(insight, settings)})
        while True:
            try:
                frame = pipe.jobs.get(timeout=_EXPIRE)
            except queue.Empty:
                if jobs.store.expire():
                    pipe.send({"event": "held", "held": jobs.held()})
            else:
                _work(pipe, jobs, frame)


def _work(pipe: Pipe, jobs: Any, frame: protocol.Frame) -> None:
    """One job. Ends the process where what went wrong may be the device's or the memory's."""
    number = frame[0]["id"]
    pipe.begin(number)
    blobs = protocol.split(frame)
    try:
        events = jobs.run(frame[0], blobs)
        while not pipe.is_cancelled(number):
            event = next(events)
            pipe.send({**event, "id": number})
            if event["event"] == "done":
                return
            _serve_beside(pipe, jobs)
        events.close()
        pipe.send({"event": "done", "id": number, "finish": "cancelled"})
    except Exception as e:  # noqa: BLE001 -- whatever it is, this request gets an answer
        if pipe.is_cancelled(number) and isinstance(e, FaceInsightError):
            pipe.send({"event": "done", "id": number, "finish": "cancelled"})
        else:
            _fail(pipe, number, blobs, e)
    finally:
        pipe.end()


def _serve_beside(pipe: Pipe, jobs: Any) -> None:
    """At the camera's frame that waits, if one does, between two pieces of an answer."""
    try:
        frame = pipe.jobs.get_nowait()
    except queue.Empty:
        return
    number, blobs = frame[0]["id"], protocol.split(frame)
    try:
        for event in jobs.beside(frame[0], blobs):
            pipe.send({**event, "id": number})
    except Exception as e:  # noqa: BLE001 -- whatever it is, the answer goes on
        _fail(pipe, number, blobs, e)


def _fail(pipe: Pipe, number: int, blobs: Sequence[bytes], e: Exception) -> None:
    """Tell the client what went wrong, or end the process."""
    if _is_fatal(e):
        _log(e, "the worker ends")
        os._exit(1)
    error = _answer(e)
    fields = {"status": error.status, "code": error.code, "message": str(error), "param": error.param}
    pipe.send({"event": "error", "id": number, "images": list(map(_fingerprint, blobs)), **fields})


def _fingerprint(image: bytes) -> str:
    """What the log calls a picture."""
    return hashlib.sha256(image).hexdigest()[:12]


def _is_fatal(error: Exception) -> bool:
    """May the next request suffer too? A CUDA error stays until the process ends, and so does memory that is short;
    errors of native libraries have classes of their own."""
    if isinstance(error, (MemoryError, RuntimeError, SystemError, OSError)):
        return not isinstance(error, ImageError)
    if isinstance(error, (FaceInsightError, ApiError)):
        # The base class itself: a graph or llama.cpp failed.
        return type(error) is FaceInsightError
    return type(error).__module__ != "builtins"


def _answer(error: Exception) -> ApiError:
    """What the client is told."""
    text = str(error)
    if isinstance(error, ApiError):
        return error
    if isinstance(error, ImageError):
        large = "megapixels" in text or "; at most" in text
        # What a decoder says of itself is nobody's business.
        if " does not decode" in text:
            text = "The picture does not decode: it is damaged, or none."
        return bad_request("image_too_large" if large else "bad_image", text)
    if isinstance(error, QuestionError):
        return bad_request("question_too_long" if "at most" in text else "question_empty", text, "messages")
    if isinstance(error, PolicyError):
        return ApiError(403, "policy", "The question is about something that is switched off, or not answered.")
    if isinstance(error, FaceInsightError):
        return bad_request("invalid_value", text)
    number = secrets.token_hex(4)
    _log(error, f"error {number}")
    return internal(number)


def _log(error: Exception, what: str) -> None:
    """That it failed, and where."""
    log.error("%s: %s at %s", what, type(error).__name__, where(error))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
