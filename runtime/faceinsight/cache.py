"""What is kept of faces between questions: in memory only, bounded, and wiped."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

#: Megabytes that earlier faces may take, where nobody says otherwise.
CACHE_MB = 256


class FaceCache:
    """Arrays by key. The least recently used leave where `limit` bytes are exceeded; `expire` wipes the old ones."""

    def __init__(
        self, limit: int, seconds: float | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """limit: bytes, 0 keeps nothing; seconds: how long after its last use an array is kept, None for ever."""
        self._limit, self._seconds, self._clock = limit, seconds, clock
        self._entries: OrderedDict[str, tuple[NDArray[Any], float]] = OrderedDict()
        self.bytes = 0

    def __contains__(self, key: str) -> bool:
        return key in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: str) -> NDArray[Any] | None:
        """The array, which counts as used now; None if it is not, or no longer, kept."""
        if key not in self._entries:
            return None
        array, _ = self._entries.pop(key)
        self._entries[key] = array, self._clock()
        return array

    def put(self, key: str, array: NDArray[Any], *, used: float | None = None) -> None:
        """Keep an array, unless it alone is beyond the limit. It is overwritten with zeros when it leaves.

        used: when it was, by the clock; by default now.
        """
        self._drop(key)
        if array.nbytes > self._limit:
            return
        self._entries[key] = array, self._clock() if used is None else used
        self.bytes += array.nbytes
        while self.bytes > self._limit:
            self._drop(next(iter(self._entries)))

    def expire(self) -> None:
        """Wipe what was not used for too long."""
        if self._seconds is None:
            return
        oldest = self._clock() - self._seconds
        for key in [k for k, (_, used) in self._entries.items() if used <= oldest]:
            self._drop(key)

    def wipe(self) -> None:
        """Wipe everything."""
        for key in list(self._entries):
            self._drop(key)

    def _drop(self, key: str) -> None:
        if key in self._entries:
            array, _ = self._entries.pop(key)
            self.bytes -= array.nbytes
            array.fill(0)
