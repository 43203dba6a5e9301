"""The server's camera: frames to the worker, what it finds to those who listen.

The camera's child is read by a thread (faceinsight.camera); a frame is given to the worker when nobody waits for an
answer, the newest one there is by then. Nothing is stored: a listener that is slow misses what it did not take.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ..camera import Camera, Frame
from .errors import ApiError
from .framing import sse
from .lane import FRAME, SERVER
from .metrics import Metrics
from .supervisor import Late, Supervisor

log = logging.getLogger(__name__)

#: Listeners at a time, and messages that may wait for each of them.
MAX_LISTENERS, MAX_WAITING = 4, 100
#: Seconds between two looks at a camera that sends nothing, and after a frame that the worker could not take.
_PATIENCE = 0.5
#: Width of a preview in pixels, at most.
MAX_PREVIEW = 1280


class Listener:
    """Somebody who is sent events: of the people in each frame only the newest message, all others in order."""

    def __init__(self, preview: int) -> None:
        """preview: width of the pictures wanted; 0: none."""
        self.preview = preview
        self._newest: bytes | None = None
        self._waiting: list[bytes] = []
        self._there = asyncio.Event()

    def put(self, message: bytes, *, newest_only: bool) -> None:
        """For this one."""
        if newest_only:
            self._newest = message
        else:
            self._waiting = [*self._waiting, message][-MAX_WAITING:]
        self._there.set()

    async def messages(self) -> AsyncGenerator[bytes, None]:
        """As they come, until the task is cancelled or there is an empty one."""
        while True:
            await self._there.wait()
            self._there.clear()
            waiting, self._waiting = self._waiting, []
            newest, self._newest = self._newest, None
            for message in (*waiting, *([newest] if newest else [])):
                if not message:
                    return
                yield message


class LiveCamera:
    """The camera of a server; off until `start`.

    Attributes:
        source: what it is called.
    """

    def __init__(self, supervisor: Supervisor, metrics: Metrics, source: str, size: tuple[int, int], fps: int) -> None:
        """Of this source; nothing is read yet."""
        self.source = source
        self._supervisor, self._metrics, self._size, self._fps = supervisor, metrics, size, fps
        self._camera: Camera | None = None
        self._task: asyncio.Task[None] | None = None
        self._listeners: list[Listener] = []
        self._number = 0
        self._last: tuple[str, str] = ("off", "")

    def start(self) -> None:
        """Switch it on. Raises RequestError or DependencyError where the source cannot be read."""
        if self._task is None:
            self._camera = Camera(self.source, size=self._size, fps=self._fps)
            self._task = asyncio.get_running_loop().create_task(self._pump(self._camera))

    async def stop(self, *, forget: bool = True) -> None:
        """Switch it off, and have the worker forget who is there. forget: not where the worker ends anyway."""
        task, self._task = self._task, None
        camera, self._camera = self._camera, None
        if task is None or camera is None:
            return
        # First the camera, so that nobody waits for a frame any more.
        await asyncio.to_thread(camera.close)
        task.cancel()
        await asyncio.wait([task])
        self._say_state("off", "")
        if not forget:
            return
        with contextlib.suppress(ApiError):
            done = await self._give("camera_off", {}, rank=SERVER)
            for event in done["events"]:
                self._publish(event["event"], event)

    def close(self) -> None:
        """The server ends: tell everybody."""
        self._publish("bye", {"reason": "shutdown"})
        for listener in self._listeners:
            listener.put(b"", newest_only=False)

    @property
    def status(self) -> dict[str, Any]:
        """For GET /v1/camera."""
        source = self.source.partition(":")[0]
        if self._camera is None:
            return {"state": "off", "reason": "", "source": source, "age_ms": None}
        status = self._camera.status
        return {
            "state": status.state,
            "reason": status.reason,
            "source": source,
            "age_ms": None if status.age is None else round(status.age * 1e3),
            "frames": status.frames,
            "dropped": status.dropped,
            "reconnects": status.reconnects,
        }

    def count(self) -> None:
        """Into the metrics, which are read now."""
        status = self._camera.status if self._camera else None
        self._metrics.camera_up.set(bool(status and status.state in ("up", "dark")))
        self._metrics.camera_age.set(status.age if status and status.age is not None else 0)
        if status:
            self._metrics.camera_frames.set_to(status.frames)
            self._metrics.camera_dropped.set_to(status.dropped)
            self._metrics.camera_reconnects.set_to(status.reconnects)

    def require_place(self) -> None:
        """Raises ApiError where too many listen already."""
        if len(self._listeners) >= MAX_LISTENERS:
            raise ApiError(429, "too_many", f"At most {MAX_LISTENERS} listen at a time.", retry_after=5)

    async def listen(self, preview: int) -> AsyncGenerator[bytes, None]:
        """Server-sent events. preview: width of the pictures wanted; 0: none."""
        listener = Listener(preview)
        self._listeners.append(listener)
        try:
            state, reason = self._last
            yield b"retry: 1000\n" + _message(self._number, "state", {"camera": state, "reason": reason})
            async for message in listener.messages():
                yield message
        finally:
            self._listeners.remove(listener)

    async def _pump(self, camera: Camera) -> None:
        """Frames to the worker, until it is cancelled."""
        loop = asyncio.get_running_loop()
        pool = ThreadPoolExecutor(1, "camera-wait")
        try:
            while True:
                frame = await loop.run_in_executor(pool, camera.read, _PATIENCE)
                status = camera.status
                self._say_state(status.state, status.reason)
                if frame is None:
                    continue

                def newest(frame: Frame = frame) -> tuple[dict[str, Any], tuple[bytes, ...]]:
                    """Whoever had the worker may have taken a while."""
                    frame = camera.read(0) or frame
                    return _fields(frame, self._preview), (frame.data,)

                try:
                    self._found(await self._give("frame", {}, late=newest))
                except ApiError:
                    # Somebody else's turn, or no worker: the next frame is as good.
                    await asyncio.sleep(_PATIENCE / 5)
        finally:
            pool.shutdown(wait=False)

    @property
    def _preview(self) -> int:
        return max((listener.preview for listener in self._listeners), default=0)

    async def _give(
        self, op: str, fields: dict[str, Any], *, rank: int = FRAME, late: Late | None = None
    ) -> dict[str, Any]:
        done: dict[str, Any] = {}
        async for event in self._supervisor.events(op, fields, rank=rank, late=late):
            done = event
        return done

    def _found(self, done: dict[str, Any]) -> None:
        self._metrics.take(done)
        for event in done["events"]:
            self._publish(event["event"], event)
        people = {name: done[name] for name in ("number", "size", "people")}
        people["age_ms"] = round((time.monotonic() - done["time"]) * 1e3)
        self._number = done["number"]
        for listener in self._listeners:
            jpeg = {"jpeg": done["jpeg"]} if listener.preview and done.get("jpeg") else {}
            listener.put(_message(self._number, "people", people | jpeg), newest_only=True)

    def _say_state(self, state: str, reason: str) -> None:
        if (state, reason) != self._last:
            self._last = state, reason
            log.info("camera %s%s", state, f": {reason}" if reason else "")
            self._publish("state", {"camera": state, "reason": reason})

    def _publish(self, kind: str, values: dict[str, Any]) -> None:
        for listener in self._listeners:
            listener.put(_message(self._number, kind, values), newest_only=False)


def _fields(frame: Frame, preview: int) -> dict[str, Any]:
    return {
        "number": frame.number,
        "time": frame.time,
        "width": frame.width,
        "height": frame.height,
        "preview": preview,
    }


def _message(number: int, kind: str, values: dict[str, Any]) -> bytes:
    return f"id: {number}\nevent: {kind}\n".encode() + sse(values)
