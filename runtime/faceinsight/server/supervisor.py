"""Keeps a worker running: starts it, hands it requests, starts another when it ends or the bundle is loaded anew, and
stops trying for a while when workers end too often."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import math
import os
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import FaceInsightError
from . import canary
from .child import Child
from .errors import ApiError, degraded, loading, shutting_down
from .lane import FRAME, INTERACTIVE, SERVER, Lane
from .metrics import Metrics

log = logging.getLogger(__name__)

#: Deaths within so many seconds after which it waits, and how long it then waits.
DEATHS, WINDOW, PAUSE = 5, 60.0, 60.0
#: Seconds that loading may take: a TensorRT engine is built for minutes.
LOAD_TIMEOUT = 1800.0
#: Seconds that a camera's frame waits for the worker before it is looked at between two pieces of an answer, and
#: between two looks at whether it is free.
BESIDE, _SOON = 0.3, 0.02
#: Fields and blobs of a request, made when the worker is free.
Late = Callable[[], tuple[Mapping[str, Any], Sequence[bytes]]]


class Supervisor:
    """The one way to the worker.

    Attributes:
        lane: who may use it, and who waits.
        state: "loading", "ready", "restarting", "degraded" or "stopping".
        info: what the worker said of the bundle and the device; None before the first one was ready.
        deadline: seconds without a sign of progress after which a worker is taken for stuck.
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
        self.deadline = deadline
        self._settings, self._metrics = settings, metrics
        self._numbers = itertools.count(1)
        self._deaths: deque[float] = deque()
        self._until = 0.0
        # The one that has the requests, and all that run: one may be loading beside it.
        self._child: Child | None = None
        self._children: set[Child] = set()
        self._ready, self._reloaded = asyncio.Event(), asyncio.Event()
        self._failure: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._task: asyncio.Task[None] | None = None

    def worker_memory(self) -> int:
        """Bytes of the worker that are resident; 0 where there is none, or the system does not tell."""
        try:
            pages = Path(f"/proc/{self._child.pid if self._child else 0}/statm").read_text().split()[1]
        except OSError:
            return 0
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def start(self) -> None:
        """Begin: loads in the background."""
        self._task = asyncio.get_running_loop().create_task(self._keep())

    async def wait_failed(self) -> str:
        """Why the first worker did not start; waits for ever where it did."""
        return await asyncio.shield(self._failure)

    async def wait_ready(self) -> None:
        """For a worker, or the end of the server."""
        await self._ready.wait()

    def is_alive(self, within: float) -> bool:
        """Is there a worker that gave a sign of life within so many seconds, or one that loads?"""
        if self.state == "ready":
            return self._child is not None and self._child.heard > time.monotonic() - within
        return self.state != "degraded"

    async def reload(self, settings: Mapping[str, Any]) -> None:
        """Load a bundle beside the one that runs, and hand over between two requests: none fails.

        Both are in memory meanwhile. Faces that the old worker holds go with it.

        Raises:
            FaceInsightError: the new worker does not start, or does not answer the canary; the old one goes on.
        """
        if self.state != "ready":
            # Nothing runs that could hand over: the next worker loads it.
            self._settings = settings
            self._reloaded.set()
            return
        child = await self._load(settings)
        await self.lane.acquire(SERVER)
        old = self._child
        self._install(child, settings)
        self._metrics.faces_gone()
        self.lane.release()
        if old:
            await old.stop()

    async def events(
        self,
        op: str,
        fields: Mapping[str, Any],
        blobs: Sequence[bytes] = (),
        *,
        rank: int = INTERACTIVE,
        late: Late | None = None,
    ) -> AsyncGenerator[dict[str, Any], None]:
        """What the worker says to a request, up to its end. Closing the iterator frees the worker, or the place in the
        queue, which `rank` decides.

        late: gives fields and blobs when the worker is free, instead of those given.

        Raises:
            ApiError: the queue is full, the worker is lost or not there, or the request is at fault.
        """
        self.require()
        began = time.monotonic()
        await self.lane.acquire(rank)
        job = None
        try:
            child = await self._worker()
            self._metrics.queue_wait.observe(time.monotonic() - began)
            fields, blobs = late() if late else (fields, blobs)
            job = child.submit(next(self._numbers), {**fields, "op": op}, blobs, self.lane.release)
        finally:
            if job is None:
                self.lane.release()
        try:
            while True:
                event = _checked(await job.next())
                yield event
                if event["event"] == "done":
                    return
        finally:
            child.cancel(job)

    async def find_people(self, late: Late) -> dict[str, Any]:
        """What the worker finds in a camera's frame: once nobody has it or waits for it, or else between two pieces of
        an answer that takes its time. late: gives fields and pixels then. Raises ApiError."""
        patience = time.monotonic() + BESIDE
        while not self.lane.idle:
            child = self._child
            if child and child.interruptible and time.monotonic() > patience:
                fields, blobs = late()
                return _checked(await child.submit_beside(next(self._numbers), {**fields, "op": "frame"}, blobs).next())
            await asyncio.sleep(_SOON)
        return [event async for event in self.events("frame", {}, rank=FRAME, late=late)][-1]

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
        await asyncio.gather(*(child.stop() for child in self._children))
        if self._task:
            self._task.cancel()
            await asyncio.wait([self._task])

    def kill_now(self) -> None:
        """End the worker without waiting for anything."""
        for child in self._children:
            child.kill("stopped")

    def require(self) -> None:
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
            self.require()
            if self._child and self._child.alive:
                return self._child
            self._ready.clear()

    async def _keep(self) -> None:
        """Have a worker, and another when it ends, until the server ends or the first one does not start."""
        while self.state != "stopping":
            reason = "load"
            try:
                child = await self._load(self._settings)
                if self._child:
                    # `reload` was faster.
                    await child.stop()
                else:
                    self._install(child, self._settings)
            except FaceInsightError as e:
                if self.state == "stopping":
                    return
                log.error("a worker did not start: %s", e)
                if self.info is None:
                    self._failure.set_result(str(e))
                    return
            if self._child:
                reason = await self._lost()
            self._child = None
            self._ready.clear()
            self._metrics.worker_up.set(0)
            self._metrics.faces_gone()
            if self.state != "stopping":
                await self._after(reason)

    async def _load(self, settings: Mapping[str, Any]) -> Child:
        """A worker that has loaded the bundle and answered the canary. Raises FaceInsightError."""
        child = await Child.start(settings, deadline=self.deadline, report=self._metrics.take)
        self._children.add(child)
        child.lost.add_done_callback(lambda _: self._children.discard(child))
        try:
            said = await asyncio.wait_for(asyncio.shield(child.ready), LOAD_TIMEOUT)
        except asyncio.TimeoutError:
            said = {"event": "failed", "message": f"it was not ready within {LOAD_TIMEOUT:.0f} s"}
        fault = said.get("message") or f"it ended while it was loading ({said.get('reason')})"
        if said["event"] == "ready":
            fault = self._canary_fault(said, settings)
        if fault:
            child.kill("load")
            await asyncio.shield(child.lost)
            raise FaceInsightError(fault)
        log.info("worker %d ready after %.1f s", child.pid, said["load_s"])
        return child

    def _canary_fault(self, said: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
        """Empty where the canary's face was answered as it must be: as it was recorded for this bundle, or as the
        worker before read it with the same bundle and the same settings."""
        sha256 = said["bundle_sha256"]
        known = canary.recorded(sha256)
        if self.info and settings == self._settings and sha256 == self.info["bundle_sha256"]:
            known = self.info["canary"]["states"]
        fault = canary.fault(said["canary"], known)
        if fault:
            self._metrics.canary_failures.inc()
        return fault

    def _install(self, child: Child, settings: Mapping[str, Any]) -> None:
        """Requests go to this worker from now on."""
        if self.info is None:
            _say_licences(child.ready.result())
        self._child, self._settings, self.info = child, settings, child.ready.result()
        self._forget_old_deaths()
        if self.state != "stopping":
            self.state = "ready"
        self._metrics.worker_up.set(1)
        self._ready.set()

    async def _lost(self) -> str:
        """Why the worker ended; one that `reload` replaces does not count."""
        while child := self._child:
            reason = await asyncio.shield(child.lost)
            if child is self._child:
                return reason
        return "stopped"

    def _forget_old_deaths(self) -> None:
        while self._deaths and self._deaths[0] < time.monotonic() - WINDOW:
            self._deaths.popleft()

    async def _after(self, reason: str) -> None:
        """A worker ended that should not have."""
        log.warning("worker lost: %s", reason)
        self._metrics.worker_restarts.labels(reason).inc()
        self._deaths.append(time.monotonic())
        self._forget_old_deaths()
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
        self._reloaded.clear()
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._reloaded.wait(), PAUSE)
        self._deaths.clear()
        self._metrics.degraded.set(0)
        if self.state == "degraded":
            self.state = "restarting"


def _checked(event: dict[str, Any]) -> dict[str, Any]:
    """An event that is no error. Raises ApiError for one that is."""
    if event["event"] == "error":
        named = {"param": event.get("param"), "images": event["images"]}
        raise ApiError(event["status"], event["code"], event["message"], **named)
    return event


def _say_licences(info: Mapping[str, Any]) -> None:
    """In the log: who runs a server should not have to look for what its bundle may be used for."""
    parts: dict[str, list[str]] = {}
    for entry in info["licences"]:
        parts.setdefault(entry["licence"], []).append(entry["component"])
    for licence, components in parts.items():
        level = logging.WARNING if "non-commercial" in licence else logging.INFO
        log.log(level, "bundle %s, licence of %s: %s", info["bundle"], ", ".join(components), licence)
