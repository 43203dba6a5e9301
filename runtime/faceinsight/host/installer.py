"""Writes files of the system, whole or not at all, and takes them away."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath


@dataclass(frozen=True, slots=True)
class File:
    """A file of the system.

    Attributes:
        path: from the root of the file system.
        text: what it has.
        mode: its permissions.
    """

    path: PurePosixPath
    text: str
    mode: int = 0o644


@dataclass(frozen=True, slots=True)
class Change:
    """What was done to a path: "written", "replaced", "unchanged" or "removed".

    Attributes:
        original: where a file lies now that was replaced.
    """

    path: Path
    done: str
    original: Path | None = None

    def __str__(self) -> str:
        return f"{self.done:<10}{self.path}" + (f", the first one is {self.original}" if self.original else "")


def install(files: Iterable[File], root: Path) -> Iterator[Change]:
    """Write files below a root. What is there and differs is saved as NAME.orig, unless there is one.

    Raises:
        OSError: a file cannot be written; those before it are.
    """
    for file in files:
        path = root / file.path.relative_to("/")
        content = file.text.encode()
        if path.is_file() and path.read_bytes() == content and path.stat().st_mode & 0o777 == file.mode:
            yield Change(path, "unchanged")
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        original = _original(path)
        replaced = path.exists()
        if replaced and not original.exists():
            _write(original, path.read_bytes(), path.stat().st_mode & 0o777)
        _write(path, content, file.mode)
        yield Change(path, "replaced", original) if replaced else Change(path, "written")


def remove(paths: Iterable[PurePosixPath], root: Path) -> Iterator[Change]:
    """Take away those of the files that are there. A NAME.orig stays."""
    for path in (root / p.relative_to("/") for p in paths):
        if path.exists():
            path.unlink()
            yield Change(path, "removed")


def _folder(path: Path) -> Path:
    """For other files than this one: Chromium takes every file of `managed` for policies, whatever its name."""
    return path.parent.parent if path.parent.name == "managed" else path.parent


def _original(path: Path) -> Path:
    return _folder(path) / f"{path.name}.orig"


def _write(path: Path, content: bytes, mode: int) -> None:
    """Also if the power fails, a reader finds the old file or the new one."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=_folder(path))
    try:
        with os.fdopen(descriptor, "wb") as f:
            f.write(content)
            os.fchmod(f.fileno(), mode)
            f.flush()
            os.fsync(f.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink()
        raise
