"""One worker process as its parent has it: started, listened to, given one request at a time, ended."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..errors import FaceInsightError
from ..host.child import NO_PYTHON, as_here, interpreter
from . import protocol
from .errors import ApiError, worker_lost

MODULE = "faceinsight.server.worker"
#: Seconds between two signs of life that are asked for, and how many may fail to come.
BEAT, MISSED = 1.0, 5
#: Seconds that a worker has to end by itself.
GRACE = 0.5


Report = Callable[[dict[str, Any]], None]
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Job:
    """A request that a worker has."""

    def __init__(self, number: int, on_end: Callable[[], None]) -> None:
        """on_end: called once, when the worker is free again or lost."""
        self.number, self.ended = number, False
        self._on_end = on_end
        self._events: asyncio.Queue[dict[str, Any] | ApiError] = asyncio.Queue()

    async def next(self) -> dict[str, Any]:
        """The next event. Raises ApiError where there will be none."""
        event = await self._events.get()
        if isinstance(event, ApiError):
            raise event
        return event

    def put(self, event: dict[str, Any] | ApiError) -> None:
        """An event came."""
        self._events.put_nowait(event)

    def end(self) -> None:
        """The worker is done with it."""
        if not self.ended:
            self.ended = True
            self._on_end()


class Child:
    """A worker process.

    Attributes:
        ready: what it says once it has loaded the bundle and answered the canary.
        heard: when it last gave a sign of life, in seconds of the monotonic clock.
        lost: why it ended: "killed", "crashed", "exception", "hang", "heartbeat", "protocol", "load" or "stopped".
    """

    def __init__(self, process: asyncio.subprocess.Process, streams: Streams, deadline: float, report: Report) -> None:
        """Of a process that runs; `start` makes it, and has the arguments."""
        loop = asyncio.get_running_loop()
        self.process, self._deadline, self._report = process, deadline, report
        self.ready: asyncio.Future[dict[str, Any]] = loop.create_future()
        self.lost: asyncio.Future[str] = loop.create_future()
        self._reader, self._writer = streams
        self._job: Job | None = None
        self._beside: Job | None = None
        self._reason: str | None = None
        self._missed, self.heard = 0, time.monotonic()
        self._timer: asyncio.TimerHandle | None = None
        self._tasks = [loop.create_task(self._listen()), loop.create_task(self._beat())]

    @classmethod
    async def start(cls, settings: Mapping[str, Any], *, deadline: float, report: Report) -> Child:
        """Start one.

        Args:
            settings: how it loads the bundle.
            deadline: seconds without an event of the job that it has, after which it is taken for stuck.
            report: called with events that no client waits for: faces that expired, jobs that were cancelled.

        Raises:
            FaceInsightError: no process can be started.
        """
        python = interpreter()
        if python is None:
            raise FaceInsightError(NO_PYTHON)
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                arguments = (str(theirs.fileno()), json.dumps(dict(settings)))
                process = await asyncio.create_subprocess_exec(
                    python,
                    *as_here(MODULE),
                    *arguments,
                    pass_fds=(theirs.fileno(),),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.DEVNULL,
                    stderr=None,
                    env=os.environ | {"PYTHONUNBUFFERED": "1"},
                )
            streams = await asyncio.open_connection(sock=ours, limit=1 << 20)
        except OSError as e:
            ours.close()
            raise FaceInsightError(f"no worker can be started: {e.strerror or e}") from e
        return cls(process, streams, deadline, report)

    @property
    def pid(self) -> int:
        """Its process."""
        return self.process.pid

    @property
    def alive(self) -> bool:
        """May it be given a request? Not once it was told to end."""
        return self._reason is None and not self.lost.done()

    def submit(self, number: int, header: Mapping[str, Any], blobs: Sequence[bytes], on_end: Callable[[], None]) -> Job:
        """Give it a request: it has none."""
        job = self._job = Job(number, on_end)
        if not self.alive:
            self._end_job(worker_lost())
            return job
        self._send({**header, "id": number}, blobs)
        self._wait()
        return job

    @property
    def interruptible(self) -> bool:
        """Has it a request that may be interrupted for a camera's frame?"""
        return self.alive and self._job is not None and self._beside is None

    def submit_beside(self, number: int, header: Mapping[str, Any], blobs: Sequence[bytes]) -> Job:
        """Give it a camera's frame beside the request that it has: it is looked at between two pieces of that."""
        job = self._beside = Job(number, lambda: None)
        self._send({**header, "id": number}, blobs)
        return job

    def cancel(self, job: Job) -> None:
        """Nobody wants this job's events any more. The lane is free when the worker says so."""
        if not job.ended and self._job is job:
            self._send({"op": "cancel", "id": job.number})

    def kill(self, reason: str) -> None:
        """End it at once."""
        self._reason = self._reason or reason
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()

    def fail_job(self, error: ApiError) -> None:
        """Whoever waits for the job that it has is told this; the job itself goes on until the worker is done."""
        if self._job and not self._job.ended:
            self._job.put(error)

    async def stop(self) -> None:
        """Have it end by itself, else end it."""
        self._reason = self._reason or "stopped"
        self._writer.close()
        try:
            await asyncio.wait_for(asyncio.shield(self.lost), GRACE)
        except asyncio.TimeoutError:
            self.kill("stopped")
            await self.lost

    def _send(self, header: Mapping[str, Any], blobs: Sequence[bytes] = ()) -> None:
        if not self._writer.is_closing():
            self._writer.write(protocol.encode(header, blobs))

    def _wait(self) -> None:
        """For the next event of the job, so long."""
        if self._timer:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(self._deadline, self.kill, "hang")

    async def _listen(self) -> None:
        try:
            while frame := await protocol.read(self._reader):
                self._missed, self.heard = 0, time.monotonic()
                self._take(frame[0])
        except (protocol.FrameError, OSError):
            self.kill("protocol")
        await self._bury()

    def _take(self, event: dict[str, Any]) -> None:
        kind = event.get("event")
        if kind in ("ready", "failed") and not self.ready.done():
            self.ready.set_result(event)
        if kind == "held" or event.get("finish") == "cancelled":
            self._report(event)
        beside = self._beside
        if beside and event.get("id") == beside.number:
            beside.put(event)
            self._beside = None
            return
        job = self._job
        if job is None or event.get("id") != job.number:
            return
        if kind == "progress":
            self._wait()
            return
        job.put(event)
        if kind in ("done", "error"):
            self._end_job()
        else:
            self._wait()

    def _end_job(self, error: ApiError | None = None) -> None:
        if self._timer:
            self._timer.cancel()
        job, self._job = self._job, None
        if job:
            if error:
                job.put(error)
            job.end()

    async def _beat(self) -> None:
        """Missed signs of life are counted, not seconds: a parent that was itself stopped must not blame its worker."""
        await asyncio.wait([self.ready])
        self._missed = 0
        while True:
            if self._missed > MISSED:
                self.kill("heartbeat")
                return
            self._missed += 1
            self._send({"op": "ping"})
            await asyncio.sleep(BEAT)

    async def _bury(self) -> None:
        """It has closed its socket, so it ends: wait for that, and tell whoever waits."""
        try:
            code = await asyncio.wait_for(self.process.wait(), GRACE)
        except asyncio.TimeoutError:
            self.kill("protocol")
            code = await self.process.wait()
        self._tasks[1].cancel()
        self._writer.close()
        self._reason = self._reason or ("killed" if code == -9 else "crashed" if code < 0 else "exception")
        self._end_job(worker_lost())
        if self._beside:
            self._beside.put(worker_lost())
        if not self.ready.done():
            self.ready.set_result({"event": "failed", "reason": self._reason})
        if not self.lost.done():
            self.lost.set_result(self._reason)
