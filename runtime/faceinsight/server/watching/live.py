"""The server's camera: frames to the worker, what it finds to those who listen.

The camera's child is read by a thread (faceinsight.camera); a frame is given to the worker when nobody waits for an
answer, the newest one there is by then. Nothing is stored: a listener that is slow misses what it did not take.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ...camera import Camera, Frame
from ...camera.source import parse
from ..errors import ApiError
from ..framing import sse
from ..lane import SERVER
from ..metrics import Metrics
from ..supervisor import Supervisor
from .consent import Consent
from .listener import Listener

log = logging.getLogger(__name__)

#: Listeners at a time.
MAX_LISTENERS = 4
#: Seconds between two looks at a camera that sends nothing, and after a frame that the worker could not take.
_PATIENCE = 0.5
#: Width of a preview in pixels, at most.
MAX_PREVIEW = 1280


class LiveCamera:
    """The camera of a server; off until `start`, and read only while consent holds.

    Attributes:
        source: what it is called.
        consent: of those in front of it.
        enabled: is it switched on?
        observers: called with the kind and the values of every event but `people`, and but those of people who are to
            be forgotten.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        metrics: Metrics,
        source: str,
        size: tuple[int, int],
        fps: int,
        consent: Consent,
    ) -> None:
        """Of this source; nothing is read yet."""
        self.source, self.consent = source, consent
        self.enabled = False
        self.observers: list[Callable[[str, dict[str, Any]], None]] = []
        self._supervisor, self._metrics, self._size, self._fps = supervisor, metrics, size, fps
        self._camera: Camera | None = None
        self._task: asyncio.Task[None] | None = None
        self._switching = asyncio.Lock()
        self._expiry: asyncio.TimerHandle | None = None
        self._ending: asyncio.Task[int] | None = None
        self._listeners: list[Listener] = []
        self._number = self._people = 0
        self._last: tuple[str, str, str] = ("off", "", consent.state)

    async def start(self) -> None:
        """Switch it on. Raises RequestError or DependencyError where the source cannot be read."""
        parse(self.source, size=self._size, fps=self._fps, loop=True)
        async with self._switching:
            self.enabled = True
            self._read_if_may()

    async def stop(self, *, forget: bool = True) -> None:
        """Switch it off, and have the worker forget who is there. forget: not where the worker ends anyway."""
        async with self._switching:
            self.enabled = False
            self.consent.withdraw()
            await self._end(forget=forget)

    async def agree(self) -> None:
        """Somebody agreed to be looked at, or agrees still. Raises ApiError where the camera is switched off."""
        async with self._switching:
            if not self.enabled:
                raise ApiError(409, "camera_not_ready", "The camera is switched off.", retry=False)
            if not self.consent.asked:
                return
            self.consent.give()
            self._expire_later()
            self._read_if_may()

    async def forget_all(self) -> int:
        """Consent ends, and everything is wiped that is known of anybody, on photos too; returns how many faces of
        photos were. Where nobody is asked the camera goes on."""
        async with self._switching:
            self.consent.withdraw()
            if self.consent.asked:
                await self._end()
            else:
                await self._forget_people()
            try:
                return int((await self._give("forget"))["wiped"])
            except ApiError:
                # No worker is there, and what the last one held is gone with it.
                return 0

    def _expire(self) -> None:
        if self.consent.holds:
            self._expire_later()
        else:
            self._ending = asyncio.get_running_loop().create_task(self.forget_all())

    def _expire_later(self) -> None:
        if self._expiry:
            self._expiry.cancel()
        self._expiry = asyncio.get_running_loop().call_later(self.consent.left, self._expire)

    def _read_if_may(self) -> None:
        """Read frames, where it is switched on and consent holds."""
        if self._task is None and self.enabled and self.consent.holds:
            self._camera = Camera(self.source, size=self._size, fps=self._fps)
            self._metrics.camera_begins()
            self._task = asyncio.get_running_loop().create_task(self._pump(self._camera))
        self._say_state()

    async def _end(self, *, forget: bool = True) -> None:
        """Read no frames any more."""
        task, self._task = self._task, None
        if task and self._camera:
            self.count()
            camera, self._camera = self._camera, None
            # First the camera, so that nobody waits for a frame any more.
            await asyncio.to_thread(camera.close)
            task.cancel()
            await asyncio.wait([task])
            if forget:
                await self._forget_people()
        self._say_state()

    async def _forget_people(self) -> None:
        self._people = 0
        for listener in self._listeners:
            listener.drop()
        with contextlib.suppress(ApiError):
            done = await self._give("camera_off")
            for event in done["events"]:
                # Whoever wants to be forgotten is not counted.
                self._publish(event["event"], event, counted=False)

    def close(self) -> None:
        """The server ends: tell everybody."""
        self._publish("bye", {"reason": "shutdown"})
        for listener in self._listeners:
            listener.put(b"", newest_only=False)

    @property
    def status(self) -> dict[str, Any]:
        """For GET /v1/camera."""
        state, reason, consent = self._state
        known = {
            "state": state,
            "reason": reason,
            "consent": consent,
            "consent_left_s": round(self.consent.left, 1),
            "source": self.source.partition(":")[0],
        }
        if self._camera is None:
            return known | {"age_ms": None}
        status = self._camera.status
        return known | {
            "age_ms": None if status.age is None else round(status.age * 1e3),
            "frames": status.frames,
            "dropped": status.dropped,
            "reconnects": status.reconnects,
        }

    @property
    def people(self) -> int | None:
        """How many are in the newest frame; None while there is none."""
        return self._people if self._state[0] in ("up", "dark") else None

    @property
    def _state(self) -> tuple[str, str, str]:
        """State of the camera, the reason, and that of the consent."""
        consent = self.consent.state
        if self._camera is None:
            return ("waiting_for_consent" if self.enabled and consent == "closed" else "off"), "", consent
        status = self._camera.status
        return status.state, status.reason, consent

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
            yield b"retry: 1000\n" + _message(self._number, "state", _said(self._last))
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
                self._say_state()
                if frame is None:
                    continue

                def newest(frame: Frame = frame) -> tuple[dict[str, Any], tuple[bytes, ...]]:
                    """Whoever had the worker may have taken a while."""
                    frame = camera.read(0) or frame
                    return _fields(frame, self._preview), (frame.data,)

                try:
                    self._found(await self._supervisor.find_people(newest))
                except ApiError:
                    # Somebody else's turn, or no worker: the next frame is as good.
                    await asyncio.sleep(_PATIENCE / 5)
        finally:
            pool.shutdown(wait=False)

    @property
    def _preview(self) -> int:
        return max((listener.preview for listener in self._listeners), default=0)

    async def _give(self, op: str) -> dict[str, Any]:
        """To the worker, before all others; what it says at the end."""
        done = [event async for event in self._supervisor.events(op, {}, rank=SERVER)][-1]
        self._metrics.take(done)
        return done

    def _found(self, done: dict[str, Any]) -> None:
        self._metrics.take(done)
        for event in done["events"]:
            self._publish(event["event"], event)
        people = {name: done[name] for name in ("number", "time", "size", "people")}
        people["age_ms"] = round((time.monotonic() - done["time"]) * 1e3)
        self._number, self._people = done["number"], len(done["people"])
        for listener in self._listeners:
            jpeg = {"jpeg": done["jpeg"]} if listener.preview and done.get("jpeg") else {}
            listener.put(_message(self._number, "people", people | jpeg), newest_only=True)

    def _say_state(self) -> None:
        """To all who listen, where it is another one than before."""
        now = self._state
        if now != self._last:
            self._last = now
            log.info("camera %s%s", now[0], f": {now[1]}" if now[1] else "")
            self._publish("state", _said(now))

    def _publish(self, kind: str, values: dict[str, Any], *, counted: bool = True) -> None:
        for observer in self.observers if counted else ():
            observer(kind, values)
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


def _said(state: tuple[str, str, str]) -> dict[str, str]:
    return dict(zip(("camera", "reason", "consent"), state, strict=True))


def _message(number: int, kind: str, values: dict[str, Any]) -> bytes:
    return f"id: {number}\nevent: {kind}\n".encode() + sse(values)
