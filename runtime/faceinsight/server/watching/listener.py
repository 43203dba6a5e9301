"""Somebody who is sent the camera's events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

#: Messages that may wait for a listener.
MAX_WAITING = 100


class Listener:
    """Somebody who is sent events: of the people in each frame only the newest message, all others in order."""

    def __init__(self, preview: int) -> None:
        """preview: width of the pictures wanted; 0: none."""
        self.preview = preview
        self._newest: bytes | None = None
        self._waiting: list[bytes] = []
        self._there = asyncio.Event()

    def put(self, message: bytes, *, newest_only: bool) -> None:
        """For this one."""
        if newest_only:
            self._newest = message
        else:
            self._waiting = [*self._waiting, message][-MAX_WAITING:]
        self._there.set()

    def drop(self) -> None:
        """What it has not taken of people is not for it any more."""
        self._newest = None

    async def messages(self) -> AsyncGenerator[bytes, None]:
        """As they come, until the task is cancelled or there is an empty one."""
        while True:
            await self._there.wait()
            self._there.clear()
            waiting, self._waiting = self._waiting, []
            newest, self._newest = self._newest, None
            for message in (*waiting, *([newest] if newest else [])):
                if not message:
                    return
                yield message
