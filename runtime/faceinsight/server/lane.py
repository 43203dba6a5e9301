"""The one lane to the worker: so many may wait, interactive requests before batch ones, else in order."""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import dataclass

from .errors import ApiError, queue_full

#: Weight of the last request in the mean, and what is assumed of the first one, in seconds.
_WEIGHT, _FIRST = 0.2, 1.0
_LONGEST = 120
#: Ranks of those who wait, best first: the server itself, somebody who waits for an answer, a batch, a camera's frame.
SERVER, INTERACTIVE, BATCH, FRAME = range(4)


@dataclass(frozen=True, slots=True)
class _Turn:
    rank: int
    granted: asyncio.Future[None]


class Lane:
    """Whoever has it may use the worker.

    Attributes:
        limit: how many may wait.
        service: mean seconds that one has it.
    """

    def __init__(self, limit: int) -> None:
        """limit: how many may wait beside the one that is served; 0: nobody."""
        self.limit, self.service = limit, _FIRST
        self._waiting: list[_Turn] = []
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

    def require_room(self, rank: int = INTERACTIVE) -> None:
        """Raises ApiError where a request of this rank would be turned away."""
        full = not self.idle and self.depth >= self.limit and rank != SERVER
        if full and not any(turn.rank > rank for turn in self._waiting):
            raise queue_full(self.retry_after)

    async def acquire(self, rank: int = INTERACTIVE) -> None:
        """Have it, once all before are served. Where too many wait, the last one of a worse rank is turned away.

        Raises ApiError for whoever is turned away, and as `close` was given.
        """
        self.require_room(rank)
        if self.idle:
            self._take()
            return
        turn = _Turn(rank, asyncio.get_running_loop().create_future())
        self._waiting.insert(sum(other.rank <= rank for other in self._waiting), turn)
        if self.depth > self.limit and rank != SERVER:
            self._refuse(self._waiting.pop(), queue_full(self.retry_after))
        try:
            await turn.granted
        except asyncio.CancelledError:
            if turn in self._waiting:
                self._waiting.remove(turn)
            elif turn.granted.done() and not turn.granted.cancelled() and not turn.granted.exception():
                self.release()  # it was this one's turn just now
            raise

    def release(self) -> None:
        """Give it to the next."""
        self.service += _WEIGHT * (time.monotonic() - self._since - self.service)
        self._busy = False
        while self._waiting and not self._busy:
            turn = self._waiting.pop(0)
            if not turn.granted.done():
                self._take()
                turn.granted.set_result(None)

    def close(self, error: ApiError) -> None:
        """Whoever waits is told so."""
        while self._waiting:
            self._refuse(self._waiting.pop(), error)

    @staticmethod
    def _refuse(turn: _Turn, error: ApiError) -> None:
        if not turn.granted.done():
            turn.granted.set_exception(error)

    def _take(self) -> None:
        self._busy, self._since = True, time.monotonic()
