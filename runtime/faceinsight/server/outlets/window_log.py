"""Closed audience windows in a file: JSON Lines, a few files that take turns."""

from __future__ import annotations

import os
from collections.abc import Mapping
from io import FileIO
from pathlib import Path
from typing import Any

from ...errors import RequestError
from ..framing import ndjson
from ..metrics import Metrics
from .channel import Channel

#: Files in all, and bytes of each.
FILES, SIZE = 5, 10_000_000
#: A line has fewer bytes than this.
_LINE = 100_000


class WindowLog:
    """Appends a line for each window, whole or not at all; PATH is the newest file, PATH.4 the oldest."""

    def __init__(self, path: Path, metrics: Metrics, *, files: int = FILES, size: int = SIZE) -> None:
        """Raises RequestError where it could not be written."""
        folder = path.parent
        if not folder.is_dir() or not os.access(folder, os.W_OK) or (path.exists() and not path.is_file()):
            raise RequestError(f"--window-log {path}: expected a file in a folder that exists and may be written")
        self._path, self._files, self._size = path, files, size
        self._channel = Channel("window_log", self._append, metrics)

    def window(self, window: Mapping[str, Any]) -> None:
        """A line."""
        self._channel.put(ndjson(window))

    def state(self, state: Mapping[str, Any]) -> None:
        """Is not logged."""

    async def close(self) -> None:
        """Write what waits."""
        await self._channel.close()

    def _append(self, line: bytes) -> None:
        """Raises OSError where it cannot be written: no space, no folder."""
        if self._path.exists() and self._path.stat().st_size + len(line) > self._size:
            self._rotate()
        with FileIO(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+") as file:
            end = _whole_lines(file)
            try:
                if file.write(line) != len(line):
                    raise OSError("no space is left for a whole line")
                os.fsync(file.fileno())
            except OSError:
                file.truncate(end)
                raise

    def _rotate(self) -> None:
        for i in range(self._files - 1, 0, -1):
            older = self._path.with_name(f"{self._path.name}.{i}")
            newer = self._path.with_name(f"{self._path.name}.{i - 1}") if i > 1 else self._path
            if newer.exists():
                newer.replace(older)


def _whole_lines(file: FileIO) -> int:
    """Cut the part of a line that a power failure left; returns the size, and stands there."""
    size = file.seek(0, os.SEEK_END)
    begin = file.seek(max(0, size - _LINE))
    tail = file.read()
    end = begin + tail.rfind(b"\n") + 1
    # A file without any line break is cut only where it can be ours.
    if end < size and (end > begin or (begin == 0 and tail.startswith(b"{"))):
        file.truncate(end)
    return file.seek(0, os.SEEK_END)
