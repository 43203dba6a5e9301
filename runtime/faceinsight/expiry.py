"""Has faces wiped that nobody asked about for a while."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable

from .cache import FaceCache
from .language.generation import AnswerGenerator


class ExpiryTimer:
    """Wipes what the caches hold of a face `seconds` after its last use.

    A daemon thread sleeps while anything is held, and only then. It holds no reference to this object, nor this object
    to whoever forgets: both may be collected at any time.
    """

    def __init__(
        self,
        seconds: float | None,
        language: AnswerGenerator,
        caches: tuple[FaceCache, ...],
        forget: Callable[[], None],
    ) -> None:
        """Over these caches.

        Args:
            seconds: after which a face is wiped; None: never.
            language: whose lock guards the caches, and whose prefix tells when a face was last used.
            caches: of earlier faces.
            forget: a method that wipes everything.
        """
        self._seconds, self._language, self._caches = seconds, language, caches
        self._forget = weakref.WeakMethod(forget)
        self._timer: threading.Timer | None = None

    @property
    def is_running(self) -> bool:
        """Is anything waited for?"""
        return self._timer is not None and self._timer.is_alive()

    def start(self) -> None:
        """A face was used: have it wiped in time."""
        with self._language.lock:
            if self._seconds is not None and self._timer is None:
                self._wait(self._seconds)

    def cancel(self) -> None:
        """Wait for nothing any more."""
        if self._timer:
            self._timer.cancel()
            self._timer = None

    def _wait(self, seconds: float) -> None:
        expire = weakref.WeakMethod(self._expire)

        def wake() -> None:
            if method := expire():
                method()

        self._timer = threading.Timer(min(seconds, threading.TIMEOUT_MAX), wake)
        self._timer.daemon = True
        self._timer.start()

    def _expire(self) -> None:
        """Wipe what was not used for long, and come again as long as anything is held."""
        assert self._seconds is not None
        with self._language.lock:
            self._timer = None
            left = self._language.prefix.last_used + self._seconds - time.monotonic()
            if left > 0:
                for cache in self._caches:
                    cache.expire()
                self._wait(min(left, self._seconds / 4))
            elif forget := self._forget():
                forget()
