"""Keeps a worker running: starts it, hands it requests, starts another when it ends, and stops trying for a while when
that happens too often."""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import time
from collections import deque
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

from ..errors import FaceInsightError
from .child import Child
from .errors import ApiError, degraded, loading, shutting_down
from .lane import Lane
from .metrics import Metrics

log = logging.getLogger(__name__)

#: Deaths within so many seconds after which it waits, and how long it then waits.
DEATHS, WINDOW, PAUSE = 5, 60.0, 60.0
#: Seconds that loading may take: a TensorRT engine is built for minutes.
LOAD_TIMEOUT = 1800.0
#: Share of the canary's labels that must be as the first worker gave them.
AGREEMENT = 0.95


class Supervisor:
    """The one way to the worker.

    Attributes:
        lane: who may use it, and who waits.
        state: "loading", "ready", "restarting", "degraded" or "stopping".
        info: what the worker said of the bundle and the device; None before the first one was ready.
        failure: why the first worker did not start; None where it did.
    """

    def __init__(self, settings: Mapping[str, Any], *, queue: int, deadline: float, metrics: Metrics) -> None:
        """Of a server.

        Args:
            settings: how a worker loads the bundle.
            queue: how many requests may wait.
            deadline: seconds without a sign of progress after which a worker is taken for stuck.
            metrics: where deaths and waits are counted.
        """
        self.lane = Lane(queue)
        self.state = "loading"
        self.info: dict[str, Any] | None = None
        self.failure: str | None = None
        self._settings, self._deadline, self._metrics = settings, deadline, metrics
        self._numbers = itertools.count(1)
        self._deaths: deque[float] = deque()
        self._until = 0.0
        self._child: Child | None = None
        self._ready, self._over = asyncio.Event(), asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def worker_pid(self) -> int | None:
        """Process of the worker; None while there is none."""
        return self._child.pid if self._child else None

    def start(self) -> None:
        """Begin: loads in the background."""
        self._task = asyncio.get_running_loop().create_task(self._keep())

    async def wait_failed(self) -> str:
        """Why the first worker did not start; waits for ever where it did."""
        await self._over.wait()
        if self.failure is None:
            await asyncio.get_running_loop().create_future()
        return self.failure or ""

    async def events(
        self, op: str, fields: Mapping[str, Any], blobs: Sequence[bytes] = ()
    ) -> AsyncGenerator[dict[str, Any], None]:
        """What the worker says to a request, up to its end. Closing the iterator frees the worker, or the place in the
        queue.

        Raises:
            ApiError: the queue is full, the worker is lost or not there, or the request is at fault.
        """
        self._require()
        began = time.monotonic()
        await self.lane.acquire()
        job = None
        try:
            child = await self._worker()
            self._metrics.queue_wait.observe(time.monotonic() - began)
            job = child.submit(next(self._numbers), {**fields, "op": op}, blobs, self.lane.release)
        finally:
            if job is None:
                self.lane.release()
        try:
            while True:
                event = await job.next()
                if event["event"] == "error":
                    raise ApiError(event["status"], event["code"], event["message"], param=event.get("param"))
                yield event
                if event["event"] == "done":
                    return
        finally:
            child.cancel(job)

    async def call(self, op: str, fields: Mapping[str, Any], blobs: Sequence[bytes] = ()) -> dict[str, Any]:
        """The last of the events."""
        return [event async for event in self.events(op, fields, blobs)][-1]

    def drop_all(self) -> None:
        """Whoever waits, for the lane or for the worker, is told that the server ends."""
        self.state = "stopping"
        self._ready.set()
        self.lane.close(shutting_down())
        if self._child:
            self._child.fail_job(shutting_down())

    async def stop(self) -> None:
        """End the worker, and start no other."""
        self.drop_all()
        if self._child:
            await self._child.stop()
        if self._task:
            self._task.cancel()
            await asyncio.wait([self._task])

    def kill_now(self) -> None:
        """End the worker without waiting for anything."""
        if self._child:
            self._child.kill("stopped")

    def _require(self) -> None:
        """Raises ApiError where a request need not even wait."""
        if self.state == "loading":
            raise loading()
        if self.state == "degraded":
            raise degraded(max(1, math.ceil(self._until - time.monotonic())))
        if self.state == "stopping":
            raise shutting_down()

    async def _worker(self) -> Child:
        """A worker that is ready: while one is started anew, requests wait. Raises ApiError."""
        while True:
            await self._ready.wait()
            self._require()
            if self._child and self._child.alive:
                return self._child
            self._ready.clear()

    async def _keep(self) -> None:
        while self.state != "stopping":
            try:
                self._child = await Child.start(self._settings, deadline=self._deadline, report=self._metrics.take)
            except FaceInsightError as e:
                reason = "start"
                self._say_failed(str(e))
            else:
                reason = await self._watch(self._child)
            self._ready.clear()
            self._metrics.worker_gone()
            if self.state == "stopping":
                self._ready.set()
            elif not self._over.is_set() or self.failure is None:
                await self._after(reason)
            else:
                return

    async def _watch(self, child: Child) -> str:
        """From its start to its end: why it ended."""
        try:
            said = await asyncio.wait_for(asyncio.shield(child.ready), LOAD_TIMEOUT)
        except asyncio.TimeoutError:
            child.kill("load")
            said = {"event": "failed"}
        if said["event"] == "ready" and self._canary_holds(said):
            self.info = self.info or said
            self._deaths_forgotten()
            self.state = "ready" if self.state != "stopping" else self.state
            self._metrics.worker_up.set(1)
            self._over.set()
            self._ready.set()
            log.info("worker %d ready after %.1f s", child.pid, said["load_s"])
        else:
            self._say_failed(said.get("message") or f"the worker ended while it was loading ({said.get('reason')})")
            child.kill("load")
        return await child.lost

    def _say_failed(self, why: str) -> None:
        log.error("a worker did not start: %s", why)
        if self.info is None:
            self.failure = why
            self._over.set()

    def _canary_holds(self, said: Mapping[str, Any]) -> bool:
        """Was the canary's face answered as it must be: found where it is, and as the first worker read it?"""
        states = said["canary"]["states"]
        known = self.info["canary"]["states"] if self.info else states
        same = sum(states.get(name) == state for name, state in known.items())
        if said["canary"]["ok"] and same >= AGREEMENT * len(known):
            return True
        log.error("canary: found %s, %d of %d labels as before", said["canary"]["ok"], same, len(known))
        self._metrics.canary_failures.inc()
        return False

    def _deaths_forgotten(self) -> None:
        while self._deaths and self._deaths[0] < time.monotonic() - WINDOW:
            self._deaths.popleft()

    async def _after(self, reason: str) -> None:
        """A worker ended that should not have."""
        log.warning("worker lost: %s", reason)
        self._metrics.worker_restarts.labels(reason).inc()
        self._deaths.append(time.monotonic())
        self._deaths_forgotten()
        self.state = "restarting" if self.info else "loading"
        if len(self._deaths) < DEATHS:
            return
        self.state, self._until = "degraded", time.monotonic() + PAUSE
        log.error("%d workers ended within %.0f s: the next one starts in %.0f s", DEATHS, WINDOW, PAUSE)
        self._metrics.degraded.set(1)
        self.lane.close(degraded(math.ceil(PAUSE)))
        # Who has the lane waits for a worker: it is told too.
        self._ready.set()
        await asyncio.sleep(0)
        self._ready.clear()
        await asyncio.sleep(PAUSE)
        self._deaths.clear()
        self._metrics.degraded.set(0)
        self.state = "restarting"
