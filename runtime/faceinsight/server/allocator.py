"""Freed memory is overwritten by the C library itself: what was asked does not stay behind in it.

Python never overwrites what it frees, and a request's bytes lie in many places (the socket's buffers, the body, the
decoded picture, the words of the question). glibc can do it for all of them, where it is told before a process starts:
so the server starts itself once more.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping

from ..host.child import interpreter

#: Python's small objects go to glibc too, which fills what is freed (perturb) and keeps no list of small pieces that it
#: does not fill (tcache). Neither costs a millisecond of a report.
SETTINGS: Mapping[str, str] = {
    "PYTHONMALLOC": "malloc",
    "GLIBC_TUNABLES": "glibc.malloc.perturb=165:glibc.malloc.tcache_count=0",
}


def overwrites_freed() -> bool:
    """Does this process overwrite what it frees?"""
    return all(os.environ.get(name) == value for name, value in SETTINGS.items()) and _is_glibc()


def restart_overwriting() -> None:
    """Start this process again with these settings, under the same number; returns where that cannot be (another C
    library, a frozen app), or where the user has settings of their own."""
    python = interpreter()
    if python is None or not _is_glibc() or any(name in os.environ for name in SETTINGS):
        return
    os.execve(python, [python, *sys.orig_argv[1:]], {**os.environ, **SETTINGS})


def _is_glibc() -> bool:
    return platform.libc_ver()[0] == "glibc"
