"""Forks of a process that has loaded a bundle, and its end.

Of a fork, native threads stay behind in the parent, and so does who holds a lock.
Whatever waits for one of them in the child waits for ever: a call, and also a destructor when the child ends. So what
was loaded before a fork is neither used in the child, where every call raises (`OwnLock`), nor freed (`never_freed`).
A child may load a bundle of its own: OpenMP's threads, which llama.cpp calls by the process and not by the model, are
ended before each fork.

When a process ends, Python ends daemon threads where they next ask for its own lock: inside of ONNX Runtime, or OpenCV,
that aborts. So who is in there is waited for, and nobody goes in again.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from ..errors import RequestError

_SPAWN = "load it after the fork, or start processes with multiprocessing's 'spawn' or 'forkserver'"
_HARD = 2  # omp_pause_hard
#: Seconds that the end waits for calls in other threads.
PATIENCE = 5.0

_locks: weakref.WeakSet[OwnLock] = weakref.WeakSet()
_unfreed: weakref.WeakSet[Any] = weakref.WeakSet()
#: The process that has threads of llama.cpp's, if any has; its library; whether they can be ended before a fork, and
#: were before the last one.
_process: int | None = None
_library: Any = None
_on_gpu = False
_ended = False
#: Calls under way that `awaited` counts; whether the process ends.
_changed = threading.Condition()
_inside = 0
_leaving = False


class OwnLock:
    """Call it for a lock among the threads of the process that made it; in a fork of that process it raises."""

    def __init__(self) -> None:
        """Of this process."""
        self._lock, self._process = threading.RLock(), os.getpid()
        _locks.add(self)

    def __call__(self) -> AbstractContextManager[Any]:
        """The lock. Raises RequestError in a fork: whoever held it at that moment is not there to give it back."""
        if self.inherited:
            raise RequestError(
                f"this FaceInsight was loaded by process {self._process}, of which this one is a fork: {_SPAWN}"
            )
        return self._lock

    def take(self, timeout: float) -> None:
        """Have it, and never give it back."""
        if not self.inherited:
            self._lock.acquire(timeout=timeout)

    @property
    def inherited(self) -> bool:
        """Is this a fork of the process that made it?"""
        return os.getpid() != self._process


@contextmanager
def awaited() -> Iterator[None]:
    """Around native code that no OwnLock guards, and that may wait itself: the end of the process waits for it."""
    global _inside
    with _changed:
        while _leaving and threading.current_thread() is not threading.main_thread():
            _changed.wait()
        _inside += 1
    try:
        yield
    finally:
        with _changed:
            _inside -= 1
            _changed.notify_all()


def never_freed(native: Any) -> None:
    """Do not free this object in a fork: its destructor waits for threads, or speaks to a GPU that is the parent's."""
    _unfreed.add(native)


def starts_threads(library: Any, *, gpu: bool) -> None:
    """llama.cpp is about to be used in this process. Raises RequestError in a fork in which that cannot work.

    library: its ctypes.CDLL; gpu: CUDA does not survive a fork.
    """
    global _process, _library, _on_gpu
    if _process not in (None, os.getpid()):
        raise RequestError(f"this process is a fork of process {_process}, which had loaded a bundle: {_SPAWN}")
    _process, _library, _on_gpu = os.getpid(), library, _on_gpu or gpu


def _end_threads() -> bool:
    """Have OpenMP end the threads that it keeps for the calling one; it starts others when it needs them."""
    if not hasattr(_library, "omp_get_max_threads"):
        return True  # built without OpenMP: no thread outlives a call
    pause = getattr(_library, "omp_pause_resource_all", None)
    return pause is not None and pause(_HARD) == 0


def _before_fork() -> None:
    global _ended
    if _process == os.getpid():
        _ended = not _on_gpu and _end_threads()


def _in_child() -> None:
    global _process, _changed, _inside
    _changed, _inside = threading.Condition(), 0
    for native in list(_unfreed):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(native))
    if _ended:
        _process = None


@atexit.register
def _at_exit() -> None:
    global _leaving
    until = time.monotonic() + PATIENCE
    with _changed:
        _leaving = True
        _changed.wait_for(lambda: _inside == 0, PATIENCE)
    for lock in list(_locks):
        lock.take(max(0.0, until - time.monotonic()))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_child=_in_child)
