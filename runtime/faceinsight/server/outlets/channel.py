"""A queue with a thread of its own: who gives it a message never waits, whatever becomes of the message."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable

from ..metrics import Metrics

log = logging.getLogger(__name__)

#: Messages that wait at most, and seconds between two tries: the first time, and at most.
LIMIT, SHORTEST, LONGEST = 100, 1.0, 60.0
#: Seconds that the end may take.
CLOSING = 1.0


class Rejected(Exception):
    """This message will never be taken."""


class Channel:
    """Hands messages on, one by one and in order.

    While they cannot be, the first is tried again, later and later; where more than LIMIT wait, the oldest is dropped.
    """

    def __init__(
        self,
        name: str,
        deliver: Callable[[bytes], None],
        metrics: Metrics,
        *,
        limit: int = LIMIT,
        shortest: float = SHORTEST,
        longest: float = LONGEST,
    ) -> None:
        """Start its thread.

        Args:
            name: one of `metrics.OUTLETS`.
            deliver: called on the thread. An OSError of it may pass, after a `Rejected` the message is dropped.
            metrics: count what is dropped, and tries that failed.
            limit: messages that wait at most.
            shortest: seconds to the second try; they double with each one.
            longest: seconds between two tries at most.
        """
        self._name, self._deliver, self._limit = name, deliver, limit
        self._shortest, self._longest = shortest, longest
        self._dropped, self._failures = metrics.outlet_dropped.labels(name), metrics.outlet_failures.labels(name)
        self._waiting: deque[bytes] = deque()
        self._closing = False
        self._news = threading.Condition()
        self._thread = threading.Thread(target=self._run, name=f"faceinsight-{name}", daemon=True)
        self._thread.start()

    def put(self, message: bytes) -> None:
        """To be handed on."""
        with self._news:
            if len(self._waiting) >= self._limit:
                self._waiting.popleft()
                self._dropped.inc()
            self._waiting.append(message)
            self._news.notify()

    async def close(self) -> None:
        """Try what waits once more, for CLOSING seconds."""
        with self._news:
            self._closing = True
            self._news.notify()
        until = time.monotonic() + CLOSING
        while self._thread.is_alive() and time.monotonic() < until:
            await asyncio.sleep(0.02)

    def _run(self) -> None:
        delay = self._shortest
        while True:
            with self._news:
                self._news.wait_for(lambda: self._waiting or self._closing)
                if not self._waiting:
                    return
                message = self._waiting[0]
            try:
                self._deliver(message)
            except Rejected as e:
                self._failures.inc()
                self._dropped.inc()
                log.warning("%s: a message was dropped: %s", self._name, e)
            except OSError as e:
                self._failures.inc()
                if delay == self._shortest:
                    log.warning("%s: %s; tried again until it works", self._name, e)
                with self._news:
                    if self._news.wait_for(lambda: self._closing, delay):
                        return
                delay = min(2 * delay, self._longest)
                continue
            else:
                if delay != self._shortest:
                    log.info("%s: works again", self._name)
            delay = self._shortest
            with self._news:
                # The oldest may have been dropped meanwhile.
                if self._waiting and self._waiting[0] is message:
                    self._waiting.popleft()
