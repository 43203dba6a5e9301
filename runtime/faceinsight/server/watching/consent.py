"""Whether the camera may be read: where people are asked first, only after they agreed, and for a limited time."""

from __future__ import annotations

import time
from collections.abc import Callable


class Consent:
    """What the people in front of the camera said.

    Attributes:
        asked: are they asked at all? Where not, the camera may always be read.
        seconds: for which a consent holds, unless it is renewed.
    """

    def __init__(self, *, asked: bool, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Nobody has agreed yet."""
        self.asked, self.seconds = asked, seconds
        self._clock, self._until = clock, -1.0

    @property
    def state(self) -> str:
        """One of "not_asked", "open", "closed"."""
        return "not_asked" if not self.asked else "open" if self.holds else "closed"

    @property
    def left(self) -> float:
        """Seconds until it ends; 0 where there is none."""
        return max(0.0, self._until - self._clock())

    @property
    def holds(self) -> bool:
        """May the camera be read?"""
        return not self.asked or self.left > 0

    def give(self) -> None:
        """Somebody agreed, or agrees still."""
        self._until = self._clock() + self.seconds

    def withdraw(self) -> None:
        """Nobody agrees any more."""
        self._until = -1.0
