"""The one lane to the worker: first come, first served, and so many may wait."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque

from .errors import ApiError, queue_full

#: Weight of the last request in the mean, and what is assumed of the first one, in seconds.
_WEIGHT, _FIRST = 0.2, 1.0
_LONGEST = 120


class Lane:
    """Whoever has it may use the worker.

    Attributes:
        limit: how many may wait.
        service: mean seconds that one has it.
    """

    def __init__(self, limit: int) -> None:
        """limit: how many may wait beside the one that is served; 0: nobody."""
        self.limit, self.service = limit, _FIRST
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._busy, self._since = False, 0.0

    @property
    def depth(self) -> int:
        """How many wait."""
        return len(self._waiting)

    @property
    def idle(self) -> bool:
        """Does nobody have it, and nobody wait?"""
        return not self._busy and not self._waiting

    @property
    def retry_after(self) -> int:
        """Seconds until those who wait now will be served, as measured so far; at least 1."""
        left = max(0.0, self.service - (time.monotonic() - self._since)) if self._busy else 0.0
        return max(1, min(math.ceil(left + self.depth * self.service), _LONGEST))

    async def acquire(self) -> None:
        """Have it, once all before are served. Raises ApiError where too many wait, or as `close` was given."""
        if self.idle:
            self._take()
            return
        if self.depth >= self.limit:
            raise queue_full(self.retry_after)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn in self._waiting:
                self._waiting.remove(turn)
            elif turn.done() and not turn.cancelled() and not turn.exception():
                self.release()  # it was this one's turn just now
            raise

    def release(self) -> None:
        """Give it to the next."""
        self.service += _WEIGHT * (time.monotonic() - self._since - self.service)
        self._busy = False
        while self._waiting and not self._busy:
            turn = self._waiting.popleft()
            if not turn.done():
                self._take()
                turn.set_result(None)

    def close(self, error: ApiError) -> None:
        """Whoever waits is told so."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_exception(error)

    def _take(self) -> None:
        self._busy, self._since = True, time.monotonic()
